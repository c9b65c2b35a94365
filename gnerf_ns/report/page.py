"""A report as one page of HTML that needs nothing else: no network, no other file."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gnerf_ns.cameras.plots import frusta, frustum_depth
from gnerf_ns.report.contents import CloudPoints, PoseFigures, ReportContents, ReportedImage, ShownCurve
from gnerf_ns.report.pictures import DIFFERENCE_GAIN, difference, jpeg_uri
from gnerf_ns.utils.console import readable
from gnerf_ns.utils.disk import write_whole
from gnerf_ns.utils.errors import InputError
from gnerf_ns.viewing.confidence_colors import (
    FLAG_COLOR,
    SCALE_DEG,
    confidence_color,
    expected_error_deg,
    hexadecimal,
    scale_colors,
)

REPORT = "report.html"
"""Its usual name."""

PHOTO_SIDE, RENDERING_SIDE = 320, 160
"""Longer sides of the photo, which opens larger on a click, and of the pictures beside it, in pixels."""
PHOTO_BYTES, RENDERING_BYTES = 33_000, 12_000
"""Largest JPEG files of a photo, and of each picture beside it: with four of them and plotly's 4.8 MB, a hundred images
stay under 15 MB, whatever they show. Photographs need a third of that."""
MAX_POINTS = 4000
"""Of the surface, for old telephones."""
MAX_CURVE_POINTS = 300
"""Of a curve: about as many as it has pixels."""

MARK = '<meta name="generator" content="gnerf_ns report">'
"""By which a report is known."""
MARK_BYTES = 1000
"""It stands in the first so many."""

GRADIENT_COLORS = 9
"""Colors of the legend's scale, between which a browser mixes."""


def write_report(path: Path, contents: ReportContents) -> None:
    """Write a report, whole or not at all, in place of an older one.

    Raises:
        InputError: as `check_place`; or nothing can be written there.
    """
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, report_html(contents))
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); make room, or write elsewhere."
        ) from error


def check_place(path: Path) -> None:
    """Whether a report can be there.

    Raises:
        InputError: what is there is no report.
    """
    if path.exists() and not is_report(path):
        raise InputError(f"{path} is there already and is not a report of gnerf_ns: it stays as it is; move it away.")


def is_report(path: Path) -> bool:
    """Whether a file was written by `write_report`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(MARK_BYTES)


def report_html(contents: ReportContents) -> str:
    """The page.

    Names and sentences may hold anything: they are escaped; what of them is not Unicode, as in names of files of old
    systems, becomes U+FFFD.
    """
    from plotly.offline import get_plotlyjs  # which takes a second to import

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "ensure_ascii": False,
        "separators": (",", ":"),
    }
    plots = _plots(contents)
    page = environment.from_string(_part("page.html")).render(
        contents=contents,
        mark=Markup(MARK),
        style=Markup(_part("page.css")),
        script=Markup(_part("page.js")),
        plotly=Markup(get_plotlyjs()),
        summary=_summary(contents),
        flagged=[(index, image) for index, image in enumerate(contents.images) if image.figures.is_flagged],
        cards=[
            {**_card(image), "is_drawn": drawn is not None}
            for image, drawn in zip(contents.images, plots["frusta"], strict=True)
        ],
        plots=plots,
        flag_color=hexadecimal(FLAG_COLOR),
        gradient=", ".join(hexadecimal(color) for color in scale_colors(GRADIENT_COLORS)),
        scale=[f"{end:g}°" for end in SCALE_DEG],
        is_judged=any(image.figures.is_flagged is not None for image in contents.images),
    )
    return readable(page)


def _part(name: str) -> str:
    return (files("gnerf_ns.report") / name).read_text(encoding="utf-8")


# Words


def _summary(contents: ReportContents) -> str:
    """How many images there are, and how many are flagged, in words that go with the verdict, which counts those that
    were trained on; a failed run's says already that no pose is to be trusted."""
    images = contents.images
    held_out = sum(image.is_held_out for image in images)
    flagged = [image.is_held_out for image in images if image.figures.is_flagged]
    words = f"{len(images)} images: {len(images) - held_out} trained on, {held_out} held out."
    if not flagged:
        return words
    of_held_out = ", held out" if all(flagged) else f", {sum(flagged)} of them held out" if any(flagged) else ""
    has_failed = contents.headline is not None and contents.headline.level == "failed"
    advice = f": do not trust {'its pose' if len(flagged) == 1 else 'their poses'} without a look"
    return f"{words} {len(flagged)} flagged{of_held_out}{'' if has_failed else advice}."


