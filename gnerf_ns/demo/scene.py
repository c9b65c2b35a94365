"""The scene that the demo trains on, rendered into a folder of images."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Literal, Optional

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePriorConfig, object_filling_radius
from gnerf_ns.demo import chair, island
from gnerf_ns.demo.ray_casting import RayCaster
from gnerf_ns.utils.errors import InputError

CASTERS: Dict[str, Callable[[], RayCaster]] = {
    "island": lambda: RayCaster(island.build_island(), island.TOWARDS_SUN),
    "chair": lambda: RayCaster(chair.build_chair(), chair.TOWARDS_SUN),
}
"""Ray casters of the scenes, by name."""


@dataclass
class ProceduralSceneConfig:
    """Configuration of the scene, its cameras and its images."""

    subject: Literal["island", "chair"] = "island"
    """island: looks different from every side; chair: its left and right sides differ only by a cup."""
    num_train: int = 60
    """Number of training images."""
    num_test: int = 12
    """Number of held-out images."""
    image_side: int = 128
    """Side of the images, in pixels."""
    fov_deg: float = 40.0
    """Field of view, in degrees."""
    samples_per_side: int = 4
    """Rays along each side of a pixel, for antialiasing."""
    cameras: PosePriorConfig = field(default_factory=PosePriorConfig)
    """Distribution of the cameras; by default uniform on the upper hemisphere, looking at the origin."""
    seed: int = 0
    """Random seed of the cameras."""

    def check(self) -> None:
        """Check the numbers.

        Raises:
            InputError: one of them is too small, or the field of view or the distribution of cameras is impossible.
        """
        for name in ("num_train", "num_test", "image_side", "samples_per_side"):
            if getattr(self, name) < 1:
                raise InputError(f"The scene's {name} is {getattr(self, name)}; give at least 1.")
        object_filling_radius(math.radians(self.fov_deg))
        self.cameras.resolve()


def render_procedural_scene(
    folder: Path,
    config: Optional[ProceduralSceneConfig] = None,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Render the scene into RGBA images: `images/*.png` for training, and `held_out/*.png`.

    The true poses are written to `transforms_train.json`, `transforms_test.json` and `transforms_val.json` (in the
    layout of the NeRF-synthetic data). The same configuration always gives the same bytes.

    Args:
        folder: output folder; made if it does not exist.
        config: scene, cameras and images; the defaults if None.
        on_image: called after each image with the number of finished images and of all images.
    """
    config = config or ProceduralSceneConfig()
    fov_rad = math.radians(config.fov_deg)
    total = config.num_train + config.num_test
    poses = config.cameras.resolve().sample(
        total, object_filling_radius(fov_rad), "cpu", torch.Generator().manual_seed(config.seed)
    )
    caster = CASTERS[config.subject]()
    names = [f"images/{number:04d}" for number in range(config.num_train)]
    names += [f"held_out/{number:04d}" for number in range(config.num_test)]
    for done, (name, pose) in enumerate(zip(names, poses, strict=True), start=1):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = caster.render(pose.double().numpy(), fov_rad, config.image_side, config.samples_per_side)
        Image.fromarray(image).save(path)
        on_image(done, total)
    train, held_out = slice(config.num_train), slice(config.num_train, None)
    # nerfstudio's blender-data needs a third split; it is the same as the second.
    for split, chosen in (("train", train), ("test", held_out), ("val", held_out)):
        _write_transforms(folder / f"transforms_{split}.json", names[chosen], poses[chosen], fov_rad)


def _write_transforms(path: Path, names: List[str], poses: Float[Tensor, "n 3 4"], fov_rad: float) -> None:
    """Write a transforms file of the NeRF-synthetic data, where file names have no suffix."""
    frames = [
        {"file_path": f"./{name}", "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]}
        for name, pose in zip(names, poses, strict=True)
    ]
    path.write_text(json.dumps({"camera_angle_x": fov_rad, "frames": frames}, indent=1))
