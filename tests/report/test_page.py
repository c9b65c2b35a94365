"""The page without a browser: what is in it, how large it is, and that nothing in it is taken for HTML."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
import torch
from made_report import HOSTILE_NAME, made_contents, made_images

from gnerf_ns.report.contents import CloudPoints, Headline, PoseFigures, ReportContents, ShownCurve
from gnerf_ns.report.page import (
    MAX_CURVE_POINTS,
    MAX_POINTS,
    camera_color,
    figure_words,
    is_report,
    report_html,
    write_report,
)
from gnerf_ns.training.live_view import look_of
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.utils.errors import InputError
from gnerf_ns.viewing.confidence_colors import FLAG_COLOR, SCALE_DEG, UNKNOWN_COLOR, confidence_color, hexadecimal


class Reader(HTMLParser):
    """Elements and visible texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: List[Tuple[str, Dict[str, Optional[str]]]] = []
        self.texts: List[str] = []
        self.scripts: List[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.texts.append(data)

    def named(self, tag: str) -> List[Dict[str, Optional[str]]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(made_contents(7, photo_side=24, rendering_side=16))


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def test_hundred_images_of_noise_stay_under_15_megabytes():
    assert len(report_html(made_contents(100)).encode()) < 15e6


def test_everything_is_said(reader: Reader):
    for text in (
        "Doubtful 3 images are to be looked at",
        "7 images: 6 trained on, 1 held out. 3 flagged: do not trust their poses without a look.",
        "The field explains 97 % of what a typical image shows.",
        "Not known: how sure the poses are",
        "Lens: intrinsics from transforms.json.",
        "ns-viewer --load-config 'a & b/config.yml'",
    ):
        assert text in reader.text, text


def test_cards_come_in_the_order_given(reader: Reader):
    cards = reader.named("article")
    assert [card["id"] for card in cards] == [f"image-{index}" for index in range(7)]
    flagged = ["flagged" in str(card["class"]).split() for card in cards]
    held_out = ["held-out" in str(card["class"]).split() for card in cards]
    assert flagged == [True] * 3 + [False] * 4
    assert held_out == [False] * 4 + [True] + [False] * 2


def test_alternatives_are_shown_beside_the_others(reader: Reader):
    captions = [str(image["alt"]) for image in reader.named("img") if image.get("src")]
    assert len(captions) == 7 * 3 + 3
    of_second = [caption for caption in captions if caption.endswith(" of image 1.png")]
    assert [caption.removesuffix(" of image 1.png") for caption in of_second] == [
        "photo",
        "rendering",
        "difference, × 3",
        "rendering from the best other place",
    ]


def test_names_are_only_names(page: str, reader: Reader):
    assert HOSTILE_NAME not in page
    assert page.count("</script>") == 3, "data, plotly and ours"
    assert reader.named("article")[0]["id"] == "image-0"
    assert HOSTILE_NAME in reader.text
    assert json.loads(reader.scripts[0])["names"][0] == HOSTILE_NAME


def test_nothing_is_fetched(reader: Reader):
    for tag, attributes in reader.elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#image-")), (tag, value)
    assert "default-src 'none'" in str([meta.get("content") for meta in reader.named("meta")])


def test_what_is_drawn(reader: Reader):
    plots = json.loads(reader.scripts[0])
    images = made_images(7, photo_side=24, rendering_side=16)
    assert len(plots["cloud"]["positions"]) == len(plots["cloud"]["colors"]) <= MAX_POINTS
    assert plots["heldOut"] == [image.is_held_out for image in images]
    for corners, image in zip(plots["frusta"], images, strict=True):
        assert corners[5] == pytest.approx(image.camera_to_world[:, 3].tolist(), abs=1e-3), "the last one is the center"
    assert [curve["name"] for curve in plots["curves"]] == ["Loss", "PSNR in dB"]
    assert plots["curves"][1]["values"][-1] == pytest.approx(29.95, abs=0.1)


def test_long_curves_are_thinned_and_gaps_stay():
    values = [math.nan if 1000 <= step < 3000 else float(step) for step in range(10_000)]
    contents = ReportContents("a run", [], curves=[ShownCurve("Loss", range(10_000), values)])
    (curve,) = json.loads(Reader(report_html(contents)).scripts[0])["curves"]
    assert len(curve["steps"]) == len(curve["values"]) <= MAX_CURVE_POINTS
    for step, value in zip(curve["steps"], curve["values"], strict=True):
        assert abs(step - value) <= 35.0 if value is not None else 1000 <= step < 3035
    assert 50 < curve["values"].count(None) < 70


def test_a_run_of_which_little_is_known():
    (image,) = made_images(1, photo_side=8)
    image = type(image)("a.png", image.camera_to_world, image.photo)
    text = Reader(report_html(ReportContents("a run", [image], not_known=["how sure the poses are."]))).text
    assert "No curves of the training were kept." in text
    assert "flagged" not in text and "sure unsure" not in text
    assert "Not known: how sure the poses are." in text


def test_no_images_at_all():
    assert "0 images" in Reader(report_html(ReportContents("a run", []))).text


def test_figures_in_words():
    figures = PoseFigures(0.123, 0.0251, 0.00001, -0.2, "matches", False)
    assert figure_words(figures) == [
        ("Rotation", "± 0.12°"),
        ("Position", "± 2.5 % of the cameras’ distance"),
        ("Belongs elsewhere", "probability less than 0.1 %"),
        ("Explained", "0 % of what it shows"),
        ("Pose from", "matches"),
    ]
    assert figure_words(PoseFigures()) == []
    assert figure_words(PoseFigures(rotation_sigma_deg=0.001))[0][1] == "± less than 0.01°"
    assert figure_words(PoseFigures(rotation_sigma_deg=17.4))[0][1] == "± 17°"
    for probability, words in ((0.0234, "2.3 %"), (0.5, "50 %"), (0.95, "95.0 %"), (0.9999, "more than 99.9 %")):
        assert figure_words(PoseFigures(alternative_probability=probability))[0][1] == f"probability {words}"


def test_colors_are_the_viewers():
    assert camera_color(PoseFigures()) == hexadecimal(UNKNOWN_COLOR)
    assert camera_color(PoseFigures(is_flagged=False)) == hexadecimal(UNKNOWN_COLOR)
    assert camera_color(PoseFigures(rotation_sigma_deg=0.1, is_flagged=True)) == hexadecimal(FLAG_COLOR)
    status = PoseStatus(PoseOrigin.MATCHES, 0.9, False, 0.7, 0.01, 0.2)
    figures = PoseFigures(rotation_sigma_deg=0.7, alternative_probability=0.2, is_flagged=False)
    assert camera_color(figures) == hexadecimal(look_of(status).color)


def test_the_legend_shows_the_scale(reader: Reader, page: str):
    assert "error of 0.1° expected 10° and more" in reader.text
    first, last = (hexadecimal(confidence_color(end)) for end in SCALE_DEG)
    assert f"--flagged: {hexadecimal(FLAG_COLOR)}; --scale: {first}, " in page and f", {last}; }}" in page


def parsed(html: str) -> Any:
    """What the script draws, by the rules of browsers, which know no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(Reader(html).scripts[0], parse_constant=refuse)


def test_cameras_that_are_nowhere_are_not_drawn_and_leave_others_as_they_are():
    images = made_images(4, photo_side=8, rendering_side=8)
    nowhere = images[1].camera_to_world.clone()
    nowhere[0, 3] = math.nan
    broken = replace(images[1], camera_to_world=nowhere, figures=PoseFigures(math.inf, math.nan, math.inf, -math.inf))
    page = report_html(ReportContents("a run", [images[0], broken, *images[2:]]))
    plots = parsed(page)
    assert plots["frusta"][1] is None and len(plots["names"]) == 4
    assert [plots["frusta"][index] for index in (0, 2, 3)] == parsed(
        report_html(ReportContents("a run", [images[0], *images[2:]]))
    )["frusta"]
    buttons = [button for button in Reader(page).named("button") if button.get("class") == "show-camera"]
    assert [button["data-index"] for button in buttons] == ["0", "2", "3"]
    assert page.count("Its pose is not finite") == 1
    assert parsed(report_html(ReportContents("a run", [broken])))["frusta"] == [None]


def test_points_that_are_nowhere_are_gaps():
    positions = torch.tensor([[0.0, 1.0, math.nan], [math.inf, 2.0, 3.0]])
    contents = ReportContents("a run", [], points=CloudPoints(positions, torch.zeros(2, 3, dtype=torch.uint8)))
    assert parsed(report_html(contents))["cloud"]["positions"] == [[0.0, 1.0, None], [None, 2.0, 3.0]]


def test_names_that_are_not_unicode_are_shown_without_what_is_not(tmp_path: Path):
    (image,) = made_images(1, photo_side=8, rendering_side=8)
    name = os.fsdecode(b"caf\xe9.jpg")
    contents = ReportContents(name, [replace(image, name=name)], headline=Headline("good", name), facts=[name, "Größe"])
    write_report(tmp_path / "report.html", contents)
    page = (tmp_path / "report.html").read_text("utf8")
    assert page.count("caf\ufffd.jpg") > 5 and parsed(page)["names"] == ["caf\ufffd.jpg"]
    assert "Größe" in page


@pytest.mark.parametrize(
    ("level", "flagged", "words"),
    [
        ("good", (), "2 trained on, 2 held out. The verdict"),
        ("good", (2,), "1 flagged, held out: do not trust its pose without a look."),
        ("good", (2, 3), "2 flagged, held out: do not trust their poses without a look."),
        ("doubtful", (0, 2), "2 flagged, 1 of them held out: do not trust their poses without a look."),
        ("doubtful", (0,), "1 flagged: do not trust its pose without a look."),
        ("failed", (0,), "1 flagged. Flagged: a0.png . The verdict"),
    ],
)
def test_the_head_counts_as_the_verdict_does(level: Any, flagged: Tuple[int, ...], words: str):
    """Which is about the images that were trained on."""
    (image,) = made_images(1, photo_side=8, rendering_side=8)
    images = [
        replace(image, name=f"a{index}.png", is_held_out=index > 1, figures=PoseFigures(is_flagged=index in flagged))
        for index in range(4)
    ]
    text = Reader(
        report_html(ReportContents("a run", images, headline=Headline(level, "So."), remarks=["The verdict"]))
    )
    head = text.text[: text.text.index("Cameras")]
    assert words in head
    assert [f"a{index}.png (held out)" in head for index in (2, 3)] == [index in flagged for index in (2, 3)]


def test_where_commands_are_to_be_typed():
    contents = replace(made_contents(1, photo_side=8, rendering_side=8), commands_place="the run’s folder, a/b & c")
    assert "To be typed in the run’s folder, a/b & c: Look at it:" in Reader(report_html(contents)).text


def test_reports_are_replaced_and_other_files_are_not(tmp_path: Path):
    path, contents = tmp_path / "new" / "report.html", ReportContents("first", [])
    write_report(path, contents)
    assert is_report(path) and "first" in path.read_text("utf8")
    write_report(path, ReportContents("second", []))
    assert "second" in path.read_text("utf8")
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]

    path.write_text("<p>my own notes</p>")
    with pytest.raises(InputError, match=r"report\.html is there already and is not a report"):
        write_report(path, contents)
    assert path.read_text() == "<p>my own notes</p>"
    with pytest.raises(InputError, match="is not a report"):
        write_report(tmp_path, contents)


def test_where_nothing_can_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written \(.*\); make room"):
        write_report(tmp_path / "file" / "report.html", ReportContents("a run", []))


def test_every_part_is_in_the_package():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")

    root = Path(__file__).resolve().parents[2]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    (pattern,) = declared["gnerf_ns.report"]
    parts = {path.name for path in (root / "gnerf_ns" / "report").iterdir() if path.suffix in (".html", ".css", ".js")}
    assert parts == {path.name for path in (root / "gnerf_ns" / "report").glob(pattern) if path.suffix != ".py"}
    assert not re.search(r"https?://", " ".join((root / "gnerf_ns" / "report" / part).read_text() for part in parts))
