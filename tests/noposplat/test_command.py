"""`gnerf-splat` with a network that knows the answer: what it says, writes and refuses, and who opens it."""

import json
import math
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plyfile
import pytest
import roma
import torch
import tyro
from made_surface import PerfectNetwork, photo, view_from
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.scripts import train
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.render import RenderInterpolated
from nerfstudio.utils.eval_utils import eval_setup
from PIL import ExifTags, Image
from torch import nn

from gnerf_ns.cameras.alignment import pose_errors
from gnerf_ns.cameras.look_at import poses_between
from gnerf_ns.data.dataparser import GROUND_TRUTH_KEY, UnposedDataParserConfig
from gnerf_ns.data.images import ImageSize
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.localize.command import Localize
from gnerf_ns.localize.localizer import LocalizerConfig
from gnerf_ns.localize.scene import TrainedScene, load_run
from gnerf_ns.noposplat import command, reconstruction
from gnerf_ns.noposplat.checkpoints import save_network
from gnerf_ns.noposplat.command import DOUBTFUL, NO_WEIGHTS, Splat, entrypoint
from gnerf_ns.noposplat.network import NoPoSplatNetwork, tiny_network
from gnerf_ns.pose_search.refinement import LocalizationConfig, RefinementConfig
from gnerf_ns.splats.axes import camera_to_worlds
from gnerf_ns.splats.ply import read_ply
from gnerf_ns.utils.errors import InputError

FOCAL = 60.0
FOV_DEG = math.degrees(2 * math.atan(32 / FOCAL))
VIEWS = [view_from((0, 0, 0), (0, 0, 0), 64, 48, FOCAL), view_from((0.5, 0.1, -0.1), (2, -8, 3), 64, 48, FOCAL)]
SCRIPTS = Path(sysconfig.get_path("scripts"))


def save(path: Path, image: torch.Tensor) -> Path:
    Image.fromarray((255 * image.permute(1, 2, 0).clamp(0, 1)).round().byte().numpy()).save(path)
    return path


class Run(NamedTuple):
    """What the command left behind."""

    folder: Path
    said: str


def quick(patch: pytest.MonkeyPatch, network: nn.Module) -> None:
    """The network instead of a checkpoint's, and no refinement: points alone tell the poses."""
    patch.setattr(command, "load_network", lambda path: network)
    patch.setattr(reconstruction, "COMPARISON_STEPS", 0)
    patch.setattr(reconstruction, "REFINEMENT_STEPS", 0)
    patch.setattr(command, "FILM_FRAMES", 8)
    patch.setattr("gnerf_ns.noposplat.splat_pictures.FILM_FRAMES", 8)
    patch.setattr("gnerf_ns.noposplat.splat_pictures.MIN_SHOWN_SIDE", 100)


def say(lines: Any) -> None:
    SAID.extend(lines)


SAID: list = []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("splat")
    paths = tuple(save(folder / f"photo{number}.png", photo(view)) for number, view in enumerate(VIEWS))
    (folder / "weights.ckpt").touch()
    SAID.clear()
    with pytest.MonkeyPatch.context() as patch:
        quick(patch, PerfectNetwork(VIEWS))
        patch.setattr(command, "_say", say)
        assert Splat(paths, folder / "weights.ckpt", folder / "out" / "run", FOV_DEG).main()
    return Run(folder / "out" / "run", "\n".join(SAID))


def found_poses(path: Path) -> torch.Tensor:
    """Of a run's folder, or of a transforms.json."""
    frames = json.loads((path / "transforms.json" if path.is_dir() else path).read_text())["frames"]
    return torch.tensor([frame["transform_matrix"] for frame in frames])[:, :3]


def test_it_says_what_it_found(run: Run):
    assert "2 photos; intrinsics from --fov-deg" in run.said and "Photos are brought to 64x48 pixels." in run.said
    assert "photo1.png: shown at 3" in run.said and "turned by 8.8 degrees from photo0.png" in run.said
    assert "do not seem" not in run.said


def test_cameras_are_in_nerfstudios_format_and_right(run: Run):
    meta = json.loads((run.folder / "transforms.json").read_text())
    assert meta["ply_file_path"] == "splat.ply"
    assert [frame["file_path"] for frame in meta["frames"]] == ["photos/0000_photo0.png", "photos/0001_photo1.png"]
    assert meta["frames"][0]["fl_x"] == pytest.approx(FOCAL) and meta["frames"][1]["photo"].endswith("photo1.png")
    poses = found_poses(run.folder)
    true = camera_to_worlds(torch.stack([view.world_to_camera for view in VIEWS]))
    errors = pose_errors(poses, true)
    assert errors.rotation_deg.max() < 0.2 and errors.translation.max() < 0.02
    assert poses[:, 2, 1].min() > 0.99  # z is up


