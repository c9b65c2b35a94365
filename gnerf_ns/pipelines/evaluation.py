"""How good are the poses and the field? The only place that looks at true poses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.alignment import PoseErrors, pose_errors
from gnerf_ns.plots import plot_cameras

if TYPE_CHECKING:
    from gnerf_ns.pipelines.gnerf_pipeline import GNeRFPipeline


def training_pose_errors(pipeline: "GNeRFPipeline") -> Optional[PoseErrors]:
    """Errors of the training images' estimated poses; None where the truth is not known."""
    truth = pipeline.datamanager.train_ground_truth
    if truth is None or not bool(torch.isfinite(truth).all()):
        return None
    return pose_errors(pipeline.train_poses().detach().cpu(), truth.cpu())


def pose_metrics(pipeline: "GNeRFPipeline") -> Dict[str, float]:
    """`PoseErrors.summary` of the training images; empty where the truth is not known."""
    errors = training_pose_errors(pipeline)
    return {} if errors is None else errors.summary()


@torch.no_grad()
def aligned_quality(pipeline: "GNeRFPipeline") -> Dict[str, float]:
    """PSNR (dB) on held-out images at their true poses, moved into the learned frame by the training poses' fit."""
    errors = training_pose_errors(pipeline)
    truth = pipeline.datamanager.eval_ground_truth
    if errors is None or truth is None or len(truth) == 0:
        return {}
    moved = errors.similarity.inverse().apply(truth.cpu())
    pipeline.eval()
    values = []
    for index, (camera, batch) in enumerate(pipeline.datamanager.fixed_indices_eval_dataloader):
        camera.camera_to_worlds = moved[index][None].to(camera.camera_to_worlds)
        outputs = pipeline.model.get_outputs_for_camera(camera)
        values.append(pipeline.model.get_image_metrics_and_images(outputs, batch)[0]["psnr"])
    pipeline.train()
    return {"psnr_aligned": float(torch.tensor(values).mean())}


def plot_poses(pipeline: "GNeRFPipeline") -> Float[Tensor, "height width 3"]:
    """A picture of the estimated training cameras, against the truth where it is known; values in [0, 1]."""
    errors = training_pose_errors(pipeline)
    truth = None
    title = f"{pipeline.train_poses.num_poses} estimated cameras"
    if errors is not None:
        assert pipeline.datamanager.train_ground_truth is not None
        truth = errors.similarity.inverse().apply(pipeline.datamanager.train_ground_truth.cpu())
        title += f", median rotation error {errors.summary()['rotation_error_deg_median']:.2f}°"
    picture = plot_cameras(pipeline.train_poses().detach().cpu(), truth, title)
    return torch.from_numpy(picture.copy()).float() / 255
