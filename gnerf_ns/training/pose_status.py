"""What is said of each image's pose in the end: where it is from, how well the field shows the image, doubts."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.matching.consistency import CLEAR_SHARE
from gnerf_ns.pose_search.costs import ImageCosts
from gnerf_ns.pose_search.doubt import FLAGGED_PROBABILITY, alternative_probabilities, wrong_probability
from gnerf_ns.training.confidence import Confidence
from gnerf_ns.training.placement import FOUND_BY_FIELD, PoseOrigin, are_found, are_sure
from gnerf_ns.utils.console import named

COMPARED_SIDE = 32
"""Longer side of the renderings that images are compared with, in pixels; larger ones take longer and tell the same."""
DOUBTFUL_RATIO = 3.0
"""An image is doubtful if what the field leaves unexplained of it is more than this many times the usual share,"""
DOUBTFUL_SHARE = 0.1
"""and more than this;"""
DOUBTFUL_SHARE_ALONE = 0.05
"""or than this, where nothing but the field speaks for its pose. Hardly one in a hundred right poses is above it; of
those that are stuck some degrees off, most are."""
DOUBTFUL_SHARE_MATCHED = 0.3
"""Or than this, where matches are sure of it: what shines, or was exposed otherwise, is shown badly from the right
place."""
UNEXPLAINED_SHARE = 0.5
"""So much left unexplained is doubtful in any case: the field does not show the image from there."""

ORIGIN_LOG_ODDS = {
    PoseOrigin.MATCHES: -3.0,
    PoseOrigin.CONFIRMED: -3.0,
    PoseOrigin.DOUBTFUL_MATCHES: 1.0,
    PoseOrigin.DOUBTFUL_GROUP: 1.0,
}
"""What matches say of the best other pose: they speak for this one, or contradict each other."""

ALONE_RATIO, ALONE_DEG, ALONE_PROBABILITY = 3.0, 0.5, 0.5
"""Colors say so many times less than usual of where an image was taken, and no more than so many degrees, if hardly
another one shows what it does: it is as likely to be elsewhere as not. In eight runs of a dozen images, one that was
alone on its side had 3.3 to 4.3 times the usual sigma and was 10 to 35 degrees off, with 96 % of it explained; where it
was within 3 degrees, 2.3 times. Of 78 runs, no other image that was unmatched and right was above."""

BY_HEART_SHARE = 0.2
"""A field that leaves more of held-out images unexplained, and `DOUBTFUL_RATIO` times what it leaves of others, knows
these by heart. Right fields leave 2 to 9 %, also of a dozen images."""
LOST_RATIO = 2.0
"""So does one that leaves so many times more of held-out images unexplained, and shows many of these about as well from
elsewhere (`MOST_ELSEWHERE`). Fitted to one run: of a dozen images whose poses were bent as a whole, by 5 degrees in the
median, it had 3.1 times and 0.17, and none of them looked wrong. Four other draws of a dozen had 1.4 to 2.4 times and
at most 0.06, runs of more images 0.9 to 1.2 times."""

MOST_ELSEWHERE = 0.1
"""A field in which more of the images are expected to belong elsewhere (the mean of their probabilities) does not tell
places apart, and those of single images are too low: each was learned where it was believed to be. Of right runs it is
at most 0.05, of a carton with sides that are alike; of runs whose poses are all wrong, 0.15 and more."""
UNTRUSTED_PROBABILITY = 0.8
"""Of the poses that were found in fields that cannot be trusted, so many were wrong."""
SHOWN_ELSEWHERE = "The field shows many images nearly as well from elsewhere: do not trust their poses."
SHOWN_BADLY = "The field does not show most images from their poses: do not trust them, nor the field."

ORIGIN_WORDS = {
    PoseOrigin.APPEARANCE: "appearance",
    PoseOrigin.MATCHES: "matches",
    PoseOrigin.GIVEN: "given",
    PoseOrigin.LOOKED_UP: "looked up",
    PoseOrigin.GROUP: "group",
    PoseOrigin.DOUBTFUL_MATCHES: "doubtful matches",
    PoseOrigin.CONFIRMED: "given, confirmed by matches",
    PoseOrigin.DOUBTFUL_GROUP: "doubtful group",
}
"""How a transforms.json and the screen name them."""


class PoseStatus(NamedTuple):
    """Of one image."""

    origin: PoseOrigin
    """Where its pose is from."""
    explained: float
    """Share of the image's contrast that a rendering there explains: 1 for all; below 0 where it is worse than none."""
    is_flagged: bool
    """Whether it is not to be trusted without a look: it is rather likely to be off by more than `WRONG_DEG`, or much
    less of the image is explained than usual, or nothing speaks for it but a field that cannot be trusted."""
    rotation_sigma_deg: float = math.nan
    """Root mean square of the angle by which it may be turned, near where it is, in degrees; NaN where unknown."""
    translation_sigma_relative: float = math.nan
    """Of the distance by which it may be shifted, as a share of the cameras' distance; NaN where unknown."""
    alternative_probability: float = math.nan
    """That the image was taken from somewhere quite different; NaN where unknown."""
    alternative: Optional[Float[Tensor, "3 4"]] = None
    """The best such pose (camera_to_world in the field's frame); None where none is known."""

    @property
    def wrong_probability(self) -> float:
        """That the pose is off by more than `WRONG_DEG`."""
        return wrong_probability(self.rotation_sigma_deg, self.alternative_probability)

    @property
    def entries(self) -> Dict[str, Any]:
        """What is written beside the pose; what is not known is null."""

        def rounded(value: float) -> Optional[float]:
            return round(value, 5) if math.isfinite(value) else None

        return {
            "pose_from": ORIGIN_WORDS[self.origin],
            "explained": rounded(self.explained),
            "rotation_sigma_deg": rounded(self.rotation_sigma_deg),
            "translation_sigma_relative": rounded(self.translation_sigma_relative),
            "alternative_probability": rounded(self.alternative_probability),
            "flagged": self.is_flagged,
        }


