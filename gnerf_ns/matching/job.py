"""What is asked of a reconstruction in a process of its own, and where its files are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import List

IMAGES, MASKS, JOB, RESULT = "images", "masks", "job.json", "matches.npz"
"""What is in the folder: images as PNG files, masks named like them and ".png", what is known, and what was found."""


@dataclass(frozen=True)
class CameraGroup:
    """Images that one lens took."""

    images: List[int]
    """Which."""
    model: str
    """COLMAP's name of the camera model."""
    parameters: List[float]
    """COLMAP's parameters of it, in pixels; none for a guess by COLMAP."""
    is_known: bool
    """Whether the lens is to be left as it is."""


@dataclass(frozen=True)
class Job:
    """What to reconstruct. Image n is ``images/{n:05d}.png``."""

    num_images: int
    """How many images there are."""
    groups: List[CameraGroup]
    """Each image is in one of them."""
    has_masks: bool
    """Whether only what lies inside masks counts."""
    order: List[int]
    """All images, as they were taken if they are frames of a video."""
    num_threads: int
    """Threads to use."""
    seed: int
    """Of pycolmap's random numbers."""

    def write(self, folder: Path) -> None:
        """Into the folder where the reconstruction looks for it."""
        (folder / JOB).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """What `write` has written."""
        content = json.loads((folder / JOB).read_text(encoding="utf-8"))
        return cls(**{**content, "groups": [CameraGroup(**group) for group in content["groups"]]})


def image_name(index: int) -> str:
    """File name of an image in the folder."""
    return f"{index:05d}.png"
