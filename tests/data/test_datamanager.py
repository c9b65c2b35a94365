import json
import shutil
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
import torch
import tyro
import yaml
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from torch import Tensor

from gnerf_ns.data.datamanager import UnposedDataManager, UnposedDataManagerConfig
from gnerf_ns.data.dataparser import LENS_ORIGIN_KEY, LENS_SOURCE_KEY, UnposedDataParserConfig
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.orientation import ORIENTATIONS_KEY
from gnerf_ns.utils.errors import InputError


def config_for(data: Path, **options) -> UnposedDataManagerConfig:
    return UnposedDataManagerConfig(data=data, eval_num_rays_per_batch=16, **{"max_image_side": 16, **options})


def random_poses(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(seed))


def random_cameras(dataset: UnposedDataset, seed: int = 0) -> Cameras:
    """The dataset's, with poses and focal lengths of their own."""
    cameras = dataset.given_cameras[...]
    cameras.camera_to_worlds = random_poses(len(dataset), seed)
    cameras.fx, cameras.fy = 1.5 * cameras.fx, 1.25 * cameras.fy
    return cameras


def publish(manager: UnposedDataManager) -> Tuple[Cameras, Cameras]:
    cameras = random_cameras(manager.train_dataset), random_cameras(manager.eval_dataset, seed=1)
    manager.publish_cameras(*cameras)
    return cameras


def test_batches(blender_folder: Path):
    manager: UnposedDataManager = config_for(blender_folder).setup()
    manager.report_rays_per_step(64)
    assert isinstance(manager, VanillaDataManager), "ns-render spiral and ns-export insist on it"
    assert manager.train_images.pixels.shape == (8, 16, 16, 4) and manager.eval_images.pixels.shape == (4, 16, 16, 4)
    bundle, batch = manager.next_train(0)
    assert bundle.origins.shape == (64, 3) and batch["image"].shape == (64, 3)
    images = torch.stack([manager.train_dataset[index]["image"] for index in range(8)])
    index, row, column = batch["indices"].T
    torch.testing.assert_close(batch["image"], images[index, row, column], atol=1e-6, rtol=0)
    assert len(index.unique()) > 3
    bundle, batch = manager.next_eval(0)
    assert bundle.origins.shape == (16, 3)
    camera, batch = manager.next_eval_image(0)
    assert camera.shape == (1,) and batch["image"].shape == (16, 16, 3)
    assert len(list(manager.fixed_indices_eval_dataloader)) == 4
    assert manager.train_dataset.metadata["num_eval_images"] == 4
    assert manager.get_train_rays_per_batch() == 64 and manager.get_eval_rays_per_batch() == 16


def tensors_within(thing, depth: int = 14, seen=None):
    """Every tensor or array reachable from an object's attributes."""
    seen = set() if seen is None else seen
    if depth == 0 or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, (torch.Tensor, np.ndarray)):
        yield torch.as_tensor(thing)
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_within(value, depth - 1, seen)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield from tensors_within(value, depth - 1, seen)
    elif hasattr(thing, "__dict__"):
        yield from tensors_within(vars(thing), depth - 1, seen)


def parser_for(kind: str):
    return {"ours": UnposedDataParserConfig, "blender": BlenderDataParserConfig}[kind]()


@pytest.mark.parametrize("kind", ["ours", "blender"])
@pytest.mark.parametrize("test_mode", ["val", "test", "inference"])
def test_ground_truth_is_nowhere_but_aside(blender_folder: Path, kind: str, test_mode):
    manager = config_for(blender_folder, dataparser=parser_for(kind)).setup(test_mode=test_mode)
    train, held_out = manager.train_ground_truth, manager.eval_ground_truth
    torch.testing.assert_close(train[:, :, 3].norm(dim=-1), torch.full((8,), 4.0))
    torch.testing.assert_close(held_out[:, :, 3].norm(dim=-1), torch.full((4,), 6.0))
    poses = [*train, *held_out]
    del manager.train_ground_truth, manager.eval_ground_truth
    found = 0
    for tensor in tensors_within(manager):
        if tensor.shape[-2:] in ((3, 4), (4, 4)):
            found += 1
            for matrix in tensor.reshape(-1, *tensor.shape[-2:])[:, :3]:
                assert not any(torch.allclose(matrix.float(), pose) for pose in poses)
    assert found >= 4, "the search must reach the cameras"