def figure_words(figures: PoseFigures) -> List[Tuple[str, str]]:
    """What is known of a pose: what each figure is, and its value in words."""
    known = [
        ("Rotation", figures.rotation_sigma_deg, lambda value: f"± {_rounded(value)}°"),
        (
            "Position",
            figures.translation_sigma_relative,
            lambda value: f"± {_rounded(100.0 * value)} % of the cameras’ distance",
        ),
        ("Belongs elsewhere", figures.alternative_probability, lambda value: f"probability {_percent(value)}"),
        ("Explained", figures.explained, lambda value: f"{max(0.0, value):.0%} of what it shows".replace("%", " %")),
    ]
    words = [(name, said(value)) for name, value, said in known if math.isfinite(value)]
    return words if figures.pose_from is None else [*words, ("Pose from", figures.pose_from)]


def _rounded(value: float) -> str:
    """Two significant digits, and no more than two behind the point."""
    if value < 0.01:
        return "less than 0.01"
    return f"{value:.2f}" if value < 1.0 else f"{value:.1f}" if value < 10.0 else f"{value:.0f}"


def _percent(probability: float) -> str:
    if probability < 0.001:
        return "less than 0.1 %"
    if probability > 0.999:
        return "more than 99.9 %"
    digits = 1 if probability < 0.1 or probability > 0.9 else 0
    return f"{100.0 * probability:.{digits}f} %"


# Colors


def camera_color(figures: PoseFigures) -> str:
    """Of a camera and its card: by how large an error of its pose is to be expected, or flagged."""
    if figures.is_flagged:
        return hexadecimal(FLAG_COLOR)
    error = expected_error_deg(figures.rotation_sigma_deg, figures.alternative_probability)
    return hexadecimal(confidence_color(error))


# Pictures and plots


def _card(image: ReportedImage) -> Dict[str, Any]:
    pictures = [("photo", image.photo, PHOTO_BYTES)]
    if image.rendering is not None:
        pictures.append(("rendering", image.rendering, RENDERING_BYTES))
        pictures.append((f"difference, × {DIFFERENCE_GAIN}", difference(image.photo, image.rendering), RENDERING_BYTES))
    if image.alternative is not None:
        pictures.append(("rendering from the best other place", image.alternative, RENDERING_BYTES))
    return {
        "image": image,
        "figures": figure_words(image.figures),
        "color": camera_color(image.figures),
        "pictures": [(caption, jpeg_uri(picture, limit)) for caption, picture, limit in pictures],
    }


def _plots(contents: ReportContents) -> Dict[str, Any]:
    """What the page's script draws. Cameras that are nowhere are not."""
    images = contents.images
    return {
        "names": [image.name for image in images],
        "colors": [camera_color(image.figures) for image in images],
        "heldOut": [image.is_held_out for image in images],
        "words": [[f"{name}: {value}" for name, value in figure_words(image.figures)] for image in images],
        "frusta": _frusta(images),
        "cloud": None if contents.points is None else _cloud(contents.points),
        "curves": [_thinned(curve) for curve in contents.curves],
    }


def _frusta(images: Sequence[ReportedImage]) -> List[Optional[List[List[Optional[float]]]]]:
    """The corners of each camera; None where its pose is not finite."""
    places = [index for index, image in enumerate(images) if bool(image.camera_to_world.isfinite().all())]
    drawn: List[Optional[List[List[Optional[float]]]]] = [None] * len(images)
    if places:
        poses = torch.stack([images[index].camera_to_world for index in places]).double()
        for index, corners in zip(places, frusta(poses, frustum_depth(poses, len(places))), strict=True):
            drawn[index] = _listed(torch.as_tensor(corners))
    return drawn


def _listed(points: torch.Tensor) -> List[List[Optional[float]]]:
    """Five digits of each; None for what JSON has no number for."""
    return [[float(f"{value:.5g}") if math.isfinite(value) else None for value in point] for point in points.tolist()]


def _cloud(points: CloudPoints) -> Dict[str, Any]:
    stride = max(1, math.ceil(len(points.positions) / MAX_POINTS))
    positions, colors = points.positions[::stride], points.colors[::stride]
    return {
        "positions": _listed(positions),
        "colors": ["#" + "".join(f"{value:02x}" for value in color) for color in colors.tolist()],
    }


def _thinned(curve: ShownCurve) -> Dict[str, Any]:
    """At most so many points, each the median of its neighborhood: single batches are noisy. A gap stays one."""
    values = torch.tensor(curve.values, dtype=torch.float64)
    size = max(1, math.ceil(len(values) / MAX_CURVE_POINTS))
    middles = [
        float(group[group.isfinite()].median()) if group.isfinite().any() else None for group in values.split(size)
    ]
    return {
        "name": curve.name,
        "steps": [curve.steps[min(first + size // 2, len(values) - 1)] for first in range(0, len(values), size)],
        "values": [None if value is None else float(f"{value:.5g}") for value in middles],
        "isLogarithmic": curve.is_logarithmic,
    }