def test_it_says_how_to_go_on(run: Run):
    trained_on = f"{run.folder / 'transforms_original.json'} --pipeline.poses given --pipeline.focal-length shared"
    assert f"  ns-train gnerf-ns --data {trained_on} unposed-data --min-images 2 --eval-interval 0" in run.said


def test_the_photos_themselves_have_the_same_cameras(run: Run):
    meta = json.loads((run.folder / "transforms_original.json").read_text())
    assert [Path(frame["file_path"]).name for frame in meta["frames"]] == ["photo0.png", "photo1.png"]
    assert all((run.folder / "images" / Path(frame["file_path"]).name).is_file() for frame in meta["frames"])
    assert meta["ply_file_path"] == "splat.ply"
    torch.testing.assert_close(found_poses(run.folder / "transforms_original.json"), found_poses(run.folder))


def test_photos_of_any_lens_and_size_are_trained_on_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One lies on its side, as its EXIF data say, and both are larger than the network's, with a lens that distorts."""
    files = []
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for number, view in enumerate(VIEWS):
        large = replace(view, focal=3 * view.focal, center=3 * view.center, width=192, height=144)
        picture = Image.fromarray((255 * photo(large).permute(1, 2, 0).clamp(0, 1)).round().byte().numpy())
        files.append(tmp_path / f"{number}.png")
        if number == 0:
            picture.transpose(Image.Transpose.ROTATE_90).save(files[0], exif=exif)
        else:
            picture.save(files[1])
    lens = {"fl_x": 181.0, "fl_y": 179.0, "cx": 98.0, "cy": 71.0, "w": 192, "h": 144, "k1": 0.01, "p1": 0.002}
    listed = {"camera_model": "OPENCV", **lens, "frames": [{"file_path": file.name} for file in files]}
    (tmp_path / "transforms.json").write_text(json.dumps(listed))
    quick(monkeypatch, PerfectNetwork(VIEWS))
    monkeypatch.setattr(command, "_say", say)
    (tmp_path / "weights.ckpt").touch()
    SAID.clear()
    Splat(tuple(files), tmp_path / "weights.ckpt", tmp_path / "run").main()
    assert not any("focal-length" in line for line in SAID)  # the lens is known
    written = tmp_path / "run" / "transforms_original.json"
    frames = {Path(frame["file_path"]).name: frame for frame in json.loads(written.read_text())["frames"]}
    # nerfstudio reads the pixels as they are stored.
    assert (frames["0.png"]["w"], frames["0.png"]["h"]) == (144, 192)
    assert (frames["0.png"]["fl_x"], frames["0.png"]["fl_y"]) == pytest.approx((179.0, 181.0))
    read = UnposedDataParserConfig(data=written, eval_interval=0, min_images=2).setup().get_dataparser_outputs("train")
    assert all(link.samefile(file) for link, file in zip(read.image_filenames, files, strict=True))
    assert read.cameras.distortion_params is not None
    for index in range(2):
        intrinsics = Intrinsics.of_camera(read.cameras, index)
        assert intrinsics.size == ImageSize(192, 144) and intrinsics.focal == pytest.approx((181.0, 179.0))
        assert intrinsics.center == pytest.approx((98.0, 71.0))
        assert intrinsics.distortion == pytest.approx((0.01, 0.0, 0.0, 0.0, 0.002, 0.0))
    torch.testing.assert_close(read.metadata[GROUND_TRUTH_KEY], found_poses(tmp_path / "run"), atol=1e-5, rtol=0.0)


def test_the_splat_is_read_by_others(run: Run):
    vertices = plyfile.PlyData.read(run.folder / "splat.ply")["vertex"]
    assert len(vertices.data) == 2 * 64 * 48
    gaussians = read_ply(run.folder / "splat.ply")
    assert np.allclose(vertices["x"], gaussians.means[:, 0]) and gaussians.opacities.mean() == pytest.approx(0.95)


def test_pictures_and_film_are_there(run: Run):
    with Image.open(run.folder / "photos.png") as image:
        assert image.size == (2 * 128, 2 * 96)
        pixels = np.asarray(image).astype(float)
    assert np.abs(pixels[:, :128] - pixels[:, 128:]).mean() < 10
    assert (run.folder / "film.mp4").read_bytes()[4:8] == b"ftyp"