@torch.no_grad()
def pose_statuses(
    costs: ImageCosts,
    image_set: ImageSet,
    camera_to_worlds: Float[Tensor, "n 3 4"],
    origins: Int[Tensor, "n"],
    confidence: Confidence,
    are_sides_alike: bool = False,
) -> List[PoseStatus]:
    """Hold each image against what the field shows from its pose, and from the best other one.

    Args:
        costs: of the trained field.
        image_set: the images.
        camera_to_worlds: their poses.
        origins: where these are from: `PoseOrigin`.
        confidence: in them.
        are_sides_alike: whether what was looked up may have been found on the wrong one of sides that are alike.
    """
    unexplained = costs.relative(image_set, camera_to_worlds, COMPARED_SIDE)
    elsewhere = torch.full_like(unexplained, torch.inf)
    rivals = confidence.has_alternative.nonzero()[:, 0]
    if len(rivals) > 0:
        elsewhere[rivals] = costs.relative(image_set[rivals], confidence.alternatives[rivals], COMPARED_SIDE)
    usual = unexplained.nanmedian()
    origins = origins.to(unexplained.device)
    least = torch.where(are_found(origins), DOUBTFUL_SHARE_ALONE, DOUBTFUL_SHARE)
    least = torch.where(are_sure(origins), DOUBTFUL_SHARE_MATCHED, least)
    badly = (unexplained > DOUBTFUL_RATIO * usual) & (unexplained > least)
    badly |= ~(unexplained <= UNEXPLAINED_SHARE) | (origins == PoseOrigin.DOUBTFUL_GROUP)  # nor if it is NaN
    if are_sides_alike:
        badly |= origins == PoseOrigin.LOOKED_UP
    log_odds = torch.zeros_like(unexplained)
    for origin, value in ORIGIN_LOG_ODDS.items():
        log_odds[origins == origin] = value
    probabilities = alternative_probabilities(unexplained, elsewhere, log_odds)
    sigma = confidence.rotation_sigma_deg.to(unexplained.device)
    is_alone = torch.isin(origins, torch.tensor([PoseOrigin.APPEARANCE, PoseOrigin.LOOKED_UP]).to(origins))
    is_alone &= (sigma > ALONE_RATIO * sigma.nanmedian()) & (sigma > ALONE_DEG)
    probabilities = torch.where(is_alone, probabilities.clamp_min(ALONE_PROBABILITY), probabilities)
    statuses = [
        PoseStatus(
            PoseOrigin(int(origins[index])),
            1.0 - float(unexplained[index]),
            bool(badly[index]),
            float(confidence.rotation_sigma_deg[index]),
            float(confidence.translation_sigma_relative[index]),
            float(probabilities[index]),
            confidence.alternatives[index].cpu() if bool(confidence.has_alternative[index]) else None,
        )
        for index in range(len(unexplained))
    ]
    return [
        status._replace(is_flagged=status.is_flagged or status.wrong_probability > FLAGGED_PROBABILITY)
        for status in statuses
    ]


