"""What `gnerf-splat --demo` shows: two photos of a scene of our own, and how far off their cameras are."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from gnerf_ns.cameras.plots import save_image
from gnerf_ns.data.images import ImageSize
from gnerf_ns.data.transforms_writer import FileFrames, write_transforms_json
from gnerf_ns.noposplat.pose_metrics import relative_pose_errors
from gnerf_ns.noposplat.reconstruction import Reconstruction
from gnerf_ns.scenes.made_scenes import MadeScene
from gnerf_ns.splats.axes import camera_to_worlds, inverse_poses

WEIGHTS = Path(__file__).with_name("tiny_network.safetensors")
"""Of noposplat-tiny: they come with the package. They know scenes like that of the demo, and nothing else."""

_SEED, _FRAMES = 0, (19, 45)
"""The first of the scenes that training never shows, and the views by which it is evaluated."""

_SIZE = ImageSize(256, 256)
"""Of the photos, in pixels."""


_PHOTOS, _CAMERAS = ("0.png", "1.png"), "transforms.json"


def holds_demo_photos(folder: Path) -> bool:
    """Whether a folder has what `write_demo_photos` writes, which is always the same, and nothing else."""
    return {path.name for path in folder.iterdir()} == {*_PHOTOS, _CAMERAS}


def write_demo_photos(folder: Path) -> Tuple[Path, ...]:
    """Draw the photos, and a transforms.json with their lens and true poses beside them.

    Args:
        folder: where to; it is made if need be.

    Returns:
        The photos' files.
    """
    scene = MadeScene(_SEED, "balls-and-boxes", _SIZE)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in _PHOTOS]
    for file, frame in zip(files, _FRAMES, strict=True):
        save_image(file, scene.image(frame))
    chosen = list(_FRAMES)
    matrices = scene.cameras.intrinsics[chosen] * torch.tensor([_SIZE.width, _SIZE.height, 1.0])[:, None]
    cameras = Cameras(
        camera_to_worlds(inverse_poses(scene.cameras.camera_to_worlds[chosen].float())),
        fx=matrices[:, 0, :1],
        fy=matrices[:, 1, 1:2],
        cx=matrices[:, 0, 2:],
        cy=matrices[:, 1, 2:],
        width=_SIZE.width,
        height=_SIZE.height,
    )
    write_transforms_json(folder / _CAMERAS, {"photos": FileFrames(cameras, files)})
    return tuple(files)


def errors_in_words(found: Reconstruction) -> List[str]:
    """A line that says how far off the second camera is, as seen from the first.

    Args:
        found: of the demo's photos.
    """
    true = MadeScene(_SEED, "balls-and-boxes", _SIZE).cameras.camera_to_worlds[list(_FRAMES)]
    poses = inverse_poses(found.world_to_cameras.cpu())
    errors = relative_pose_errors(_seen_from_first(poses), _seen_from_first(true))
    return [
        f"The true cameras are known here: the second is turned by {float(errors.rotation_deg):.1f} degrees from where "
        f"it should be, and its direction from the first is {float(errors.translation_deg):.1f} degrees off."
    ]


def _seen_from_first(camera_to_worlds: Float[Tensor, "2 3 4"]) -> Float[Tensor, "1 3 4"]:
    """Pose of the second camera in the frame of the first."""
    first, second = camera_to_worlds.double()
    return torch.cat([first[:, :3].mT @ second[:, :3], first[:, :3].mT @ (second - first)[:, 3:]], dim=-1)[None]
