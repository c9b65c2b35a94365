"""`gnerf-export-poses` and what lies beside a checkpoint, read by the programs that they are for."""

import json
import math
import shutil
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pycolmap
import pytest
import torch
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from gnerf_ns.export.command import ExportPoses
from gnerf_ns.export.folders import Format
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.system_libraries import missing_export_libraries

AS_IT_IS: Dict[str, Any] = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
"""Has nerfstudio's dataparsers leave the world alone."""

needs_open3d = pytest.mark.skipif(bool(missing_export_libraries()), reason="open3d lacks system libraries here")


@pytest.fixture(scope="module")
def moved_run(finished_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder, moved to another disk; what it names is in it."""
    moved = Path(shutil.copytree(finished_run.config_path.parent, tmp_path_factory.mktemp("moved") / "elsewhere"))
    names = [
        frame["file_path"] for frame in json.loads((moved / "estimated_poses/transforms.json").read_text())["frames"]
    ]
    assert not any(Path(name).is_absolute() for name in names)
    return moved


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory: pytest.TempPathFactory):
    """Exports to a format, and moves what came out."""
    folder = tmp_path_factory.mktemp("exported")

    def export(format: Format) -> Path:
        moved = folder / "moved" / format
        if not moved.exists():
            ExportPoses(finished_run.config_path, format, folder / "new" / format).main()
            moved.parent.mkdir(exist_ok=True)
            (folder / "new" / format).rename(moved)
            texts = [path.read_text() for path in moved.rglob("*") if path.suffix in (".json", ".txt")]
            assert texts and not any(str(folder) in text or "tiny_scene" in text for text in texts)
        return moved

    return export


def num_points(run: Path) -> int:
    return pycolmap.Reconstruction(run / "estimated_poses" / "sparse" / "0").num_points3D()


def check_cameras(outputs: DataparserOutputs, finished_run: Any, split: Any = "train", scale: float = 1.0) -> None:
    """Names end as those of the run's images, and cameras are those estimated for them."""
    expected = finished_run.cameras(split)
    dataset = getattr(finished_run.pipeline.datamanager, f"{split}_dataset")
    by_name = {path.name: index for index, path in enumerate(dataset.image_filenames)}
    found, rows = outputs.cameras, [by_name[path.name] for path in outputs.image_filenames]
    assert len(rows) == len(expected) and all(path.is_file() for path in outputs.image_filenames)
    poses = expected.camera_to_worlds[rows].clone()
    poses[..., 3] *= scale
    torch.testing.assert_close(found.camera_to_worlds, poses, atol=1e-5, rtol=0)
    for name in ("fx", "fy", "cx", "cy"):
        torch.testing.assert_close(getattr(found, name).float(), getattr(expected, name)[rows], rtol=1e-4, atol=0)


def test_points_beside_the_checkpoint_project_to_where_the_field_shows_them(finished_run, moved_run: Path):
    model = pycolmap.Reconstruction(moved_run / "estimated_poses" / "sparse" / "0")
    assert model.num_reg_images() == 9 and model.num_points3D() > 500
    assert model.compute_mean_reprojection_error() == pytest.approx(0.0, abs=1e-9)
    dataset, cameras = finished_run.pipeline.datamanager.train_dataset, finished_run.cameras()
    for index, path in enumerate(dataset.image_filenames):
        (image,) = [each for each in model.images.values() if each.name == f"{path.parent.name}/{path.name}"]
        with torch.no_grad():
            depth = finished_run.pipeline.model.get_outputs_for_camera(cameras[index : index + 1])["depth"][..., 0]
        pixels = np.asarray(Image.open(path))
        center = image.projection_center()
        np.testing.assert_allclose(center, cameras.camera_to_worlds[index, :, 3].numpy(), atol=1e-5)
        seen = image.get_observation_points2D()
        assert len(seen) > 30
        for point2d in seen:
            point = model.points3D[point2d.point3D_id]
            column, row = np.floor(image.project_point(point.xyz)).astype(int)
            np.testing.assert_allclose(point2d.xy, (column + 0.5, row + 0.5), atol=2e-3)
            assert np.linalg.norm(point.xyz - center) == pytest.approx(float(depth[row, column]), abs=1e-3)
            assert tuple(point.color) == tuple(pixels[row, column, :3])


@needs_open3d
def test_splatfacto_begins_with_the_points_of_a_moved_run(moved_run: Path):
    method: Any = method_configs["splatfacto"]
    config = method.pipeline.datamanager.dataparser
    assert isinstance(config, NerfstudioDataParserConfig) and config.load_3D_points
    parser = NerfstudioDataParserConfig(data=moved_run / "estimated_poses", load_3D_points=True, **AS_IT_IS).setup()
    metadata = parser.get_dataparser_outputs("train").metadata
    assert metadata["points3D_xyz"].shape == metadata["points3D_rgb"].shape == (num_points(moved_run), 3)
    assert float(metadata["points3D_xyz"].norm(dim=-1).max()) < 1.001, "the fog fills the unit ball"


@pytest.mark.parametrize("split", ["train", "eval"])
def test_nerfacto_reads_a_moved_run_and_a_moved_export(finished_run, moved_run: Path, exported, split: Any):
    method: Any = method_configs["nerfacto"]
    config = method.pipeline.datamanager.dataparser
    assert isinstance(config, NerfstudioDataParserConfig)
    for data in (moved_run / "estimated_poses", exported("nerfstudio")):
        parser = NerfstudioDataParserConfig(data=data, **AS_IT_IS).setup()
        check_cameras(parser.get_dataparser_outputs("train" if split == "train" else "val"), finished_run, split)


def test_remarks_on_poses_come_along(exported):
    frames = json.loads((exported("nerfstudio") / "transforms.json").read_text())["frames"]
    assert len(frames) == 9 and all("pose_from" in frame and "explained" in frame for frame in frames)


@needs_open3d
def test_splatfacto_begins_with_the_points_of_a_moved_export(moved_run: Path, exported):
    parser = NerfstudioDataParserConfig(data=exported("nerfstudio"), load_3D_points=True).setup()
    assert len(parser.get_dataparser_outputs("train").metadata["points3D_xyz"]) == num_points(moved_run)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_nerfstudios_colmap_dataparser_reads_the_export(finished_run, moved_run: Path, exported, split: Any):
    parser = ColmapDataParserConfig(
        data=exported("colmap"),
        colmap_path=Path("sparse/0"),
        assume_colmap_world_coordinate_convention=False,
        max_2D_matches_per_3D_point=-1,
        **AS_IT_IS,
    ).setup()
    outputs = parser.get_dataparser_outputs("train" if split == "train" else "test")
    check_cameras(outputs, finished_run, split)
    metadata = outputs.metadata
    assert len(metadata["points3D_xyz"]) == num_points(moved_run)
    assert metadata["points3D_points2D_xy"].shape == (num_points(moved_run), 1, 2)


def test_nerfstudios_instant_ngp_dataparser_reads_the_export(finished_run, exported):
    parser = InstantNGPDataParserConfig(data=exported("instant-ngp"), eval_mode="all").setup()
    outputs = parser.get_dataparser_outputs("train")
    assert len(outputs.image_filenames) == 9, "it knows no held-out images"
    rows = [index for index, path in enumerate(outputs.image_filenames) if path.parent.name != "held_out"]
    outputs.image_filenames = [outputs.image_filenames[row] for row in rows]
    outputs.cameras = outputs.cameras[torch.tensor(rows, dtype=torch.long)]
    check_cameras(outputs, finished_run, scale=parser.config.scene_scale)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_nerfstudios_blender_dataparser_reads_the_export(finished_run, exported, split: Any):
    parser = BlenderDataParserConfig(data=exported("blender"), ply_path=None).setup()
    outputs = parser.get_dataparser_outputs("train" if split == "train" else "val")
    check_cameras(outputs, finished_run, split)
    original = getattr(finished_run.pipeline.datamanager, f"{split}_dataset").image_filenames[0]
    copy = next(path for path in outputs.image_filenames if path.name == original.name)
    assert np.array_equal(np.asarray(Image.open(copy)), np.asarray(Image.open(original)))


def test_an_older_run_learns_where_its_model_comes_from(moved_run: Path, tmp_path: Path):
    older = Path(shutil.copytree(moved_run, tmp_path / "older"))
    shutil.rmtree(older / "estimated_poses" / "sparse")
    with pytest.raises(InputError, match=r"has no sparse/0.*--load-dir"):
        ExportPoses(older / "config.yml", "colmap", tmp_path / "output").main()


def test_runs_without_estimated_poses_are_refused_in_a_sentence(tmp_path: Path):
    config = tmp_path / "config.yml"
    with pytest.raises(InputError, match=r"There is no file .*config.yml; give --load-config"):
        ExportPoses(config, "colmap", tmp_path / "output").main()
    config.write_text("of another method")
    with pytest.raises(InputError, match=r"There are no estimated poses beside .*config.yml: gnerf-ns writes them"):
        ExportPoses(config, "colmap", tmp_path / "output").main()


def test_degrees_and_radians_of_instant_ngp_agree(exported):
    meta = json.loads((exported("instant-ngp") / "transforms.json").read_text())
    for axis, side in (("x", "w"), ("y", "h")):
        assert math.degrees(meta[f"camera_angle_{axis}"]) == pytest.approx(meta[f"{axis}_fov"])
        assert meta[side] / 2 / math.tan(meta[f"camera_angle_{axis}"] / 2) == pytest.approx(meta[f"fl_{axis}"])
