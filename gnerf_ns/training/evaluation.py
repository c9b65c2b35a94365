"""How good are the poses and the field? The only place that looks at true poses; and poses of held-out images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.alignment import PoseErrors, pose_errors
from gnerf_ns.cameras.learned_cameras import PoseTable
from gnerf_ns.cameras.plots import plot_cameras
from gnerf_ns.data.datamanager import UnposedDataManager
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search.hypotheses import learned_as
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pose_search import PoseRegressor, PoseSearch
from gnerf_ns.pose_search.refinement import LocalizationConfig, RefinementConfig, localize_images


@dataclass
class HeldOutConfig:
    """How poses of evaluation images are estimated."""

    num_hypotheses: int = 4
    """Poses per image that are tried side by side, the best of the search."""
    localization: LocalizationConfig = field(
        default_factory=lambda: LocalizationConfig(
            survivors=1,
            first=RefinementConfig(
                steps=100, rays_per_hypothesis=40, final_learning_rate=1e-3, first_image_side=24, last_image_side=48
            ),
            second=RefinementConfig(steps=0),
            last=RefinementConfig(),
            # The search begins near enough, and what runs are compared by was measured with all pixels alike.
            ray_selection="random",
            comparison_side=16,
        )
    )
    """Their refinement; with so many hypotheses from a search, one round of pruning is enough."""


def estimate_held_out_poses(
    config: HeldOutConfig,
    model: GNeRFModel,
    image_set: ImageSet,
    poses: PoseTable,
    pose_search: PoseSearch,
    regress: Optional[PoseRegressor] = None,
) -> None:
    """Write the poses of images into a table, from nothing (GNeRF section 3.4, evaluation images).

    Args:
        config: how.
        model: the trained field; left as it was.
        image_set: the images.
        poses: where the poses go.
        pose_search: global search over the prior.
        regress: the run's inversion network, if it has one; its pose is one more hypothesis.
    """
    starts = pose_search.top_poses(image_set, config.num_hypotheses)[0]
    if regress is not None:
        starts = torch.cat([regress(image_set)[:, None], starts], dim=1)

    found = localize_images(config.localization, ImageRenderer(model), image_set, starts, learned_as(poses.codec))
    everyone = torch.arange(len(found), device=starts.device)
    poses.assign(everyone, torch.stack([localization.camera_to_world for localization in found]))


class Evaluation:
    """Compares the training images' estimated poses, and the field, with the truth where it is known."""

    def __init__(self, model: GNeRFModel, datamanager: UnposedDataManager, train_poses: PoseTable) -> None:
        self._model = model
        self._datamanager = datamanager
        self._train_poses = train_poses

    def pose_errors(self) -> Optional[PoseErrors]:
        """Errors of the training images' estimated poses; None where the truth is not known.

        Images of which it is not (NaN), as it is of those localized and added later, do not count.
        """
        truth = self._datamanager.train_ground_truth
        known = None if truth is None else truth.isfinite().flatten(1).all(dim=1).cpu()
        if truth is None or known is None or not bool(known.any()):
            return None
        return pose_errors(self._train_poses().detach().cpu()[known], truth.cpu()[known])

    def pose_metrics(self) -> Dict[str, float]:
        """`PoseErrors.summary` of the training images; empty where the truth is not known."""
        errors = self.pose_errors()
        return {} if errors is None else errors.summary()

    @torch.no_grad()
    def aligned_quality(self) -> Dict[str, float]:
        """`psnr_aligned` (dB): held-out images at their true poses, moved into the learned frame, nothing optimized.

        The move is the training poses' fit. Empty where the truth is not known.
        """
        errors = self.pose_errors()
        truth = self._datamanager.eval_ground_truth
        if errors is None or truth is None or len(truth) == 0:
            return {}
        moved = errors.similarity.inverse().apply(truth.cpu())
        was_training = self._model.training
        self._model.eval()
        values = []
        for index, (camera, batch) in enumerate(self._datamanager.fixed_indices_eval_dataloader):
            camera.camera_to_worlds = moved[index][None].to(camera.camera_to_worlds)
            outputs = self._model.get_outputs_for_camera(camera)
            values.append(self._model.get_image_metrics_and_images(outputs, batch)[0]["psnr"])
        self._model.train(was_training)
        return {"psnr_aligned": float(torch.tensor(values).mean())}

    def plot_poses(self) -> Float[Tensor, "height width 3"]:
        """An image of the estimated training cameras, against the truth where it is known; values in [0, 1]."""
        errors = self.pose_errors()
        truth = None
        title = f"{self._train_poses.num_poses} estimated cameras"
        if errors is not None:
            assert self._datamanager.train_ground_truth is not None
            truth = errors.similarity.inverse().apply(self._datamanager.train_ground_truth.cpu())
            title += f", median rotation error {errors.summary()['rotation_error_deg_median']:.2f}°"
        image = plot_cameras(self._train_poses().detach().cpu(), truth, title)
        return torch.from_numpy(image.copy()).float() / 255
