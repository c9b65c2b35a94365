"""Images of a video: of each of equal intervals of its time the sharpest frame, written to files beside it."""

from __future__ import annotations

import json
import math
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count as count_from
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import appdirs
import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from jaxtyping import Float, UInt8
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from rich.progress import track

from gnerf_ns.data.images import ImageSize, as_displayed, fit_max_side
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.run_images import hashes

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts"),
    *(".wmv", ".flv", ".3gp", ".ogv"),
)
"""File name endings taken for videos, in any letter case."""

DEFAULT_FRAMES = 60
"""Frames of a video: of a walk around an object they are 6 degrees apart, near enough for local matches, and training
takes minutes."""

RECORD = "frames.json"
"""File beside the frames that says which video they are of."""

_GRAY_SIDE = 640
"""Longest side at which sharpness is measured, in pixels: about that of the images to be trained on. Blur that they do
not show does not matter, and noise of single pixels averages out."""
_SIGNATURE_SIDE = 64
"""Longest side at which frames are compared, in pixels."""
_STILL = 0.02
"""Frames are the same view if their gray differs by less, as a share of its standard deviation. With noise of 5 of 255
in each pixel two of one view differ by 0.011; half a degree around an object on white makes 0.038."""
_MISSING_END = 0.1
"""Share of the time, and at least a second, for which a whole video may have sound alone."""
_JPEG_QUALITY = 95
"""Good enough to add nothing visible to what the video's own compression did."""
_ORIENTATIONS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
"""EXIF orientation by a, b, c, d of a display matrix: the stored point (x, y) is shown at (ax + cy, bx + dy)."""


def is_video(path: Path) -> bool:
    """Whether a file is named like a video; operating systems leave names with a leading dot beside them."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def folder_of_frames(video: Path, count: int) -> Path:
    """The folder of a video's frames, which are taken unless that was done before; where it is, is said once.

    It lies beside the video, or, where nothing can be written there, in the user's cache, and has the video's name.
    Nothing that is already there is changed: if it holds something else, such as frames of another video, the next
    name is taken. Frames are called by their number in the video. What a user takes away or adds (masks) stays so.

    Args:
        video: its file.
        count: of how many equal intervals of time the sharpest frame is taken. Where the camera stood still, one frame
            serves for several; of a video with fewer frames, all are taken.

    Raises:
        InputError: the video cannot be read or decoded, there is no room for the frames, or ``count`` is below 1.
    """
    if count < 1:
        raise InputError(f"--video-frames {count} leaves no image; use 6 or more.")
    try:
        status = video.stat()
    except OSError as error:
        raise InputError(f"The video {video} cannot be read ({error.strerror}); check the path.") from error
    if status.st_size == 0:
        raise InputError(f"The video {video} is empty (0 bytes); replace it.")
    return _folder_of_frames(Path(os.path.abspath(video)), count, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _folder_of_frames(video: Path, count: int, modified_ns: int, num_bytes: int) -> Path:
    del modified_ns, num_bytes  # a part of the cache's key
    key = {"sha256": hashes([video])[0], "intervals": count}
    parents = (video.parent, Path(appdirs.user_cache_dir("gnerf_ns")))
    for parent in parents:
        for folder in _names(parent, video):
            if not folder.exists():
                break
            if _is_of(folder, key):
                remark(f"The frames of {video.name} are read from {folder}, where they were written before.")
                return folder
    return _write_frames(video, count, key, parents)


def _names(parent: Path, video: Path) -> Iterator[Path]:
    """What the folder may be called, in the order of preference."""
    yield parent / f"{video.stem}_frames"
    yield from (parent / f"{video.stem}_frames_{number}" for number in count_from(2))


def _is_of(folder: Path, key: Dict[str, Any]) -> bool:
    """Whether a folder holds the frames of that content."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and key.items() <= record.items()


