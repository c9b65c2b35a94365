"""Which frames of a video become images, how they look, and where they are written."""

import errno
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from gnerf_ns.data import video as video_module
from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.data.frames import read_all_frames, read_frames
from gnerf_ns.data.images import as_displayed
from gnerf_ns.data.video import RECORD, Intervals, are_same_view, folder_of_frames, sharpness
from gnerf_ns.utils.errors import InputError

SIZE = (48, 32)
QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
"""What tells all eight orientations apart."""


def quarters() -> Image.Image:
    return Image.fromarray(QUARTERS).resize(SIZE, Image.Resampling.NEAREST)


def noise(seed: int, blur: float = 0.0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur))


def write_video(
    path: Path,
    images: Sequence[Image.Image],
    codec: str = "ffv1",
    pixels: str = "bgr0",
    times: Optional[Sequence[int]] = None,
    pixel_aspect: Optional[Fraction] = None,
    rotation: Optional[Sequence[Any]] = None,
    options: Optional[Dict[str, str]] = None,
) -> Path:
    """A video of images, 25 a second unless their times are given (in 1/25 s); by default lossless, for Matroska."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *images[0].size, pixels
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(
                np.asarray(image), {"RGB": "rgb24", "RGBA": "rgba"}[image.mode]
            ).reformat(format=pixels)
            frame.pts, frame.time_base = index if times is None else times[index], Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def taken(video: Path, count: int) -> List[int]:
    return [int(path.stem[6:]) for path in sorted(folder_of_frames(video, count).glob("frame_*"))]


def first_image(video: Path) -> np.ndarray:
    return np.asarray(Image.open(min(folder_of_frames(video, 3).glob("frame_*"))))


def test_sharpness_is_the_variance_of_the_laplacian():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9), dtype=np.uint8)
    values = pixels.astype(float)
    laplacian = [
        values[y - 1, x] + values[y + 1, x] + values[y, x - 1] + values[y, x + 1] - 4 * values[y, x]
        for y in range(1, 6)
        for x in range(1, 8)
    ]
    assert sharpness(pixels) == pytest.approx(np.var(laplacian), rel=1e-5)
    assert sharpness(np.full((7, 9), 200, np.uint8)) == 0.0
    assert sharpness(pixels[:2]) == 0.0, "nothing has four neighbors"


def test_the_same_view_with_noise_and_another():
    view = np.kron(np.array([[40, 200], [200, 40]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    random = np.random.default_rng(1)
    assert are_same_view(view, (view + random.integers(-2, 3, view.shape)).astype(np.uint8))
    assert not are_same_view(view, np.roll(view, 1, axis=1)), "one pixel further"
    assert not are_same_view(np.zeros_like(view), np.zeros_like(view)), "which tells nothing"


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 12), st.integers(-100, 100))
def test_intervals_are_equal_and_hold_every_frame(steps: List[int], count: int, start: int):
    times = [start + sum(steps[:index]) for index in range(len(steps))]
    intervals = Intervals.of(list(times), count)
    indices = [intervals.index(time, number) for number, time in enumerate(times)]
    assert indices == sorted(indices) and indices[0] == 0
    assert np.allclose(np.diff(intervals.edges), np.diff(intervals.edges)[0])
    if len(times) <= count:
        assert indices == list(range(len(times))), "each frame has its own"
    else:
        assert indices[-1] == count - 1
        for time, index in zip(times, indices, strict=True):
            assert intervals.edges[index] - 1e-6 <= time <= intervals.edges[index + 1] + 1e-6


def test_intervals_of_unknown_times_are_of_numbers():
    intervals = Intervals.of([None] * 10, 5)
    assert [intervals.index(None, number) for number in range(10)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_the_sharpest_frame_of_each_interval_is_taken(tmp_path: Path):
    sharp = [3, 5, 11, 12, 19]
    images = [noise(index, 0.0 if index in sharp else 1.5) for index in range(20)]
    assert taken(write_video(tmp_path / "a.mkv", images), 5) == sharp
    # Not only the number is that of the video.
    chosen = Image.open(tmp_path / "a_frames" / "frame_000011.jpg")
    difference = np.asarray(chosen, dtype=float) - np.asarray(images[11], dtype=float)
    assert np.sqrt((difference**2).mean()) < 8


def test_intervals_are_of_time_where_frames_are_unevenly_spread(tmp_path: Path):
    times = [*range(10), 20, 30, 40]  # of 40 and the last one's length, 43.3
    images = [noise(index) for index in range(13)]
    numbers = taken(write_video(tmp_path / "a.mkv", images, times=times), 4)
    assert len(numbers) == 4 and numbers[0] < 10 and numbers[1:] == [10, 11, 12]


def test_a_camera_that_stands_still_is_not_taken_twice(tmp_path: Path):
    images = [noise(0, 1)] * 10 + [noise(1, 1)] * 10 + [noise(2, 1)] * 4
    assert len(taken(write_video(tmp_path / "a.mkv", images), 8)) == 3


def test_of_few_frames_all_are_taken(tmp_path: Path):
    images = [noise(index) for index in range(4)]
    assert taken(write_video(tmp_path / "a.mkv", images, times=[0, 1, 2, 50]), 60) == [0, 1, 2, 3]
    assert taken(write_video(tmp_path / "b.mkv", images[:1]), 60) == [0]


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_phones_turn_their_videos(tmp_path: Path, degrees: int, mirrored: bool):
    rotation = (degrees, mirrored, False)
    video = write_video(tmp_path / "a.mp4", [quarters()] * 3, "mpeg4", "yuv420p", rotation=rotation)
    upright = quarters().rotate(degrees, expand=True)  # counter-clockwise, as PyAV counts
    if mirrored:
        upright = upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shown = first_image(video)
    assert shown.shape == np.asarray(upright).shape
    rows, columns = ([side // 4, 3 * side // 4] for side in shown.shape[:2])
    middles = np.ix_(rows, columns)
    assert np.abs(shown[middles].astype(int) - np.asarray(upright)[middles]).max() < 20


def test_orientations_are_those_of_exif():
    corners = np.array([[0, 0, 1], [2, 0, 1], [0, 1, 1]], dtype=float)  # of a picture of 3x2 pixels
    for (a, b, c, d), orientation in video_module._ORIENTATIONS.items():
        values = np.arange(6, dtype=np.uint8).reshape(2, 3)
        shown = np.asarray(as_displayed(Image.fromarray(values), orientation))
        points = corners[:, :2] @ np.array([[a, b], [c, d]])
        every = np.array([[x, y] for y in range(2) for x in range(3)]) @ np.array([[a, b], [c, d]])
        columns, rows = (points - every.min(axis=0)).astype(int).T
        assert shown[rows, columns].tolist() == [0, 2, 3], f"{(a, b, c, d)}"


def test_pixels_that_are_no_squares_become_squares(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", [quarters()] * 2, "mpeg4", "yuv420p", pixel_aspect=Fraction(3, 2))
    assert first_image(video).shape == (32, 72, 3)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuv444p16le", "gray"])
def test_video_levels_and_depths_become_8_bits(tmp_path: Path, pixels: str):
    shown = first_image(write_video(tmp_path / "a.mkv", [quarters()] * 2, pixels=pixels))
    assert shown.shape == (32, 48, 3) and shown.dtype == np.uint8
    assert shown[24, 36].min() >= 252, "white is white"
    if pixels != "gray":
        assert np.abs(shown[8, 12].astype(int) - [255, 0, 0]).max() < 12


def test_alpha_is_kept(tmp_path: Path):
    image = quarters()
    image.putalpha(Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (32, 24))))
    shown = first_image(write_video(tmp_path / "a.mov", [image] * 2, "qtrle", "argb"))
    assert np.array_equal(shown, np.asarray(image))
    assert (tmp_path / "a_frames" / "frame_000000.png").is_file()


# Where they are


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "takes"
    folder.mkdir()
    return write_video(folder / "walk.mkv", [noise(index) for index in range(12)])


@pytest.fixture
def read_anew() -> Callable[[Path, int], Path]:
    """As another process does."""

    def read(video: Path, count: int) -> Path:
        video_module._folder_of_frames.cache_clear()
        return folder_of_frames(video, count)

    return read


def test_frames_are_written_once(clip: Path, read_anew: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    folder = read_anew(clip, 6)
    assert folder == clip.parent / "walk_frames" and folder.is_absolute()
    assert sorted(path.name for path in clip.parent.iterdir()) == ["walk.mkv", "walk_frames"]
    record = json.loads((folder / RECORD).read_text())
    assert record["video"] == "walk.mkv"
    assert record["frames"] == [path.name for path in sorted(folder.glob("frame_*"))]
    with monkeypatch.context() as patch:
        patch.setattr(video_module, "_save_sharpest", lambda *_: pytest.fail("was done before"))
        os.utime(clip, (1, 1))  # copied elsewhere, say
        assert read_anew(clip, 6) == folder
    (folder / record["frames"][2]).unlink()  # blurred, the user thinks
    assert len(read_all_frames(clip, 6)) == 5


def test_other_frames_get_another_folder(clip: Path, read_anew: Callable[..., Path]):
    (clip.parent / "walk_frames").mkdir()
    (clip.parent / "walk_frames" / "frame_000000.jpg").write_text("somebody's")
    assert read_anew(clip, 6).name == "walk_frames_2"
    assert read_anew(clip, 4).name == "walk_frames_3"
    write_video(clip, [noise(index) for index in range(12, 24)])
    assert read_anew(clip, 6).name == "walk_frames_4"
    assert [len(list((clip.parent / f"walk_frames{end}").iterdir())) for end in ("", "_2", "_3")] == [1, 7, 5]


def test_the_same_video_always_gives_the_same_files(clip: Path, read_anew: Callable[..., Path]):
    first = read_anew(clip, 6)
    first.rename(first.with_name("kept"))
    again = read_anew(clip, 6)
    for file in (first.with_name("kept")).iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_without_rights_beside_the_video_the_cache_serves(
    clip: Path, tmp_path: Path, read_anew: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    make, refused = Path.mkdir, [clip.parent]

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        if path.parent in refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        make(path, *arguments, **options)

    cache = tmp_path / "cache" / "gnerf_ns"
    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(video_module.appdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    assert read_anew(clip, 6) == cache / "walk_frames"
    assert read_anew(clip, 6) == cache / "walk_frames", "found again"
    refused.append(cache)
    with pytest.raises(InputError, match=r"walk\.mkv can be written neither to .*takes nor to .*cache/gnerf_ns; copy"):
        read_anew(clip, 5)


def test_a_name_that_another_run_takes_at_the_same_time(
    clip: Path, read_anew: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    write = video_module._save_sharpest

    def slowly(*arguments: Any) -> List[str]:
        (clip.parent / "walk_frames").mkdir()
        (clip.parent / "walk_frames" / "theirs").touch()
        return write(*arguments)

    monkeypatch.setattr(video_module, "_save_sharpest", slowly)
    assert read_anew(clip, 6).name == "walk_frames_2"
    assert [path.name for path in (clip.parent / "walk_frames").iterdir()] == ["theirs"]


def test_a_full_disk_leaves_nothing(clip: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match=r"walk\.mkv cannot be written to .*takes \(No space left on device\); make"):
        folder_of_frames(clip, 6)
    assert [path.name for path in clip.parent.iterdir()] == ["walk.mkv"]


# What cannot be read


def with_sound_alone(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def with_its_index_cut_off(path: Path) -> None:
    write_video(path, [noise(index) for index in range(30)], "mpeg4", "yuv420p")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_bytes(b""), r"a\.mp4 is empty \(0 bytes\); replace it\.$"),
        (
            lambda path: path.write_text("no video"),
            r"a\.mp4 cannot be read \(Invalid data .*\); replace it, or convert",
        ),
        (lambda path: path.write_text("#EXTM3U\n#EXTINF:9,\nhttp://localhost/a.ts\n"), r"a\.mp4 cannot be read"),
        (with_sound_alone, r"a\.mp4 has no moving pictures \(only sound, say\); give a video, or images\.$"),
        (with_its_index_cut_off, r"a\.mp4 cannot be read \(Invalid data .*\); replace it"),
        (lambda path: None, r"a\.mp4 cannot be read \(No such file or directory\); check the path\.$"),
    ],
)
def test_what_is_no_video(tmp_path: Path, make: Callable[[Path], Any], sentence: str):
    make(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=sentence):
        folder_of_frames(tmp_path / "a.mp4", 6)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.mp4"}


def test_no_intervals(clip: Path):
    with pytest.raises(InputError, match=r"--video-frames 0 leaves no image"):
        folder_of_frames(clip, 0)


def test_a_broken_end_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = [noise(index) for index in range(100)]
    whole = write_video(tmp_path / "whole.mkv", images).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    numbers = taken(tmp_path / "cut.mkv", 10)
    assert len(numbers) == 10 and 40 < numbers[-1] < 52
    assert "The end of cut.mkv is missing: there are pictures for 1.9 of 4.0 seconds." in capsys.readouterr().out


def test_nothing_is_taken_from_where_a_video_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = {"movflags": "faststart"}
    images = [noise(index, 1) for index in range(60)]
    video = write_video(tmp_path / "a.mp4", images, "mpeg4", "yuv420p", options=options)
    content = bytearray(video.read_bytes())
    begin = content.rindex(b"mdat") + 4
    random = np.random.default_rng(0)
    for place in random.integers(begin + (len(content) - begin) // 2, len(content), 400):
        content[place] ^= 0xFF
    video.write_bytes(content)
    numbers = taken(video, 30)
    assert "frames of a.mp4 cannot be decoded, and are left out." in capsys.readouterr().out
    assert len(numbers) >= 5
    for number in numbers:
        shown = np.asarray(Image.open(tmp_path / "a_frames" / f"frame_{number:06d}.jpg"), dtype=float)
        rms = [np.sqrt(((shown - np.asarray(image, dtype=float)) ** 2).mean()) for image in images]
        assert min(rms) < 25, f"{number} is none of the images"


# As data


@pytest.mark.parametrize("given", ["walk.mkv", "."])
def test_a_video_or_its_folder_is_data(clip: Path, given: str):
    for _ in range(2):
        train, held_out = read_frames(clip.parent / given, eval_interval=4, video_frames=8)
        assert (len(train), len(held_out)) == (6, 2)
        assert {frame.image.parent for frame in train + held_out} == {clip.parent / "walk_frames"}
    assert len(read_all_frames(clip.parent / given, 8)) == 8


def test_a_video_that_is_too_short_is_told_as_such(tmp_path: Path):
    video = write_video(tmp_path / "a.mkv", [noise(index) for index in range(4)])
    parser = UnposedDataParserConfig(data=video).setup()
    with pytest.raises(InputError, match=r"a\.mkv has 4 images .* are needed; film from more places, or lower"):
        parser.get_dataparser_outputs("train")


def test_masks_can_be_added_to_the_frames(clip: Path):
    frames = read_all_frames(clip, 6)
    masks = clip.parent / "walk_frames" / "masks"
    masks.mkdir()
    for frame in frames:
        Image.new("L", SIZE, 255).save(masks / f"{frame.image.stem}.png")
    assert [frame.mask for frame in read_all_frames(clip, 6)] == [masks / f"{frame.image.stem}.png" for frame in frames]


def test_of_several_videos_one_must_be_given(clip: Path):
    clip.with_name("other.MOV").touch()
    with pytest.raises(InputError, match=r"No image is among .*takes, but in .*other\.MOV, .*walk\.mkv; give one"):
        read_all_frames(clip.parent, 6)


def test_images_go_before_a_video_beside_them(clip: Path, capsys: pytest.CaptureFixture[str]):
    noise(0).save(clip.with_name("a.png"))
    assert [frame.image.name for frame in read_all_frames(clip.parent, 6)] == ["a.png"]
    assert "1 .mkv" in capsys.readouterr().out
