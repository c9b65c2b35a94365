"""How wrong estimated relative poses are, as two-view methods measure it (NoPoSplat, section 4.1, after SuperGlue)."""

from __future__ import annotations

from typing import Dict, NamedTuple, Sequence

import roma
import torch
from jaxtyping import Float
from torch import Tensor

AUC_THRESHOLDS_DEG = (5.0, 10.0, 20.0)
"""Up to which errors areas are given, in degrees."""


class RelativePoseErrors(NamedTuple):
    """Of one pose each, in degrees."""

    rotation_deg: Float[Tensor, "n"]
    """Angle of the rotation between the estimate and the truth, 0 to 180."""
    translation_deg: Float[Tensor, "n"]
    """Angle between the lines of the two translations, 0 to 90: two views tell neither their length nor, from an
    essential matrix alone, their sign. An estimate without translation has the worst, 90."""

    @property
    def pose_deg(self) -> Float[Tensor, "n"]:
        """The larger of the two."""
        return torch.maximum(self.rotation_deg, self.translation_deg)


def relative_pose_errors(estimated: Float[Tensor, "n 3 4"], ground_truth: Float[Tensor, "n 3 4"]) -> RelativePoseErrors:
    """Errors of poses that are each relative to another camera (its frame is the world).

    Args:
        estimated: camera_to_worlds; one that is not finite (nothing was found) has errors of 180 and 90 degrees.
        ground_truth: the true ones, whose translations are not zero.
    """
    estimated, ground_truth = estimated.detach().double(), ground_truth.detach().double()
    found = estimated.isfinite().flatten(1).all(dim=1)
    rotations = roma.rotmat_geodesic_distance(estimated[..., :3], ground_truth[..., :3]).rad2deg()
    one, other = estimated[..., 3], ground_truth[..., 3]
    across = torch.linalg.vector_norm(torch.linalg.cross(one, other, dim=-1), dim=-1)
    along = (one * other).sum(dim=-1).abs()  # min(angle, 180 - angle), and accurate at both its ends
    translations = torch.atan2(across, along).rad2deg()
    translations = torch.where(torch.linalg.vector_norm(one, dim=-1) > 0.0, translations, 90.0)
    return RelativePoseErrors(torch.where(found, rotations, 180.0), torch.where(found, translations, 90.0))


def pose_auc(
    errors_deg: Float[Tensor, "n"], thresholds_deg: Sequence[float] = AUC_THRESHOLDS_DEG
) -> Dict[float, float]:
    """Area under the curve of recall over error, up to each threshold and divided by it; 1 is perfect.

    The curve goes straight from (0, 0) through (error k, k / n) of the sorted errors, and is level from the last error
    below the threshold to the threshold.

    Args:
        errors_deg: of at least one pose.
        thresholds_deg: in the same unit, positive.
    """
    errors = torch.cat([torch.zeros(1).double(), errors_deg.detach().double().cpu().sort().values])
    recall = torch.arange(len(errors)) / (len(errors) - 1)
    areas = {}
    for threshold in thresholds_deg:
        below = int(torch.searchsorted(errors, threshold))
        x, y = (
            torch.cat([errors[:below], errors.new_tensor([threshold])]),
            torch.cat([recall[:below], recall[below - 1 : below]]),
        )
        areas[threshold] = float(torch.trapezoid(y, x)) / threshold
    return areas