def drop_from(path: Path, key: str) -> None:
    meta = json.loads(path.read_text())
    del meta[key]
    path.write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_text(path.read_text()[:100]), "JSONDecodeError"),
        (lambda path: path.write_text("[1]"), "TypeError"),
        (lambda path: path.unlink(), "FileNotFoundError"),
        (lambda path: drop_from(path, "frames"), "KeyError: 'frames'"),
        (lambda path: drop_from(path, "camera_angle_x"), "KeyError: 'camera_angle_x'"),
    ],
)
def test_a_stock_parsers_complaints_are_one_sentence(blender_folder: Path, spoil, reason: str):
    spoil(blender_folder / "transforms_train.json")
    with pytest.raises(InputError, match=reason) as error:
        config_for(blender_folder, dataparser=BlenderDataParserConfig()).setup()
    text = str(error.value)
    assert str(blender_folder) in text and "dataparser Blender" in text and "\n" not in text and text.endswith(".")


def test_a_broken_held_out_split_of_a_stock_parser(blender_folder: Path):
    (blender_folder / "transforms_test.json").write_text("{")
    with pytest.raises(InputError, match="JSONDecodeError"):
        config_for(blender_folder, dataparser=BlenderDataParserConfig()).setup()
    for split in ("test", "val"):
        (blender_folder / f"transforms_{split}.json").unlink()
    with pytest.raises(InputError, match=r"transforms_val\.json"):
        config_for(blender_folder, dataparser=BlenderDataParserConfig()).setup()


def test_images_that_a_stock_parser_does_not_find(nerfstudio_folder: Path):
    path = nerfstudio_folder / "transforms.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "train_filenames": ["images/none.jpg"]}))
    with pytest.raises(InputError, match="RuntimeError: Some filenames for split train were not found"):
        config_for(nerfstudio_folder, dataparser=NerfstudioDataParserConfig()).setup()


def test_errors_after_parsing_are_nobodys_input(blender_folder: Path, monkeypatch):
    def fail(self):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(UnposedDataManager, "setup_train", fail)
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory$"):
        config_for(blender_folder).setup()


def test_nerfstudio_data(nerfstudio_folder: Path):
    manager = config_for(nerfstudio_folder, dataparser=NerfstudioDataParserConfig(eval_mode="interval")).setup()
    assert (len(manager.train_dataset), len(manager.eval_dataset)) == (14, 2)
    assert manager.train_images.pixels.shape == (14, 16, 12, 3)
    cameras = manager.train_dataset.cameras
    torch.testing.assert_close(cameras.fx[0], torch.tensor([50.0 * 12 / 30]))
    torch.testing.assert_close(cameras.cy[0], torch.tensor([21.0 * 16 / 40]))
    assert manager.train_ground_truth.shape == (14, 3, 4)
    assert (cameras.camera_to_worlds == cameras.camera_to_worlds[0]).all()
    # The learned frame is not the parser's: its transform, scale and box must not be applied to estimated poses.
    assert manager.train_dataparser_outputs.dataparser_scale == 1.0
    torch.testing.assert_close(manager.train_dataparser_outputs.dataparser_transform, torch.eye(4)[:3])
    assert float(manager.train_dataset.scene_box.aabb.abs().max()) == 1.0