def test_nerfstudio_evaluates_and_renders_it_wherever_it_was_moved(run: Run, tmp_path: Path, monkeypatch):
    moved = tmp_path / "elsewhere"
    shutil.copytree(run.folder, moved)
    away = run.folder.with_name("away")
    run.folder.rename(away)
    try:
        ComputePSNR(moved / "config.yml", tmp_path / "eval.json", tmp_path / "images").main()
        RenderInterpolated(
            load_config=moved / "config.yml",
            output_path=tmp_path / "frames",
            pose_source="train",
            interpolation_steps=2,
            output_format="images",
            image_format="png",
            rendered_output_names=["rgb", "depth"],
        ).main()
    finally:
        away.rename(run.folder)
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    _, pipeline, _, _ = eval_setup(run.folder / "config.yml", test_mode="test")
    values = []
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:  # type: ignore[attr-defined]
        rendered = pipeline.model.get_outputs_for_camera(camera)["rgb"]
        values.append(float(-10 * torch.log10((rendered - batch["image"]).square().mean())))
    assert len(values) == 2 and results["psnr"] == pytest.approx(np.mean(values), abs=0.01) and min(values) > 22
    frame = next(iter(sorted((tmp_path / "frames").glob("*.png"))))
    assert Image.open(frame).size == (128, 48)


def test_a_third_photo_is_localized_in_it(run: Run, tmp_path: Path):
    _, pipeline = load_run(run.folder / "config.yml")
    true = poses_between(found_poses(run.folder)[0], found_poses(run.folder)[1], 0.4)
    true[:, 3] += torch.tensor([0.0, 0.1, 0.15])
    cameras = Cameras(true[None], FOCAL, FOCAL, 32.0, 24.0, 64, 48)
    save(tmp_path / "third.png", pipeline.model.get_outputs_for_camera(cameras)["rgb"].permute(2, 0, 1))
    few = RefinementConfig(steps=40, rays_per_hypothesis=64, learning_rate=2e-2, final_learning_rate=1e-2)
    last = RefinementConfig(steps=100, rays_per_hypothesis=128, learning_rate=2e-2, final_learning_rate=1e-3)
    localizer = LocalizerConfig(
        num_hypotheses=4,
        num_candidates=32,
        retry_error_ratio=None,
        keep_freed_memory=False,
        refinement=LocalizationConfig(survivors=2, first=few, second=few, last=last),
    )
    options: Any = {"fov_deg": FOV_DEG, "localizer": localizer}
    assert Localize(run.folder / "config.yml", tmp_path / "third.png", tmp_path / "poses.json", **options).main()
    (found,) = found_poses(tmp_path / "poses.json")
    (frame,) = json.loads((tmp_path / "poses.json").read_text())["frames"]
    # Of a scene with little relief, the last degrees change a few levels of the colors.
    assert frame["localization"]["photometric_error"] < 0.025
    assert roma.rotmat_geodesic_distance(found[:, :3], true[:, :3]).rad2deg() < 3.5
    assert (found[:, 3] - true[:, 3]).norm() < 0.2


def test_a_run_knows_its_photos_and_world(run: Run):
    _, pipeline = load_run(run.folder / "config.yml")
    scene = TrainedScene.of(pipeline)
    torch.testing.assert_close(scene.camera_to_worlds, found_poses(run.folder))
    torch.testing.assert_close(scene.world.to_data(scene.camera_to_worlds), found_poses(run.folder))
    assert scene.lens.fov_deg == pytest.approx(FOV_DEG, abs=0.01)


@pytest.mark.parametrize("words", [[], ["--load-config"]])
def test_ns_train_refuses_in_one_sentence(run: Run, tmp_path: Path, monkeypatch, words):
    more = [] if not words else [*words, str(run.folder / "config.yml")]
    monkeypatch.setattr(sys, "argv", ["ns-train", "gnerf-splat", "--output-dir", str(tmp_path), *more])
    with pytest.raises(InputError, match="gnerf-splat is not trained; gnerf-splat PHOTO PHOTO") as end:
        train.entrypoint()
    assert "\n" not in str(end.value) and not list(tmp_path.iterdir())


# Bad input


def two_photos(folder: Path, **options: Any) -> Splat:
    paths = tuple(save(folder / f"{number}.png", photo(view)) for number, view in enumerate(VIEWS))
    (folder / "weights.ckpt").touch()
    return replace(Splat(paths, folder / "weights.ckpt", folder / "run", FOV_DEG), **options)


def test_photos_of_different_things_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    network = PerfectNetwork(VIEWS, hues=[0.0, 4.0])
    quick(monkeypatch, network)
    splat = two_photos(tmp_path)
    save(splat.photos[1], network.photos[1])
    words = ["gnerf-splat", *map(str, splat.photos), "--checkpoint", str(splat.checkpoint)]
    monkeypatch.setattr(sys, "argv", [*words, "--output", str(splat.output), "--fov-deg", str(FOV_DEG)])
    with pytest.raises(SystemExit) as end:
        entrypoint()
    assert end.value.code == DOUBTFUL
    assert (
        "The photos do not seem to show the same thing: what the others show explains 0.png" in capsys.readouterr().out
    )
    assert (splat.output / "splat.ply").is_file()


