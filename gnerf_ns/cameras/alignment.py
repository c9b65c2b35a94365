"""Errors of estimated cameras, after alignment to the true ones by a similarity, which images cannot determine."""

import math
from dataclasses import dataclass
from typing import Dict, cast

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gnerf_ns.utils.errors import InputError

MAX_PROPOSALS = 512
"""Maximum number of cameras that propose a rotation."""

INLIER_SPREAD = 3.0
"""Cameras within this many median deviations of the consensus count as inliers."""

MIRROR_ADVANTAGE = 2.0
"""An estimate is called mirrored if the median rotation error of a reflected copy is this many times smaller."""

MIRROR_MIN_ERROR_DEG = 1.0
"""An estimate with a smaller median rotation error is never called mirrored."""


@dataclass(frozen=True)
class Similarity:
    """The map x -> scale * rotation x + translation between two world frames."""

    rotation: Float[Tensor, "3 3"]
    scale: float
    translation: Float[Tensor, "3"]
    """In units of the target frame."""

    def apply(self, camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
        """The same cameras in the target frame; positions are scaled, rotations stay orthonormal."""
        rotation, translation = self.rotation.to(camera_to_worlds), self.translation.to(camera_to_worlds)
        turned = rotation @ camera_to_worlds
        positions = self.scale * turned[..., 3] + translation
        return torch.cat([turned[..., :3], positions[..., None]], dim=-1)

    def inverse(self) -> "Similarity":
        """The inverse map."""
        rotation = self.rotation.mT
        return Similarity(rotation, 1.0 / self.scale, -(rotation @ self.translation) / self.scale)


def _consensus_rotation(proposals: Float[Tensor, "n 3 3"]) -> Float[Tensor, "3 3"]:
    """Robust mean of rotations: the candidate with the least median angle to all, then the mean of its inliers."""
    candidates = proposals[:: math.ceil(len(proposals) / MAX_PROPOSALS)]
    # The Frobenius product of two rotations decreases with the angle between them.
    agreement = candidates.flatten(1) @ proposals.flatten(1).mT
    rotation = candidates[agreement.median(dim=1).values.argmax()]
    for _ in range(2):
        angles = roma.rotmat_geodesic_distance(proposals, rotation[None])
        rotation = cast(Tensor, roma.special_procrustes(proposals[_inliers(angles)].sum(dim=0)))
    return rotation


def _median(values: Float[Tensor, "n *components"]) -> Float[Tensor, "*components"]:
    """Median over the first dimension; the mean of the two middle values, where ``Tensor.median`` takes the lower."""
    return values.quantile(0.5, dim=0)


def _inliers(deviations: Float[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Which deviations are within `INLIER_SPREAD` medians; always at least half of them."""
    return deviations <= INLIER_SPREAD * _median(deviations) + 1e-9


def _spread(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Distances from the coordinate-wise median point."""
    return torch.linalg.vector_norm(points - _median(points), dim=-1)


def fit_similarity(estimated: Float[Tensor, "n 3 4"], ground_truth: Float[Tensor, "n 3 4"]) -> Similarity:
    """The similarity that maps estimated cameras to the true ones, robust to a minority of outliers.

    Rotation: each camera proposes ``R_true R_estimated^T``; the proposal with the least median angle to the others
    determines the inliers, whose chordal mean is the result. Scale and translation follow from the positions: first
    from medians, then from the inliers' mean and root-mean-square spread (the symmetric scale of Horn, JOSA A 1987,
    section 2.E, which is always positive).

    Args:
        estimated: camera_to_world matrices.
        ground_truth: camera_to_world matrices of the same cameras in the same order.

    Raises:
        InputError: there are no cameras, or poses are not finite.
    """
    if len(estimated) == 0:
        raise InputError("There are no cameras to align to the ground truth; give at least one.")
    for name, poses in (("estimated", estimated), ("true", ground_truth)):
        if not poses.isfinite().all():
            raise InputError(f"Some {name} camera poses are not finite numbers, so they cannot be aligned.")
    estimated, ground_truth = estimated.detach().double(), ground_truth.detach().double()
    rotation = _consensus_rotation(ground_truth[..., :3] @ estimated[..., :3].mT)

    sources, targets = estimated[..., 3] @ rotation.mT, ground_truth[..., 3]
    scale = _ratio(_median(_spread(targets)), _median(_spread(sources)))
    shift = _median(targets - scale * sources)
    for _ in range(2):
        inliers = _inliers(torch.linalg.vector_norm(scale * sources + shift - targets, dim=-1))
        source_mean, target_mean = sources[inliers].mean(dim=0), targets[inliers].mean(dim=0)
        scale = _ratio((targets[inliers] - target_mean).norm(), (sources[inliers] - source_mean).norm())
        shift = target_mean - scale * source_mean
    return Similarity(rotation, scale, shift)


def _ratio(numerator: Float[Tensor, ""], denominator: Float[Tensor, ""]) -> float:
    """The ratio as a scale; 1 if all cameras have the same position, which leaves the scale undetermined."""
    if min(float(numerator), float(denominator)) < 1e-12:
        return 1.0
    return float(numerator / denominator)


def _rotation_errors_deg(
    similarity: Similarity, estimated: Float[Tensor, "n 3 4"], ground_truth: Float[Tensor, "n 3 4"]
) -> Float[Tensor, "n"]:
    aligned = similarity.apply(estimated.detach().double())
    return torch.rad2deg(roma.rotmat_geodesic_distance(aligned[..., :3], ground_truth.detach().double()[..., :3]))


def _is_mirrored(
    estimated: Float[Tensor, "n 3 4"], ground_truth: Float[Tensor, "n 3 4"], median_error_deg: float
) -> bool:
    """Whether a reflected copy of the cameras fits the truth much better than the cameras themselves.

    Any plane of reflection will do, because the fit rotates the copy. A reflected camera is left-handed. It becomes
    right-handed again by flipping its right axis (azimuths reversed), its up axis (elevations reversed) or its forward
    axis (depth reversed, as in a Necker cube, where the images stay upright and unmirrored).
    """
    if median_error_deg < MIRROR_MIN_ERROR_DEG:
        return False
    reflected = estimated * estimated.new_tensor([-1.0, 1.0, 1.0])[:, None]
    for flip in ([-1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, 1.0], [1.0, 1.0, -1.0, 1.0]):
        candidate = reflected * estimated.new_tensor(flip)
        errors = _rotation_errors_deg(fit_similarity(candidate, ground_truth), candidate, ground_truth)
        if float(_median(errors)) * MIRROR_ADVANTAGE < median_error_deg:
            return True
    return False


def _mean_camera_distance(camera_to_worlds: Float[Tensor, "n 3 4"]) -> float:
    """Mean distance of cameras from the point that is closest, in the least-squares sense, to their viewing axes."""
    axes, positions = camera_to_worlds[..., 2], camera_to_worlds[..., 3]
    across = torch.eye(3).to(axes) - axes[..., :, None] * axes[..., None, :]
    # For parallel axes, the pseudo-inverse gives the point on them that is nearest to the origin.
    focus = torch.linalg.pinv(across.sum(dim=0), rtol=1e-9) @ (across @ positions[..., None]).sum(dim=0).squeeze(-1)
    return float(torch.linalg.vector_norm(positions - focus, dim=-1).mean())


@dataclass(frozen=True)
class PoseErrors:
    """Errors of estimated cameras after alignment to the true ones."""

    rotation_deg: Float[Tensor, "n"]
    """Angle between estimated and true rotation, in degrees."""
    translation: Float[Tensor, "n"]
    """Distance between estimated and true position, in units of the ground truth."""
    translation_relative: Float[Tensor, "n"]
    """`translation` divided by the mean distance of the true cameras from the point that they look at."""
    mirrored: bool
    """Whether a reflected copy of the estimate fits the truth much better than the estimate."""
    similarity: Similarity
    """The alignment, from the estimate's frame to the ground truth's."""

    def summary(self) -> Dict[str, float]:
        """Metrics by name; angles in degrees, shares and flags in [0, 1]."""
        return {
            "rotation_error_deg_median": float(_median(self.rotation_deg)),
            "rotation_error_deg_mean": float(self.rotation_deg.mean()),
            "rotation_error_deg_max": float(self.rotation_deg.max()),
            "rotation_under_5deg": float((self.rotation_deg < 5.0).double().mean()),
            "rotation_under_20deg": float((self.rotation_deg < 20.0).double().mean()),
            "translation_error_mean": float(self.translation.mean()),
            "translation_error_relative": float(self.translation_relative.mean()),
            "mirrored": float(self.mirrored),
        }


def pose_errors(estimated: Float[Tensor, "n 3 4"], ground_truth: Float[Tensor, "n 3 4"]) -> PoseErrors:
    """Align estimated cameras to the true ones by a similarity and measure the remaining errors.

    Args:
        estimated: camera_to_world matrices.
        ground_truth: camera_to_world matrices of the same cameras in the same order.

    Raises:
        InputError: there are no cameras, or poses are not finite.
    """
    similarity = fit_similarity(estimated, ground_truth)
    rotation_deg = _rotation_errors_deg(similarity, estimated, ground_truth)
    truth = ground_truth.detach().double()
    aligned = similarity.apply(estimated.detach().double())
    translation = torch.linalg.vector_norm(aligned[..., 3] - truth[..., 3], dim=-1)
    return PoseErrors(
        rotation_deg=rotation_deg,
        translation=translation,
        translation_relative=translation / max(_mean_camera_distance(truth), 1e-12),
        mirrored=_is_mirrored(estimated, ground_truth, float(_median(rotation_deg))),
        similarity=similarity,
    )