def sides_are_alike(origins: Int[Tensor, "n"]) -> bool:
    """Whether matches contradict each other about more of the training images than they do where all are right."""
    return float((origins == PoseOrigin.DOUBTFUL_MATCHES).float().mean()) > CLEAR_SHARE


def shows_most_badly(statuses: Sequence[PoseStatus]) -> bool:
    """Whether the field does not show most images from their poses."""
    return sum(not status.explained >= 1.0 - UNEXPLAINED_SHARE for status in statuses) > 0.5 * len(statuses)


def shows_many_elsewhere(statuses: Sequence[PoseStatus]) -> bool:
    """Whether the field shows too many of the images about as well from quite another pose."""
    known = [status.alternative_probability for status in statuses if math.isfinite(status.alternative_probability)]
    return bool(known) and float(np.mean(known)) > MOST_ELSEWHERE


def knows_by_heart(statuses: Sequence[PoseStatus], held_out: Sequence[PoseStatus]) -> bool:
    """Whether the field explains far less of images that it was not trained on, or less and from anywhere.

    Args:
        statuses: of the images that it was trained on.
        held_out: of the others; fewer than two of them tell nothing.
    """
    if len(held_out) < 2:
        return False
    mine, theirs = (1.0 - _usually_explained(each) for each in (statuses, held_out))
    are_lost = theirs > LOST_RATIO * mine and shows_many_elsewhere(held_out)
    return are_lost or theirs > max(BY_HEART_SHARE, DOUBTFUL_RATIO * mine)


def _usually_explained(statuses: Sequence[PoseStatus]) -> float:
    return float(np.median([status.explained for status in statuses]))


def without_the_field(statuses: Sequence[PoseStatus]) -> List[PoseStatus]:
    """The same where the field cannot be trusted: what it alone speaks for is doubtful, and likely to be wrong."""
    return [
        status._replace(
            is_flagged=True,
            # In this order, NaN gives way.
            alternative_probability=max(UNTRUSTED_PROBABILITY, status.alternative_probability),
        )
        if status.origin in FOUND_BY_FIELD
        else status
        for status in statuses
    ]


def sentences(
    statuses: Sequence[PoseStatus],
    files: Sequence[Path],
    held_out: Sequence[PoseStatus] = (),
    held_out_files: Sequence[Path] = (),
) -> List[str]:
    """What is to be said of all images together, the doubtful ones by name.

    Args:
        statuses: of the images that were trained on.
        files: these.
        held_out: of those that were not.
        held_out_files: these.
    """
    counts = Counter(status.origin for status in statuses)
    words = {
        PoseOrigin.MATCHES: "placed by local matches",
        PoseOrigin.CONFIRMED: "where they were given, which matches confirm",
        PoseOrigin.GIVEN: "where they were given",
        PoseOrigin.DOUBTFUL_MATCHES: "placed by matches that contradict each other or are few",
        PoseOrigin.GROUP: "placed with a group of matched images",
        PoseOrigin.DOUBTFUL_GROUP: "placed with a group of matched images that may stand elsewhere",
        PoseOrigin.LOOKED_UP: "looked up in the field",
        PoseOrigin.APPEARANCE: "placed by what they look like",
    }
    said = [
        f"{len(statuses)} images: " + ", ".join(f"{counts[each]} {words[each]}" for each in words if counts[each]) + "."
    ]
    is_bad, by_heart = shows_most_badly(statuses), knows_by_heart(statuses, held_out)
    if is_bad:
        said.append(SHOWN_BADLY)
    elif shows_many_elsewhere(statuses) and not by_heart:
        said.append(SHOWN_ELSEWHERE)
    if by_heart:
        are_found = any(status.origin in FOUND_BY_FIELD for status in statuses)
        said.append(
            f"The field explains {_usually_explained(statuses):.0%} of what a typical image shows that it was trained "
            f"on, but {max(_usually_explained(held_out), 0.0):.0%} of one held out: it knows the former by heart, as "
            "it can few images from any poses. "
            + "Do not trust the poses without a look at them"
            + ("" if are_found else " (they are not from the field, and may be right all the same)")
            + "; more images help."
        )
    flagged, others = (
        [file for status, file in zip(each, of_these, strict=False) if status.is_flagged]
        for each, of_these in ((statuses, files), (held_out, held_out_files))
    )
    if flagged and not is_bad:
        alone = ", or nothing but that field speaks for them" if by_heart else ""
        said.append(
            "Flagged, since the field shows them badly from their poses, or about as well from elsewhere, or they may "
            f"be off by some degrees{alone}: {named(flagged)}."
        )
    if others and not is_bad:
        said.append(f"Flagged of those held out: {named(others)}.")
    return said