def test_colmap(nerfstudio_folder: Path):
    model = nerfstudio_folder / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 OPENCV 30 40 50 51 14 21 0.05 0 0 0.001\n")
    lines = []
    for index in range(16):
        half = np.pi * index / 16
        lines += [f"{index + 1} {np.cos(half)} 0 {np.sin(half)} 0 0 0 4 1 {index:04d}.jpg", ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("1 0 0 0 255 0 0 0.5\n2 1 0 0 255 0 0 0.5\n")
    parser = ColmapDataParserConfig(colmap_path=Path("colmap/sparse/0"), downscale_factor=1)
    manager = config_for(nerfstudio_folder, dataparser=parser).setup()
    assert len(manager.train_dataset) + len(manager.eval_dataset) == 16
    assert manager.train_ground_truth.shape == (len(manager.train_dataset), 3, 4)
    # The reconstructed points are truth as well.
    assert manager.train_dataset.metadata.keys() == {
        "num_eval_images",
        LENS_SOURCE_KEY,
        LENS_ORIGIN_KEY,
        ORIENTATIONS_KEY,
    }


def test_one_held_out_split_in_all_modes(blender_folder: Path):
    """The checkpoint holds a pose for each held-out image, and nerfstudio opens it in any mode."""
    for kind in ("ours", "blender"):
        for mode in ("val", "test", "inference"):
            manager = config_for(blender_folder, dataparser=parser_for(kind)).setup(test_mode=mode)
            assert {path.parent.name for path in manager.eval_dataset.image_filenames} == {"test"}
    (blender_folder / "transforms_test.json").unlink()
    manager = config_for(blender_folder, dataparser=parser_for("blender")).setup(test_mode="test")
    assert {path.parent.name for path in manager.eval_dataset.image_filenames} == {"val"}


@pytest.mark.parametrize("test_mode", ["val", "test", "inference"])
def test_published_cameras_reach_every_copy(blender_folder: Path, test_mode, monkeypatch):
    config = config_for(blender_folder)
    manager: UnposedDataManager = config.setup(test_mode=test_mode)
    train, held_out = publish(manager)
    places = {
        "train_dataset": (manager.train_dataset, train),
        "eval_dataset": (manager.eval_dataset, held_out),
        "train_dataparser_outputs": (manager.train_dataparser_outputs, train),
        "outputs within the dataset": (manager.train_dataset._dataparser_outputs, train),
        "outputs within the eval dataset": (manager.eval_dataset._dataparser_outputs, held_out),
    }
    if test_mode != "inference":
        places["train_ray_generator"] = (manager.train_ray_generator, train)
        places["eval_ray_generator"] = (manager.eval_ray_generator, held_out)
        places["eval_dataloader"] = (manager.eval_dataloader, held_out)
        places["fixed_indices_eval_dataloader"] = (manager.fixed_indices_eval_dataloader, held_out)
        bundle, batch = manager.next_train(0)
        torch.testing.assert_close(bundle.origins, train.camera_to_worlds[batch["indices"][:, 0], :, 3])
        camera, _ = next(iter(manager.fixed_indices_eval_dataloader))
        torch.testing.assert_close(camera.camera_to_worlds, held_out.camera_to_worlds[:1])
    for place, (holder, expected) in places.items():
        for name in ("camera_to_worlds", "fx", "fy", "cx", "cy"):
            torch.testing.assert_close(getattr(holder.cameras, name), getattr(expected, name), msg=place)
    # What `ns-render dataset` does: new datamanagers from the same config, without set-up.
    with monkeypatch.context() as patch:
        patch.setattr(config._target, "setup_train", lambda self: None)
        patch.setattr(config._target, "setup_eval", lambda self: None)
        again = config.setup(test_mode="test")
    torch.testing.assert_close(again.train_dataset.cameras.camera_to_worlds, train.camera_to_worlds)
    torch.testing.assert_close(again.eval_dataset.cameras.fx, held_out.fx)
    full = config.setup(test_mode="val")
    torch.testing.assert_close(full.fixed_indices_eval_dataloader.cameras.camera_to_worlds, held_out.camera_to_worlds)


def test_published_cameras_are_copies(blender_folder: Path):
    manager = config_for(blender_folder).setup()
    cameras = random_cameras(manager.train_dataset)
    poses = cameras.camera_to_worlds = random_poses(8).requires_grad_()
    manager.publish_cameras(cameras)
    with torch.no_grad():
        poses.zero_()
    published = manager.train_dataset.cameras.camera_to_worlds
    assert published.any() and not published.requires_grad
    _, held_out = publish(manager)
    manager.publish_cameras(random_cameras(manager.train_dataset))
    torch.testing.assert_close(manager.config.published_cameras.eval.camera_to_worlds, held_out.camera_to_worlds)


def test_cameras_of_other_images(blender_folder: Path, nerfstudio_folder: Path):
    """Such as those of `ns-render dataset --data OTHER`."""
    config = config_for(blender_folder)
    publish(config.setup())
    config.data = nerfstudio_folder
    with pytest.raises(InputError, match="none of its 12 images is among the 16 that are there"):
        config.setup()


def test_cameras_of_as_many_other_images(blender_folder: Path, tmp_path: Path):
    config = config_for(blender_folder)
    publish(config.setup())
    config.data = tmp_path / "copy"
    shutil.copytree(blender_folder, config.data)
    config.setup()
    first, second = sorted((config.data / "train").iterdir())[:2]
    shutil.copy(first, second)
    with pytest.raises(InputError, match=f"train/{second.name} has other content"):
        config.setup()


def test_cameras_of_another_number_of_images(blender_folder: Path):
    manager = config_for(blender_folder).setup()
    with pytest.raises(InputError, match="There are poses for 4 training images, but the data has 8 of them"):
        manager.publish_cameras(manager.eval_dataset.given_cameras)


@pytest.mark.parametrize("test_mode", ["val", "inference"])
def test_checkpoints_are_told_which_images_they_are_of(blender_folder: Path, test_mode: str):
    manager = config_for(blender_folder).setup(test_mode=test_mode)
    state = manager.state_dict()["_extra_state"]
    listed = state["train"] + state["held_out"]
    assert [Path(name).parts[0] for name, *_ in listed] == ["train"] * 8 + ["test"] * 4
    assert {(mask, round(focal_length, 4)) for _, _, mask, focal_length in listed} == {("", 1.3698)}  # 0.5 / tan(0.35)
    assert state["folder"] == str(blender_folder)
    manager.load_state_dict({"_extra_state": state})


def test_files_that_change_while_they_are_trained_on_are_known_as_they_were(blender_folder: Path):
    manager = config_for(blender_folder).setup(test_mode="val")
    (blender_folder / "train").rename(blender_folder / "elsewhere")
    assert len(manager.state_dict()["_extra_state"]["train"]) == 8


def test_no_held_out_images(blender_folder: Path):
    for split in ("test", "val"):
        (blender_folder / f"transforms_{split}.json").unlink()
    manager = config_for(blender_folder, dataparser=UnposedDataParserConfig(eval_interval=0)).setup()
    assert len(manager.train_dataset) == 8 and len(manager.eval_dataset) == 0
    assert len(manager.eval_images) == 0
    publish(manager)
    manager.report_rays_per_step(64)
    assert manager.next_train(0)[1]["image"].shape == (64, 3)


def test_alpha_color_none_hands_on_rgba(blender_folder: Path):
    manager = config_for(blender_folder, dataparser=UnposedDataParserConfig(alpha_color=None)).setup()
    manager.report_rays_per_step(64)
    assert manager.next_train(0)[1]["image"].shape == (64, 4)
    assert manager.next_eval_image(0)[1]["image"].shape == (16, 16, 4)


def test_a_broken_image_ends_a_training_before_it_starts(image_folder):
    folder = image_folder()
    path = folder / "view_04.png"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"view_04\.png cannot be decoded"):
        config_for(folder).setup(test_mode="val")
    config_for(folder).setup(test_mode="inference")  # opening a finished run reads no image


