"""How far estimated cameras are from the truth, up to the similarity that images alone cannot fix."""

import math
from dataclasses import dataclass
from typing import Dict, cast

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gnerf_ns.utils.errors import InputError

MAX_PROPOSALS = 512
"""Cameras that propose a rotation; enough to meet a good one, few enough for thousands of cameras."""

INLIER_SPREAD = 3.0
"""Cameras within this many median deviations of the consensus take part in the final average."""

MIRROR_ADVANTAGE = 2.0
"""A reflected copy must fit this many times better than the estimate before the estimate is called mirrored."""

MIRROR_MIN_ERROR_DEG = 1.0
"""An estimate with a smaller median rotation error is never called mirrored."""


@dataclass(frozen=True)
class Similarity:
    """A map x -> scale * rotation x + translation between two world frames."""

    rotation: Float[Tensor, "3 3"]
    scale: float
    translation: Float[Tensor, "3"]
    """In units of the frame mapped to."""

    def apply(self, camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
        """The same cameras in the other frame, as proper poses: positions are scaled, rotations are not."""
        rotation, translation = self.rotation.to(camera_to_worlds), self.translation.to(camera_to_worlds)
        turned = rotation @ camera_to_worlds
        positions = self.scale * turned[..., 3] + translation
        return torch.cat([turned[..., :3], positions[..., None]], dim=-1)

    def inverse(self) -> "Similarity":
        """The map back."""
        rotation = self.rotation.mT
        return Similarity(rotation, 1.0 / self.scale, -(rotation @ self.translation) / self.scale)


def _consensus_rotation(proposals: Float[Tensor, "n 3 3"]) -> Float[Tensor, "3 3"]:
    """The mean of the rotations that agree with the majority: least median of angles, then average the inliers."""
    candidates = proposals[:: math.ceil(len(proposals) / MAX_PROPOSALS)]
    # Frobenius products of rotations grow as their angle shrinks, so the largest median product is the least angle.
    agreement = candidates.flatten(1) @ proposals.flatten(1).mT
    rotation = candidates[agreement.median(dim=1).values.argmax()]
    for _ in range(2):
        angles = roma.rotmat_geodesic_distance(proposals, rotation[None])
        rotation = cast(Tensor, roma.special_procrustes(proposals[_inliers(angles)].sum(dim=0)))
    return rotation


def _median(values: Float[Tensor, "n *components"]) -> Float[Tensor, "*components"]:
    """The middle of the first dimension; of two middles their mean, where ``Tensor.median`` takes the lower."""
    return values.quantile(0.5, dim=0)


def _inliers(deviations: Float[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Which deviations are ordinary among their peers; always at least half of them."""
    return deviations <= INLIER_SPREAD * _median(deviations) + 1e-9


def _spread(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Distances from the coordinate-wise median point."""
    return torch.linalg.vector_norm(points - _median(points), dim=-1)


def fit_similarity(estimated: Float[Tensor, "n 3 4"], ground_truth: Float[Tensor, "n 3 4"]) -> Similarity:
    """The similarity that takes estimated cameras to the true ones, unmoved by a minority of wildly wrong cameras.

    Rotation: each camera proposes ``R_true R_estimated^T``; the proposal with the least median angle to the others
    picks the inliers, whose chordal mean is the answer. Scale and shift then come from the positions, robust medians
    first and the inliers' root-mean-square spread and mean after that (the symmetric scale of Horn, JOSA A 1987,
    section 2.E, which stays positive whatever the estimate).

    Args:
        estimated: camera_to_world matrices.
        ground_truth: camera_to_world matrices of the same cameras in the same order.

    Raises:
        InputError: no cameras, or poses that are not finite.
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
    """Their ratio as a scale; 1 where cameras that share one position leave the scale open."""
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

    Which plane reflects does not matter, the fit undoes it. A reflected camera is left-handed; flipping its right
    axis makes it proper again (azimuths swapped), and so does flipping its up axis (elevations swapped) or its forward
    axis (depth reversed, as in a Necker cube: the images stay upright and unmirrored).
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
    """Mean distance of cameras from the point closest, in the least-squares sense, to all their viewing axes."""
    axes, positions = camera_to_worlds[..., 2], camera_to_worlds[..., 3]
    across = torch.eye(3).to(axes) - axes[..., :, None] * axes[..., None, :]
    # The pseudo-inverse keeps parallel axes finite: the point on them that is nearest to the origin.
    focus = torch.linalg.pinv(across.sum(dim=0), rtol=1e-9) @ (across @ positions[..., None]).sum(dim=0).squeeze(-1)
    return float(torch.linalg.vector_norm(positions - focus, dim=-1).mean())


@dataclass(frozen=True)
class PoseErrors:
    """Errors of estimated cameras after alignment to the truth."""

    rotation_deg: Float[Tensor, "n"]
    """Geodesic angle between estimated and true rotation, in degrees."""
    translation: Float[Tensor, "n"]
    """Distance between estimated and true position, in units of the ground truth."""
    translation_relative: Float[Tensor, "n"]
    """The same over the mean distance of the true cameras from the point they look at."""
    mirrored: bool
    """Whether a reflected copy of the estimate fits the truth much better than the estimate."""
    similarity: Similarity
    """The alignment, from the estimate's frame to the ground truth's."""

    def summary(self) -> Dict[str, float]:
        """The figures to report, by name; angles in degrees, shares and flags between 0 and 1."""
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
    """Aligns estimated cameras to the true ones with one similarity and measures what is left.

    Args:
        estimated: camera_to_world matrices.
        ground_truth: camera_to_world matrices of the same cameras in the same order.

    Raises:
        InputError: see ``fit_similarity``.
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
