"""A folder of Gaussians and photos that nerfstudio's commands open as a finished run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Type

import torch
import tyro
import yaml
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import Trainer
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import Tensor

from gnerf_ns.cameras.plots import save_image
from gnerf_ns.data.dataparser import placeholder_cameras, unit_scene_box
from gnerf_ns.data.transforms_writer import FileFrames, write_transforms_json
from gnerf_ns.export.folders import linked
from gnerf_ns.models.splat import SplatModel, SplatModelConfig
from gnerf_ns.noposplat.photos import PhotoFiles, Photos
from gnerf_ns.noposplat.reconstruction import Reconstruction
from gnerf_ns.runs.run_folder import RunFolderConfig
from gnerf_ns.splats.ply import write_ply
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.options import TrainingViewerConfig

METHOD_NAME = "gnerf-splat"
"""By which nerfstudio looks the method up."""
SPLAT_FILE, POSES_FILE, PHOTOS_FOLDER = "splat.ply", "transforms.json", "photos"
"""In the run's folder."""
ORIGINALS_FILE = "transforms_original.json"
"""Beside them: the same cameras for the photos as they were given, at their own size and with their own lenses."""


def data_of_splat() -> VanillaDataManagerConfig:
    """The photos at the poses found, just as they are written; all of them to look at and to compare with."""
    dataparser = NerfstudioDataParserConfig(
        orientation_method="none", center_method="none", auto_scale_poses=False, eval_mode="all", downscale_factor=1
    )
    return VanillaDataManagerConfig(dataparser=dataparser)


@dataclass
class SplatRunConfig(RunFolderConfig):
    """Configuration of a run that holds fixed Gaussians, all in its own folder. No option trains it."""

    _target: Type = field(default_factory=lambda: Trainer)
    """Never built."""
    method_name: str = METHOD_NAME  # pyright: ignore[reportIncompatibleVariableOverride]
    """Method name, by which nerfstudio finds it."""
    machine: tyro.conf.Suppress[MachineConfig] = field(
        default_factory=lambda: MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu")
    )
    """Machine configuration."""
    pipeline: tyro.conf.Suppress[VanillaPipelineConfig] = field(
        default_factory=lambda: VanillaPipelineConfig(datamanager=data_of_splat(), model=SplatModelConfig())
    )
    """Photos and Gaussians."""
    viewer: tyro.conf.Suppress[ViewerConfig] = field(default_factory=TrainingViewerConfig)
    """Viewer configuration."""
    optimizers: tyro.conf.Suppress[Dict[str, Any]] = field(default_factory=dict)
    """None."""

    def set_folder(self, folder: Path) -> None:
        """Take a folder for that of the run; its photos are in it, wherever another copy is."""
        super().set_folder(folder)
        self._read_data_from(folder)

    def _read_data_from(self, folder: Path) -> None:
        self.pipeline.datamanager.data = folder / POSES_FILE

    def set_timestamp(self) -> None:
        """What `ns-train` calls first.

        Raises:
            InputError: always.
        """
        raise InputError(_NOT_TRAINED)

    def setup(self, **kwargs: Any) -> Any:
        """Build a trainer, as `gnerf-localize --grow` would.

        Raises:
            InputError: always.
        """
        raise InputError(_NOT_TRAINED)


_NOT_TRAINED = (
    f"{METHOD_NAME} is not trained; gnerf-splat PHOTO PHOTO --checkpoint FILE makes such a run, and ns-train "
    f"splatfacto --data FOLDER/{POSES_FILE} goes on from its cameras."
)


def write_run(folder: Path, reconstruction: Reconstruction, photos: Photos) -> None:
    """Write splat.ply, transforms.json with the photos, config.yml and checkpoint.

    Args:
        folder: where to; it is there.
        reconstruction: in the frame that is to be the world.
        photos: the photos.
    """
    gaussians = reconstruction.gaussians
    write_ply(folder / SPLAT_FILE, gaussians)
    write_transforms_json(
        folder / POSES_FILE,
        {"photos": _frames(folder, reconstruction.camera_to_worlds, photos)},
        {"ply_file_path": SPLAT_FILE},
    )
    config = SplatRunConfig()
    model_config = SplatModelConfig(num_gaussians=len(gaussians), num_harmonics=gaussians.harmonics.shape[-1])
    config.pipeline.model = model_config
    folder = folder.absolute()
    config.set_folder(folder)
    config.output_dir, config.experiment_name = folder.parent, folder.parent.name
    config.data = config.pipeline.datamanager.data
    model = SplatModel(model_config, unit_scene_box(), len(photos)).to(gaussians.means.device).eval()
    model.hold(gaussians)
    checkpoints = folder / config.relative_model_dir
    checkpoints.mkdir()
    state = {f"_model.{name}": value.cpu() for name, value in model.state_dict().items()}
    torch.save({"step": 0, "pipeline": state}, checkpoints / "step-000000000.ckpt")
    (folder / "config.yml").write_text(yaml.dump(config), "utf8")


def write_original_cameras(folder: Path, reconstruction: Reconstruction, files: PhotoFiles) -> None:
    """Write `ORIGINALS_FILE`, to train on: it names the photos, by links that move along, with masks if all have one.

    What the network saw was cropped and straightened, which moves no camera and turns none.

    Args:
        folder: where to.
        reconstruction: in the frame that is to be the world.
        files: the photos, in the same order.
    """
    cameras = placeholder_cameras(files.lenses)
    cameras.camera_to_worlds = reconstruction.camera_to_worlds.cpu()
    masks = [frame.mask for frame in files.frames if frame.mask is not None]
    frames = FileFrames(
        cameras,
        [frame.image for frame in files.frames],
        masks if len(masks) == len(files.frames) else None,
        {file: orientation for frame in files.frames for file, orientation in frame.orientations.items()},
    )
    write_transforms_json(folder / ORIGINALS_FILE, linked({"photos": frames}, folder), {"ply_file_path": SPLAT_FILE})


def _frames(folder: Path, camera_to_worlds: Float[Tensor, "views 3 4"], photos: Photos) -> FileFrames:
    """The photos as the network saw them, written to files, with their cameras."""
    files = []
    for number, (path, image) in enumerate(zip(photos.paths, photos.images, strict=True)):
        # Numbered, as nerfstudio puts files in the order of their names, and two may have the same.
        files.append(folder / PHOTOS_FOLDER / f"{number:04d}_{path.stem}.png")
        save_image(files[-1], (image.permute(1, 2, 0) * 255.0).round().byte().cpu().numpy())
    width, height = photos.size
    fx, fy, cx, cy = torch.cat([photos.focal, photos.centers], dim=1).cpu().split(1, dim=1)
    cameras = Cameras(camera_to_worlds.cpu(), fx, fy, cx, cy, width, height)
    return FileFrames(cameras, files, remarks=[{"photo": str(path.absolute())} for path in photos.paths])