def test_pixels_are_drawn_inside_padded_images(image_folder):
    folder = image_folder()
    for path in list(folder.glob("*.png"))[::2]:
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    manager = config_for(folder, max_image_side=32).setup()
    manager.report_rays_per_step(2000)
    assert manager.train_images.extents is not None
    for images, (_, batch) in (
        (manager.train_images, manager.next_train(0)),
        (manager.eval_images, manager.next_eval(0)),
    ):
        index, row, column = batch["indices"].T
        inside = images.validity(images.height, images.width)
        assert inside is not None and bool((inside[index, row, column] > 0).all())


def test_what_images_show_is_looked_at_before_a_training(image_folder):
    folder = image_folder()
    for path in folder.glob("*.png"):
        Image.new("RGB", (32, 24), "gray").save(path)
    with pytest.raises(InputError, match="All 10 images are of a single color"):
        config_for(folder).setup(test_mode="val")


def test_a_mask_of_another_size(image_folder):
    folder = image_folder()
    (folder / "masks").mkdir()
    for path in sorted(folder.glob("*.png")):
        Image.fromarray(np.full((24, 31), 255, dtype=np.uint8)).save(folder / "masks" / path.name)
    with pytest.raises(InputError, match=r"view_01\.png has 31x24 pixels, but its image"):
        config_for(folder).setup()


