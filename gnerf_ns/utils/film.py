"""Films: files that every browser plays."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gnerf_ns.utils.system_libraries import provide_ffmpeg

FRAMES_PER_SECOND = 20
"""Of all films."""


def write_film(path: Path, frames: UInt8[np.ndarray, "frames height width 3"]) -> None:
    """Write an mp4 that every browser plays; make its folder if necessary."""
    import mediapy

    provide_ffmpeg()
    path.parent.mkdir(parents=True, exist_ok=True)
    mediapy.write_video(path, frames, fps=FRAMES_PER_SECOND, codec="h264", crf=18)
