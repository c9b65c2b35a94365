"""What is said of each image's pose in the end: where it is from, how well the field shows the image, doubts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.matching.consistency import CLEAR_SHARE
from gnerf_ns.pose_search.costs import ImageCosts
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.utils.console import named

COMPARED_SIDE = 32
"""Longer side of the renderings that images are compared with, in pixels; larger ones take longer and tell the same."""
DOUBTFUL_RATIO = 3.0
"""An image is doubtful if what the field leaves unexplained of it is more than this many times the usual share,"""
DOUBTFUL_SHARE = 0.1
"""and more than this."""
UNEXPLAINED_SHARE = 0.5
"""So much left unexplained is doubtful in any case: the field does not show the image from there."""

BY_HEART_SHARE = 0.2
"""A field that leaves more of held-out images unexplained, and `DOUBTFUL_RATIO` times what it leaves of others, knows
these by heart. Right fields leave 2 to 9 %, also of a dozen images."""

ORIGIN_WORDS = {
    PoseOrigin.APPEARANCE: "appearance",
    PoseOrigin.MATCHES: "matches",
    PoseOrigin.GIVEN: "given",
    PoseOrigin.LOOKED_UP: "looked up",
    PoseOrigin.GROUP: "group",
    PoseOrigin.DOUBTFUL_MATCHES: "doubtful matches",
}
"""How a transforms.json and the screen name them."""


class PoseStatus(NamedTuple):
    """Of one image."""

    origin: PoseOrigin
    """Where its pose is from."""
    explained: float
    """Share of the image's contrast that a rendering there explains: 1 for all; below 0 where it is worse than none."""
    is_doubtful: bool
    """Whether that is much less than usual, or less than half, or matches contradict each other about the pose."""

    @property
    def entries(self) -> Dict[str, Any]:
        """What is written beside the pose."""
        return {
            "pose_from": ORIGIN_WORDS[self.origin],
            "explained": round(self.explained, 4),
            "doubtful": self.is_doubtful,
        }


@torch.no_grad()
def pose_statuses(
    costs: ImageCosts,
    image_set: ImageSet,
    camera_to_worlds: Float[Tensor, "n 3 4"],
    origins: Int[Tensor, "n"],
    are_sides_alike: bool = False,
) -> List[PoseStatus]:
    """Hold each image against what the field shows from its pose.

    Args:
        costs: of the trained field.
        image_set: the images.
        camera_to_worlds: their poses.
        origins: where these are from: `PoseOrigin`.
        are_sides_alike: whether what was looked up may have been found on the wrong one of sides that are alike.
    """
    unexplained = costs.relative(image_set, camera_to_worlds, COMPARED_SIDE)
    usual = unexplained.median()
    doubtful = (unexplained > DOUBTFUL_RATIO * usual) & (unexplained > DOUBTFUL_SHARE)
    origins = origins.to(unexplained.device)
    doubtful |= (unexplained > UNEXPLAINED_SHARE) | (origins == PoseOrigin.DOUBTFUL_MATCHES)
    if are_sides_alike:
        doubtful |= origins == PoseOrigin.LOOKED_UP
    return [
        PoseStatus(PoseOrigin(origin), 1.0 - share, is_doubtful)
        for origin, share, is_doubtful in zip(origins.tolist(), unexplained.tolist(), doubtful.tolist(), strict=True)
    ]


def sides_are_alike(origins: Int[Tensor, "n"]) -> bool:
    """Whether matches contradict each other about more of the training images than they do where all are right."""
    return float((origins == PoseOrigin.DOUBTFUL_MATCHES).float().mean()) > CLEAR_SHARE


def sentences(statuses: Sequence[PoseStatus], files: Sequence[Path], held_out: Sequence[PoseStatus] = ()) -> List[str]:
    """What is to be said of all images together, the doubtful ones by name.

    Args:
        statuses: of the images that were trained on.
        files: these.
        held_out: of those that were not.
    """
    counts = Counter(status.origin for status in statuses)
    words = {
        PoseOrigin.MATCHES: "placed by local matches",
        PoseOrigin.GIVEN: "where they were given",
        PoseOrigin.DOUBTFUL_MATCHES: "placed by matches that contradict each other",
        PoseOrigin.GROUP: "placed with a group of matched images",
        PoseOrigin.LOOKED_UP: "looked up in the field",
        PoseOrigin.APPEARANCE: "placed by what they look like",
    }
    said = [
        f"{len(statuses)} images: " + ", ".join(f"{counts[each]} {words[each]}" for each in words if counts[each]) + "."
    ]
    doubtful = [file for status, file in zip(statuses, files, strict=True) if status.is_doubtful]
    if sum(status.explained < 1.0 - UNEXPLAINED_SHARE for status in statuses) > 0.5 * len(files):
        said.append("The field does not show most images from their poses: do not trust them, nor the field.")
    elif doubtful:
        said.append(
            "Doubtful, since the field shows them badly from their poses, or matches contradict each other: "
            f"{named(doubtful)}."
        )
    if len(held_out) > 1:
        mine, theirs = (float(np.median([status.explained for status in each])) for each in (statuses, held_out))
        if 1.0 - theirs > max(BY_HEART_SHARE, DOUBTFUL_RATIO * (1.0 - mine)):
            said.append(
                f"The field explains {mine:.0%} of what a typical image shows that it was trained on, but "
                f"{max(theirs, 0.0):.0%} of one held out: it knows the former by heart, as it can few images from any "
                "poses. Do not trust the poses without a look at them; more images help."
            )
    return said