def _write_frames(video: Path, count: int, key: Dict[str, Any], parents: Tuple[Path, ...]) -> Path:
    """Write frames and record into the first of the folders that can be written to; they appear whole or not at all."""
    for parent in parents:
        partial = parent / f".{video.stem}_frames_{os.getpid()}"
        try:
            partial.mkdir(parents=True)
        except OSError:
            continue
        try:
            names = _save_sharpest(video, count, partial)
            (partial / RECORD).write_text(json.dumps({"video": video.name, **key, "frames": names}, indent=2), "utf8")
            folder = _under_free_name(partial, video)
        except OSError as error:
            raise InputError(
                f"The frames of {video} cannot be written to {parent} ({error.strerror}); make room there."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        remark(f"The frames of {video.name} that are used, {len(names)}, were written to {folder}.")
        return folder
    places = " nor to ".join(str(parent) for parent in parents)
    raise InputError(f"Frames of {video} can be written neither to {places}; copy it to a folder of yours.")


def _under_free_name(partial: Path, video: Path) -> Path:
    """Rename a folder that is complete; another run may take a name at the same time."""
    for folder in _names(partial.parent, video):
        if not folder.exists():
            try:
                return partial.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    raise AssertionError("names do not end")


# Choosing


def sharpness(gray: UInt8[np.ndarray, "height width"]) -> float:
    """How sharp a picture is, to be compared with others of the same view: the variance of its Laplacian.

    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000.
    """
    values = gray.astype(np.float32)
    laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * values[1:-1, 1:-1]
    return float(laplacian.var()) if laplacian.size else 0.0


def are_same_view(first: UInt8[np.ndarray, "height width"], second: UInt8[np.ndarray, "height width"]) -> bool:
    """Whether two small gray pictures differ by no more than noise and compression."""
    difference = first.astype(np.float32) - second.astype(np.float32)
    return bool(np.sqrt((difference**2).mean()) < _STILL * float(first.std()))


@dataclass(frozen=True)
class Intervals:
    """Equal intervals of a video's time, from its first frame to the end of its last."""

    edges: Float[np.ndarray, "edges"]
    """Where they begin, and the last one ends: in the stream's time units, or numbers of frames."""
    are_of_time: bool
    """Which of the two."""

    @classmethod
    def of(cls, times: List[Optional[int]], count: int) -> Intervals:
        """Of a video whose frames are shown at these times.

        Numbers of frames stand for times that are not known. If there are no more frames than intervals, each frame
        has its own.
        """
        known = [time for time in times if time is not None]
        if len(times) <= count or len(known) < len(times) or min(known) == max(known):
            return cls(np.linspace(0.0, len(times), min(count, len(times)) + 1), False)
        first, last = min(known), max(known)
        return cls(np.linspace(first, last + (last - first) / (len(times) - 1), count + 1), True)

    def index(self, time: Optional[int], number: int) -> int:
        """In which one a frame is that has this time and number."""
        position = number if not self.are_of_time or time is None else time
        return int(np.searchsorted(self.edges[1:-1], position, side="right"))


@dataclass
class _Candidate:
    """The sharpest frame of an interval so far."""

    interval: int
    number: int
    sharpness: float
    frame: av.VideoFrame


@dataclass
class _Writer:
    """Writes frames, but none that shows the same view as the one before."""

    folder: Path
    pixel_aspect: float
    names: List[str] = field(default_factory=list)
    _last: Optional[UInt8[np.ndarray, "height width"]] = None

    def write(self, chosen: _Candidate) -> None:
        signature = _gray(chosen.frame, _SIGNATURE_SIDE)
        if self._last is not None and self._last.shape == signature.shape and are_same_view(self._last, signature):
            return
        self._last = signature
        image = displayed_image(chosen.frame, self.pixel_aspect)
        file = self.folder / f"frame_{chosen.number:06d}{'.png' if image.mode == 'RGBA' else '.jpg'}"
        image.save(file, quality=_JPEG_QUALITY, subsampling=0)  # which PNG ignores
        self.names.append(file.name)


def _save_sharpest(video: Path, count: int, folder: Path) -> List[str]:
    """Write the sharpest frame of each interval; one frame at a time is in memory, besides the one being decoded."""
    with _opened(video) as (container, stream):
        times = [packet.pts for packet in _packets(container, stream) if packet.size and not packet.is_discard]
    if not times:
        raise InputError(f"The video {video} has no frames; replace it.")
    intervals = Intervals.of(times, count)
    with _opened(video) as (container, stream):
        aspect = stream.sample_aspect_ratio
        writer = _Writer(folder, float(aspect) if aspect else 1.0)
        best: Optional[_Candidate] = None
        decoded = 0
        frames = track(
            _decoded(container, stream),
            "Choosing frames",
            total=len(times),
            console=CONSOLE,
            transient=True,
            disable=not CONSOLE.is_terminal,
        )
        for number, frame in enumerate(frames):
            decoded += 1
            interval, value = intervals.index(frame.pts, number), sharpness(_gray(frame, _GRAY_SIDE))
            if best is not None:
                interval = max(interval, best.interval)  # frames come in order, if not with their times (AVI)
                if interval > best.interval:
                    writer.write(best)
                    best = None
            if best is None or value > best.sharpness:
                best = _Candidate(interval, number, value, frame)
        if best is None:
            raise InputError(f"No frame of the video {video} can be decoded; convert it to H.264 (.mp4).")
        writer.write(best)
        seconds = [float(time * stream.time_base) for time in times if time is not None]
        _say_what_is_missing(video, decoded, len(times), seconds, container.duration)
    return writer.names


def _say_what_is_missing(video: Path, decoded: int, listed: int, seconds: List[float], duration: Optional[int]) -> None:
    """Remarks about a broken file.

    Args:
        video: its file.
        decoded: number of frames that could be decoded.
        listed: number of frames in the file.
        seconds: times of these, where known.
        duration: that the file should have, in ffmpeg's time units, if known.
    """
    if decoded < listed:
        remark(f"{listed - decoded} of {listed} frames of {video.name} cannot be decoded, and are left out.")
    if duration is None or not seconds:
        return
    there, wanted = max(seconds) - min(seconds), duration / av.time_base
    if there < (1 - _MISSING_END) * wanted and wanted - there > 1.0:
        remark(f"The end of {video.name} is missing: there are pictures for {there:.1f} of {wanted:.1f} seconds.")


# Decoding


@contextmanager
def _opened(video: Path) -> Iterator[Tuple[Any, Any]]:
    """The container and the stream of moving pictures; what ffmpeg says of a broken file becomes an `InputError`."""
    try:
        # A playlist may not fetch anything from elsewhere.
        with av.open(str(video), options={"protocol_whitelist": "file"}, metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            if stream is None or Disposition.attached_pic in stream.disposition:
                raise InputError(f"{video} has no moving pictures (only sound, say); give a video, or images.")
            if stream.codec_context is None:
                raise InputError(f"The video {video} has an unknown codec; convert it to H.264 (.mp4).")
            stream.thread_type = "AUTO"
            yield container, stream
    except FFmpegError as error:
        raise InputError(
            f"The video {video} cannot be read ({error.strerror}); replace it, or convert it to H.264 (.mp4)."
        ) from error


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """All packets as far as the file is whole, and at last an empty one."""
    try:
        yield from container.demux(stream)
    except FFmpegError:
        return


def _decoded(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Frames in the order of time; from a damaged one on, none up to the next that needs no other."""
    is_whole = True
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except FFmpegError:
            is_whole = False
            continue
        for frame in frames:
            is_whole = (is_whole or frame.key_frame) and not frame.is_corrupt
            if is_whole:
                yield frame


def _gray(frame: av.VideoFrame, max_side: int) -> UInt8[np.ndarray, "height width"]:
    size = fit_max_side(ImageSize(frame.width, frame.height), max_side)
    return frame.reformat(size.width, size.height, "gray", interpolation="AREA").to_ndarray()


def displayed_image(frame: av.VideoFrame, pixel_aspect: float = 1.0) -> Image.Image:
    """A frame in 8 bits a channel, upright and with square pixels; RGBA where the video has alpha.

    Args:
        frame: as decoded.
        pixel_aspect: width over height of a pixel.
    """
    has_alpha = any(component.is_alpha for component in frame.format.components)
    width = max(1, round(frame.width * pixel_aspect))
    pixels = frame.reformat(width, frame.height, "rgba" if has_alpha else "rgb24").to_ndarray()
    return as_displayed(Image.fromarray(pixels), _orientation(frame))


def _orientation(frame: av.VideoFrame) -> int:
    """The EXIF orientation that does what the frame's display matrix says."""
    side_data: Any = frame.side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    longest = math.hypot(a, b) or 1.0
    return _ORIENTATIONS.get(tuple(round(each / longest) for each in (a, b, c, d)), 1)  # type: ignore[arg-type]
