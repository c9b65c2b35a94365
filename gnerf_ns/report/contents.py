"""What a report shows, as plain data: whoever has images with poses can have them reported."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import List, Literal, NamedTuple, Optional, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

UNKNOWN = math.nan
"""A figure that nobody has found out."""


class PoseFigures(NamedTuple):
    """How far one pose can be trusted. What is not known is NaN or None."""

    rotation_sigma_deg: float = UNKNOWN
    """Standard deviation of the rotation, in degrees."""
    translation_sigma_relative: float = UNKNOWN
    """That of the position, as a share of the cameras' distance."""
    alternative_probability: float = UNKNOWN
    """That the right pose is another one, far away."""
    explained: float = UNKNOWN
    """Share of the image's contrast that the rendering from the pose explains: 1 for all."""
    pose_from: Optional[str] = None
    """Where the pose is from, in a word or two."""
    is_flagged: Optional[bool] = None
    """Whether the pose is to be distrusted."""


@dataclass(frozen=True)
class ReportedImage:
    """One image, what the field shows in its place, and its pose."""

    name: str
    """Of its file."""
    camera_to_world: Float[Tensor, "3 4"]
    """In the frame of the report, where z is up; on the CPU."""
    photo: UInt8[np.ndarray, "height width 3"]
    """The image, as large as it is to be looked at."""
    rendering: Optional[UInt8[np.ndarray, "height_ width_ 3"]] = None
    """What the field shows from the pose; smaller than the photo, perhaps. None where nothing renders it."""
    alternative: Optional[UInt8[np.ndarray, "_height _width 3"]] = None
    """What it shows from the best pose far away; None where none is known, or the image is not flagged."""
    is_held_out: bool = False
    """Whether it was kept out of training."""
    figures: PoseFigures = field(default_factory=PoseFigures)
    """How far the pose can be trusted."""


class CloudPoints(NamedTuple):
    """Points of the surface, on the CPU."""

    positions: Float[Tensor, "points 3"]
    """In the frame of the cameras."""
    colors: UInt8[Tensor, "points 3"]
    """0-255."""


class ShownCurve(NamedTuple):
    """A quantity over the steps of training."""

    name: str
    """What it is, with its unit."""
    steps: Sequence[int]
    """At which it was measured."""
    values: Sequence[float]
    """At each of these steps."""
    is_logarithmic: bool = False
    """Whether its axis is."""


class Headline(NamedTuple):
    """What the run has come to."""

    level: Literal["good", "doubtful", "failed"]
    """How far its result can be trusted."""
    sentence: str
    """The same in words."""


class ShownCommand(NamedTuple):
    """A command to go on with."""

    purpose: str
    """What it is good for."""
    line: str
    """As it is to be typed."""


@dataclass(frozen=True)
class ReportContents:
    """All that a report shows."""

    title: str
    """Name of the run."""
    images: List[ReportedImage]
    """In the order in which they are shown."""
    order: str = "the most doubtful first"
    """The same in words."""
    headline: Optional[Headline] = None
    """None where nobody has judged."""
    remarks: List[str] = field(default_factory=list)
    """Further sentences about the result, shown below the headline."""
    not_known: List[str] = field(default_factory=list)
    """Sentences about what would be here in a report of another run."""
    facts: List[str] = field(default_factory=list)
    """Sentences about what was read and how."""
    points: Optional[CloudPoints] = None
    """The surface; None where it is not known."""
    curves: List[ShownCurve] = field(default_factory=list)
    """Of training; empty where none were kept."""
    commands: List[ShownCommand] = field(default_factory=list)
    """To go on."""
    commands_place: str = ""
    """The folder in which they are to be typed, in words: reports are sent to others, so paths in them are relative."""
