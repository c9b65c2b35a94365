"""How good are the poses and the field? The place that compares with true poses."""

from __future__ import annotations

from typing import Dict, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.alignment import PoseErrors, pose_errors
from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.plots import plot_cameras
from gnerf_ns.data.datamanager import UnposedDataManager
from gnerf_ns.models.gnerf import GNeRFModel


class Evaluation:
    """Compares the training images' estimated poses, and the field, with the truth where it is known."""

    def __init__(self, model: GNeRFModel, datamanager: UnposedDataManager, cameras: LearnedCameras) -> None:
        self._model = model
        self._datamanager = datamanager
        self._cameras = cameras

    def pose_errors(self) -> Optional[PoseErrors]:
        """Errors of the training images' estimated poses; None where the truth is not known.

        Images without a known true pose (NaN, e.g. added by localization) are ignored.
        """
        truth = self._datamanager.train_ground_truth
        known = None if truth is None else truth.isfinite().flatten(1).all(dim=1).cpu()
        if truth is None or known is None or not bool(known.any()):
            return None
        return pose_errors(self._cameras.poses("train").cpu()[known], truth.cpu()[known])

    def pose_metrics(self) -> Dict[str, float]:
        """`PoseErrors.summary` of the training images; empty where the truth is not known."""
        errors = self.pose_errors()
        return {} if errors is None else errors.summary()

    @torch.no_grad()
    def aligned_quality(self) -> Dict[str, float]:
        """`psnr_aligned` (dB): held-out images at their true poses, moved into the learned frame, nothing optimized.

        The move is the training poses' fit. Empty where the truth is not known of all.
        """
        errors = self.pose_errors()
        truth = self._datamanager.eval_ground_truth
        if errors is None or truth is None or len(truth) == 0 or not bool(truth.isfinite().all()):
            return {}
        return {"psnr_aligned": self._held_out_psnr(errors.similarity.inverse().apply(truth.cpu()))}

    @torch.no_grad()
    def held_out_psnr(self) -> Optional[float]:
        """`psnr` of ns-eval (dB): held-out images at the poses that have been estimated; None where there are none."""
        if len(self._datamanager.eval_dataset) == 0 or not self._cameras.has_eval_poses:
            return None
        return self._held_out_psnr(self._cameras.poses("eval"))

    def _held_out_psnr(self, camera_to_worlds: Float[Tensor, "m 3 4"]) -> float:
        was_training = self._model.training
        self._model.eval()
        values = []
        for index, (camera, batch) in enumerate(self._datamanager.fixed_indices_eval_dataloader):
            camera.camera_to_worlds = camera_to_worlds[index][None].to(camera.camera_to_worlds)
            values.append(self._model.get_image_psnr(camera, batch))
        self._model.train(was_training)
        return float(torch.tensor(values).mean())

    def plot_poses(self) -> Float[Tensor, "height width 3"]:
        """An image of the estimated training cameras, against the truth where it is known; values in [0, 1]."""
        errors = self.pose_errors()
        truth = None
        title = f"{len(self._cameras)} estimated cameras"
        if errors is not None:
            assert self._datamanager.train_ground_truth is not None
            truth = errors.similarity.inverse().apply(self._datamanager.train_ground_truth.cpu())
            title += f", median rotation error {errors.summary()['rotation_error_deg_median']:.2f}°"
        image = plot_cameras(self._cameras.poses("train").cpu(), truth, title)
        return torch.from_numpy(image.copy()).float() / 255
