"""Poses to try for photographs, and the comparison of photographs with renderings there."""

from __future__ import annotations

from typing import Optional

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.cameras.focal_lengths import FocalFactors
from gnerf_ns.cameras.look_at import aim_beside
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.model_components.image_matching import ImageMatching, Matches, PlainMatching, ShiftTolerantMatching


class PoseMatcher:
    """Draws poses from a prior; where that leaves open what cameras were aimed at, matching finds it.

    Attributes:
        prior: of the poses that are drawn, all aimed at the origin.
        matching: how photographs are compared with renderings there; all of one size.
    """

    def __init__(self, prior: PosePrior, radius: float, focal_factors: Optional[FocalFactors] = None) -> None:
        """
        Args:
            prior: where photographs may have been taken from.
            radius: the camera distance that counts as 1 in the prior, in scene units; half the shorter side of a
                picture sees one unit there.
            focal_factors: where focal lengths are learned; the camera distance grows with them.
        """
        self.prior = prior.centred
        self._radius = radius
        self._focal_factors = focal_factors
        jitter = prior.look_at_jitter * radius
        self.matching: ImageMatching = ShiftTolerantMatching(jitter) if jitter > 0.0 else PlainMatching()

    @property
    def radius(self) -> float:
        """The camera distance that counts as 1, in scene units, with the focal lengths as they are by now."""
        return self._radius if self._focal_factors is None else self._radius * float(self._focal_factors.typical)

    def sample(self, count: int, device: torch.device) -> Float[Tensor, "count 3 4"]:
        """Poses at which to render, all aimed at the origin."""
        return self.prior.sample(count, self.radius, device)

    def matched_poses(
        self, camera_to_worlds: Float[Tensor, "m 3 4"], matches: Matches, columns: Int[Tensor, "n *count"]
    ) -> Float[Tensor, "n *count 3 4"]:
        """Poses of photographs that are matched with renderings: the renderings', aimed as the photographs were.

        Args:
            camera_to_worlds: poses of the renderings.
            matches: of photographs (rows) with those.
            columns: which rendering(s) each photograph is matched with.
        """
        poses = camera_to_worlds[columns]
        if matches.shift is None:
            return poses
        rows = torch.arange(len(columns), device=columns.device).view(-1, *([1] * (columns.ndim - 1)))
        offsets = matches.shift[rows, columns] / self.radius
        return aim_beside(poses, offsets * offsets.new_tensor([1.0, -1.0]))