def test_config_survives_yaml(blender_folder: Path, monkeypatch):
    """Saved as ns-train saves it and opened as ns-eval opens it, from another folder."""
    monkeypatch.chdir(blender_folder.parent)
    config = config_for(Path("blender"), dataparser=UnposedDataParserConfig(fov_deg=33.0))
    text = yaml.dump(config)
    publish(config.setup())
    assert "published" not in yaml.dump(config), "poses belong to the checkpoint"
    monkeypatch.chdir("/")
    loaded = yaml.load(text, Loader=yaml.Loader)
    assert loaded.max_image_side == 16 and loaded.dataparser.fov_deg == 33.0
    assert loaded.data == blender_folder and loaded.published_cameras is None
    assert yaml.dump(loaded) == text
    assert len(loaded.setup().train_dataset) == 8


def test_command_line_has_our_options_and_not_the_poses(capsys):
    config = tyro.cli(UnposedDataManagerConfig, args=["--max-image-side", "64", "blender-data"])
    assert config.max_image_side == 64 and isinstance(config.dataparser, BlenderDataParserConfig)
    config = tyro.cli(UnposedDataManagerConfig, args=["unposed-data", "--fov-deg", "60"])
    assert isinstance(config.dataparser, UnposedDataParserConfig) and config.dataparser.fov_deg == 60.0
    assert isinstance(tyro.cli(UnposedDataManagerConfig, args=[]).dataparser, UnposedDataParserConfig)
    with pytest.raises(SystemExit):
        tyro.cli(UnposedDataManagerConfig, args=["--help"])
    shown = capsys.readouterr().out
    assert "--max-image-side" in shown
    for name in (
        "published",
        "num-rays-per-batch",
        "pixel-sampler",
        "patch-size",
        "sample-from",
        "repeat-images",
        "image-indices",
        "on-gpu",
    ):
        assert name not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_num_rays_per_batch", 4096),
        ("train_num_images_to_sample_from", 10),
        ("patch_size", 8),
        ("images_on_gpu", True),
    ],
)
def test_options_without_effect_are_refused(blender_folder: Path, name: str, value):
    with pytest.raises(InputError, match=f"--pipeline.datamanager.{name.replace('_', '-')} has no effect") as error:
        config_for(blender_folder, **{name: value}).setup()
    assert "--pipeline.photometric.rays-per-step" in str(error.value)


@pytest.mark.parametrize(
    ("device", "shown", "side"),
    [
        ("cpu", "object", 100),
        ("cpu", "cut out", 235),
        ("cpu", "room", 240),
        ("cuda", "object", 800),
        ("cuda", "cut out", 800),
        ("cuda", "room", 800),
    ],
)
def test_default_image_side_follows_device_and_images(
    image_folder, monkeypatch: pytest.MonkeyPatch, device: str, shown: str, side: int
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # that there is a GPU is no reason
    suitable = UnposedDataManager._at_suitable_size

    def on_device(manager: UnposedDataManager, outputs: Any) -> UnposedDataset:
        here, manager.device = manager.device, torch.device(device)  # which need not be there
        dataset = suitable(manager, outputs)
        manager.device = here
        return dataset

    monkeypatch.setattr(UnposedDataManager, "_at_suitable_size", on_device)
    folder = image_folder()
    for number, path in enumerate(sorted(folder.iterdir())):
        noise = torch.randint(0, 256, (9, 9, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        picture, content = Image.new("RGB", (900, 600), "white"), Image.fromarray(noise.numpy())
        picture.paste(
            content.resize((900, 600) if shown == "room" else (300, 300)), (0, 0) if shown == "room" else (300, 150)
        )
        if shown == "cut out":  # 300 of 900 pixels, of which 80 are to be left
            alpha = Image.new("L", picture.size, 0)
            alpha.paste(255, (300, 150, 600, 450))
            picture.putalpha(alpha)
        picture.save(path)
    config = config_for(folder, max_image_side="auto")
    manager = config.setup()
    assert max(manager.train_dataset.image_format.size) == max(manager.eval_dataset.image_format.size) == side
    assert config.max_image_side == side  # as it is saved, so that a run is evaluated as it was trained
    if device == "cpu":
        assert manager.detail(None) == 1.0 and manager.detail(side // 2) == pytest.approx(0.5, abs=0.01)
        assert config_for(folder, max_image_side=2 * side).setup().detail(None) == pytest.approx(2.0, abs=0.06)
