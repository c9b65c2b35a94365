"""Images as pycolmap gets them, and a child process that aborts, hangs or is not there."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List, Sequence, Tuple

import numpy as np
import pytest
from nerfstudio.cameras.cameras import CameraType
from PIL import Image

from gnerf_ns.data.images import ImageSize
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.matching import matcher
from gnerf_ns.matching.job import IMAGES, MASKS, RESULT, image_name
from gnerf_ns.matching.local_matches import LocalMatches, PairMatches
from gnerf_ns.matching.matcher import MatchedImages, NoMatches, camera_groups, match_images, run_child

NO_PAIRS = PairMatches(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))


def lens(**changes: Any) -> Intrinsics:
    return replace(Intrinsics(ImageSize(40, 30), (50.0, 52.0), (20.0, 14.0)), **changes)


def images(folder: Path, *lenses: Intrinsics, known: bool = True) -> MatchedImages:
    lenses = lenses or (lens(),) * 3
    count = len(lenses)
    files = [folder / f"{number}.png" for number in range(count)]
    for file in files:
        Image.fromarray(np.full((30, 40, 3), 128, dtype=np.uint8)).save(file)
    return MatchedImages(files, None, {}, lenses, known)


def test_known_lenses_are_told_apart_and_scaled_to_the_images(tmp_path: Path):
    groups = camera_groups(images(tmp_path, lens(), lens(focal=(60.0, 52.0)), lens()), [ImageSize(20, 15)] * 3)
    assert [(group.images, group.model, group.is_known) for group in groups] == [
        ([0, 2], "PINHOLE", True),
        ([1], "PINHOLE", True),
    ]
    assert groups[0].parameters == [25.0, 26.0, 10.0, 7.0]


@pytest.mark.parametrize(
    ("distortion", "camera_type", "model", "parameters"),
    [
        ((0.1, 0.2, 0, 0, 0.3, 0.4), CameraType.PERSPECTIVE, "OPENCV", [0.1, 0.2, 0.3, 0.4]),
        ((0.1, 0.2, 0.5, 0, 0.3, 0.4), CameraType.PERSPECTIVE, "FULL_OPENCV", [0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0]),
        ((0.1, 0.2, 0.3, 0.4, 0, 0), CameraType.FISHEYE, "OPENCV_FISHEYE", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_distorted_lenses(
    tmp_path: Path, distortion: Tuple[float, ...], camera_type: CameraType, model: str, parameters: List[float]
):
    given = images(tmp_path, *[lens(distortion=distortion, camera_type=camera_type)] * 3)
    (group,) = camera_groups(given, [ImageSize(40, 30)] * 3)
    assert group.model == model and group.parameters[4:] == pytest.approx(parameters)


def test_lenses_that_are_not_known_are_found_by_size(tmp_path: Path):
    given = images(tmp_path, known=False)
    groups = camera_groups(given, [ImageSize(40, 30), ImageSize(30, 40), ImageSize(40, 30)])
    assert [(group.images, group.model, group.parameters, group.is_known) for group in groups] == [
        ([0, 2], "SIMPLE_RADIAL", [], False),
        ([1], "SIMPLE_RADIAL", [], False),
    ]


def test_what_is_laid_out(tmp_path: Path):
    turned, masked = tmp_path / "turned.jpg", tmp_path / "a.png"
    pixels = np.zeros((30, 40, 4), dtype=np.uint8)
    pixels[:10, :, 3] = 255
    Image.fromarray(pixels).save(masked)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(turned, exif=exif)
    folder = tmp_path / "laid_out"
    folder.mkdir()
    given = MatchedImages([masked, turned], None, {turned: 6}, [lens(), lens()], True)
    shown_stages: List[Tuple[str, int, int]] = []
    sizes = matcher._lay_out(given, folder, lambda *stage: shown_stages.append(stage))
    assert shown_stages == [("reading", 0, 2), ("reading", 1, 2)]
    assert sizes == ([ImageSize(40, 30), ImageSize(30, 40)], True)
    shown = np.array(Image.open(folder / IMAGES / image_name(0)))
    assert (shown[:10] == 0).all() and (shown[10:] == 255).all()
    mask = np.array(Image.open(folder / MASKS / f"{image_name(0)}.png"))
    assert (mask[:10] == 255).all() and (mask[10:] == 0).all()
    assert Image.open(folder / IMAGES / image_name(1)).size == (30, 40)


def child(code: str, folder: Path, no_progress_s: float = 30.0) -> List[Tuple[str, int, int]]:
    said: List[Tuple[str, int, int]] = []
    run_child([sys.executable, "-c", code], folder, no_progress_s, lambda *words: said.append(words))
    return said


def test_progress_is_told_and_other_output_is_not(tmp_path: Path):
    assert child("print('features 3 7'); print('I0101 something'); print('cameras 2 2')", tmp_path) == [
        ("features", 3, 7),
        ("cameras", 2, 2),
    ]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "by signal 9"),
        ("import os; os.abort()", "by signal 6"),
        ("raise ValueError('no good')", r"status 1 \(ValueError: no good\)"),
    ],
)
def test_a_child_that_fails(tmp_path: Path, code: str, message: str):
    with pytest.raises(NoMatches, match=message):
        child(code, tmp_path)


def test_a_child_that_hangs_is_stopped(tmp_path: Path):
    begin = time.monotonic()
    with pytest.raises(NoMatches, match="no progress for 2 s"):
        child("print('features 1 2', flush=True); import time; time.sleep(600)", tmp_path, no_progress_s=2.0)
    assert time.monotonic() - begin < 60


def test_a_child_that_hangs_after_its_last_line_is_stopped(tmp_path: Path):
    with pytest.raises(NoMatches, match="no progress for 2 s"):
        child("import os, time; os.close(1); time.sleep(600)", tmp_path, no_progress_s=2.0)


@pytest.mark.parametrize("problem", ["missing", "broken"])
def test_a_run_goes_on_without_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: str
):
    if problem == "missing":
        monkeypatch.setattr(matcher.importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(matcher.sys, "executable", str(tmp_path / "nowhere"))
    assert match_images(images(tmp_path)) is None
    said = capsys.readouterr().out
    assert "No local matches: " in said and said.count("\n") == 1
    assert "pycolmap is not installed" in said if problem == "missing" else "could not be started" in said


@pytest.mark.parametrize("end", ["os.abort()", "time.sleep(600)"])
def test_what_was_found_before_a_child_failed_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str
):
    def run(command: Sequence[str], folder: Path, no_progress_s: float, show: Callable[..., None]) -> None:
        LocalMatches([], NO_PAIRS, np.array([7])).save(folder / RESULT)
        run_child([sys.executable, "-c", f"import os, time; {end}"], folder, 2.0, show)

    monkeypatch.setattr(matcher, "run_child", run)
    found = match_images(images(tmp_path))
    assert found is not None and found.misplaced.tolist() == [7]
    said = capsys.readouterr().out
    assert said.startswith("Matching did not finish: ") and said.count("\n") <= 2