def test_random_weights_find_no_overlap_and_leave_no_folder(tmp_path: Path):
    torch.manual_seed(0)
    splat = two_photos(tmp_path)
    save_network(NoPoSplatNetwork(tiny_network()), tmp_path / "weights.ckpt")
    with pytest.raises(InputError, match="The photos do not seem to show the same thing: no camera explains"):
        splat.main()
    assert not splat.output.exists()


def test_equal_photos_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    quick(monkeypatch, PerfectNetwork(VIEWS))
    splat = two_photos(tmp_path)
    shutil.copy(splat.photos[0], tmp_path / "copy_of_it.png")
    splat = replace(splat, photos=(splat.photos[0], tmp_path / "copy_of_it.png"))
    assert splat.main()
    said = capsys.readouterr().out
    assert "0.png and copy_of_it.png are the same picture" in said and "away from it by 0.00 of" in said


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_an_interrupted_splat_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any):
    paths = tuple(save(tmp_path / f"photo{number}.png", photo(view)) for number, view in enumerate(VIEWS))
    (tmp_path / "weights.ckpt").touch()
    quick(monkeypatch, PerfectNetwork(VIEWS))

    def interrupted(folder: Path, *arguments: Any) -> None:
        (folder / "splat.ply").touch()
        raise error

    monkeypatch.setattr(command, "write_run", interrupted)
    with pytest.raises(error):
        Splat(paths, tmp_path / "weights.ckpt", tmp_path / "run", FOV_DEG).main()
    assert not (tmp_path / "run").exists()


def test_an_output_that_exists_is_left_alone(tmp_path: Path):
    splat = two_photos(tmp_path)
    splat.output.mkdir()
    with pytest.raises(InputError, match="run exists already; give another --output"):
        splat.main()
    assert not list(splat.output.iterdir())


def test_the_demo_s_photos_are_laid_over_no_others(tmp_path: Path):
    splat = replace(two_photos(tmp_path), output=tmp_path / "out", photos=(), demo=True)
    mine = tmp_path / "out-photos" / "0.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"out-photos is where the demo's photos go, and holds others"):
        splat._checked_photos()
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    mine.parent.rmdir()
    assert splat._checked_photos() == splat._checked_photos() == (mine, mine.with_name("1.png"))


@pytest.mark.parametrize("is_demo", [False, True])
@pytest.mark.parametrize("name", ["file/run", "run" * 100])
def test_an_output_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_demo):
    quick(monkeypatch, PerfectNetwork(VIEWS))
    (tmp_path / "file").write_text("no folder")
    splat = replace(two_photos(tmp_path), output=tmp_path / name, demo=is_demo)
    with pytest.raises(InputError, match=r"cannot be made \(.*\); give another --output"):
        replace(splat, photos=() if is_demo else splat.photos).main()


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [(b"", "not a whole checkpoint"), (b"version https://git-lfs.github.com", "git-lfs pointer")],
)
def test_a_wrong_checkpoint_gets_the_sentence_of_checkpoints(tmp_path: Path, contents: bytes, sentence: str):
    splat = two_photos(tmp_path)
    (tmp_path / "weights.ckpt").write_bytes(contents)
    with pytest.raises(InputError, match=sentence):
        splat.main()
    assert not splat.output.exists()


@pytest.mark.parametrize("words", [[], ["--checkpoint", "gone.ckpt"]])
def test_without_weights_it_says_where_they_are(tmp_path: Path, monkeypatch, capsys, words):
    splat = two_photos(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gnerf-splat", *map(str, splat.photos), *words])
    with pytest.raises(SystemExit) as end:
        entrypoint()
    assert end.value.code == NO_WEIGHTS
    said = capsys.readouterr().err
    assert "https://huggingface.co/botaoye/NoPoSplat" in said and "download" in said and said.count("\n") == 1


def test_the_command_starts_in_a_process_of_its_own(tmp_path: Path):
    """And ends with the sentence alone."""
    code = "import sys; sys.argv = ['gnerf-splat', 'a.png', 'b.png']\n"
    code += "from gnerf_ns.noposplat.command import entrypoint\nentrypoint()"
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == NO_WEIGHTS and len(ended.stderr.splitlines()) == 1, ended.stderr


def test_every_choice_is_a_flag():
    parsed = tyro.cli(
        Splat,
        args=["a.png", "b.png", "c.png", "--checkpoint", "w.ckpt", "--output", "o", "--fov-deg", "60"],
    )
    assert parsed.photos == (Path("a.png"), Path("b.png"), Path("c.png")) and parsed.fov_deg == 60.0
