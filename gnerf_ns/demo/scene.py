"""A small scene of our own, rendered into a folder of images: what the demo trains on."""

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

CASTERS: Dict[str, Callable[[], RayCaster]] = {
    "island": lambda: RayCaster(island.build_island(), island.TOWARDS_SUN),
    "chair": lambda: RayCaster(chair.build_chair(), chair.TOWARDS_SUN),
}
"""The scenes, by name."""


@dataclass
class ProceduralSceneConfig:
    """How many images of the scene are taken, and from where."""

    subject: Literal["island", "chair"] = "island"
    """island: every side looks different; chair: its left and right sides differ by a cup."""
    num_train: int = 60
    """Images to train on."""
    num_test: int = 12
    """Held-out images."""
    image_side: int = 128
    """Pixels on each side."""
    fov_deg: float = 40.0
    """Field of view, in degrees."""
    samples_per_side: int = 4
    """Antialiasing: rays on each side of a pixel."""
    cameras: PosePriorConfig = field(default_factory=PosePriorConfig)
    """Where the cameras stand: by default on the upper hemisphere, uniform in solid angle, looking at the origin.
    Spread of the radius, look-at jitter and roll are set here too."""
    seed: int = 0
    """Of the cameras' positions."""


def render_procedural_scene(
    folder: Path,
    config: Optional[ProceduralSceneConfig] = None,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Renders the scene into RGBA images, `images/*.png` to train on and `held_out/*.png`.

    The true poses go into `transforms_train.json`, `transforms_test.json` and `transforms_val.json` (Blender layout),
    apart from the images; the same configuration always gives the same bytes.

    Args:
        folder: where to; made if it does not exist.
        config: what to render; the defaults if None.
        on_image: told how many images are done, and of how many, after each.
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
    # nerfstudio's own blender-data wants a third split; it holds the same images as the second.
    for split, chosen in (("train", train), ("test", held_out), ("val", held_out)):
        _write_transforms(folder / f"transforms_{split}.json", names[chosen], poses[chosen], fov_rad)


def _write_transforms(path: Path, names: List[str], poses: Float[Tensor, "n 3 4"], fov_rad: float) -> None:
    """The Blender layout, whose file names have no suffix."""
    frames = [
        {"file_path": f"./{name}", "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]}
        for name, pose in zip(names, poses, strict=True)
    ]
    path.write_text(json.dumps({"camera_angle_x": fov_rad, "frames": frames}, indent=1))
