"""Figures of held-out scenes, by how much their context views overlap.

Images are compared at the true poses of the targets, in the frame that the network is to have, and nothing is
optimized, unless `aligned` is asked for: NoPoSplat's own tables are of target poses that were optimized on the target
images first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterable, List, Optional, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.models.image_metrics import ImageMetrics
from gnerf_ns.noposplat.camera_poses import REFINEMENT_STEPS, pose_from_points, refined_pose
from gnerf_ns.noposplat.pose_metrics import AUC_THRESHOLDS_DEG, pose_auc, relative_pose_errors
from gnerf_ns.noposplat.view_cameras import pinhole_views, rendered
from gnerf_ns.scenes.evaluation_sets import OVERLAP_CLASSES, OverlapClass
from gnerf_ns.scenes.view_sampling import Example, Views
from gnerf_ns.splats.axes import inverse_poses
from gnerf_ns.splats.gaussians import Gaussians

Network = Callable[[Float[Tensor, "1 views 3 height width"], Float[Tensor, "1 views 3 3"]], Gaussians]
"""Gaussians, one for each pixel in the order views, rows, columns, from images and normalized intrinsics."""

PoseFinder = Callable[[Gaussians, Views], Float[Tensor, "views 3 4"]]
"""Camera_to_worlds (OpenCV's axes, in the first view's frame) of the context views, from what the network made of them:
one scene without a batch. A pose that is not found is NaN."""


def poses_from_points(gaussians: Gaussians, context: Views) -> Float[Tensor, "views 3 4"]:
    """A `PoseFinder`: each view's pose by PnP on its own Gaussians; the first camera's is known."""
    height, width = context.images.shape[-2:]
    means, opacities = (value.unflatten(0, (-1, height, width)) for value in (gaussians.means, gaussians.opacities))
    poses = [torch.eye(4)[:3]]
    for index, view in enumerate(pinhole_views(context)[1:], start=1):
        found = pose_from_points(means[index], opacities[index], view.focal, view.center)
        poses.append(torch.full((3, 4), math.nan) if found is None else inverse_poses(found.world_to_camera))
    return torch.stack(poses).to(context.camera_to_worlds)


def refined_poses(gaussians: Gaussians, context: Views, steps: int = REFINEMENT_STEPS) -> Float[Tensor, "views 3 4"]:
    """A `PoseFinder`: the same, refined on the view's image in so many steps."""
    poses = poses_from_points(gaussians, context)
    for index, view in enumerate(pinhole_views(context)):
        if index and bool(poses[index].isfinite().all()):
            start = replace(view, world_to_camera=inverse_poses(poses[index]))
            poses[index] = inverse_poses(refined_pose(gaussians, context.images[index], start, steps))
    return poses


Renderer = Callable[[Gaussians, Views], Float[Tensor, "batch views 3 height width"]]
"""What views of as many scenes as the Gaussians have see of them."""


def aligned(
    gaussians: Gaussians, views: Views, steps: int = REFINEMENT_STEPS
) -> Float[Tensor, "batch views 3 height width"]:
    """A `Renderer`: each view's pose is first optimized on its own image in so many steps, from the true one.

    So NoPoSplat's tables are made (section 4.1), since without poses a network cannot know the scene's exact scale.
    """
    found = []
    for index, scene in enumerate(zip(*vars(views).values(), strict=True)):
        view = Views(*scene)
        refined = [
            refined_pose(gaussians[index], image, pinhole, steps)
            for image, pinhole in zip(view.images, pinhole_views(view), strict=True)
        ]
        found.append(inverse_poses(torch.stack(refined)))
    return rendered(gaussians, replace(views, camera_to_worlds=torch.stack(found)))


@dataclass(frozen=True)
class SceneFigures:
    """Of one scene."""

    overlap: Optional[OverlapClass]
    """Of the context views; None if it is not known."""
    images: Dict[str, float]
    """psnr (dB), ssim, and lpips where its weights are at hand: means over the targets."""
    pose_error_deg: Optional[float] = None
    """Of the last context view relative to the first: the larger of the errors of rotation and of the direction of
    translation. None where no poses were sought."""


@torch.no_grad()
def scene_figures(
    network: Network,
    example: Example,
    overlap: Optional[OverlapClass],
    metrics: ImageMetrics,
    find_poses: Optional[PoseFinder] = None,
    show: Renderer = rendered,
) -> SceneFigures:
    """Run the network on the context views of one scene, and compare.

    Args:
        network: in evaluation mode.
        example: with a batch of one.
        overlap: of its context views.
        metrics: of single images.
        find_poses: None to seek none.
        show: how targets are seen.
    """
    gaussians = network(example.context.images, example.context.intrinsics)
    images = show(gaussians, example.target)[0].clamp(0.0, 1.0)
    figures = image_figures(images, example.target.images[0], metrics)
    if find_poses is None:
        return SceneFigures(overlap, figures)
    context = Views(*(value[0] for value in vars(example.context).values()))
    found = find_poses(gaussians[0], context)[-1:]
    error = float(relative_pose_errors(found, context.camera_to_worlds[-1:]).pose_deg)
    return SceneFigures(overlap, figures, error)


def image_figures(
    images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"], metrics: ImageMetrics
) -> Dict[str, float]:
    """Means of the metrics of single images, colors from 0 to 1."""
    pairs = zip(images.movedim(1, -1), truth.movedim(1, -1), strict=True)
    each = [metrics(image, true) for image, true in pairs]
    return {name: sum(one[name] for one in each) / len(each) for name in each[0]}


def summary(figures: Sequence[SceneFigures]) -> Dict[str, float]:
    """Means over scenes, of all and of each class of overlap that occurs.

    Returns:
        num_scenes, psnr, ssim (lpips), pose_error_deg_median, pose_auc_5deg and so on; those of a class end in its
        name.
    """
    found = _summary_of(figures)
    for name in OVERLAP_CLASSES:
        of_class = [each for each in figures if each.overlap == name]
        if of_class:
            found.update({f"{key}_{name}": value for key, value in _summary_of(of_class).items()})
    return found


def _summary_of(figures: Sequence[SceneFigures]) -> Dict[str, float]:
    found: Dict[str, float] = {"num_scenes": float(len(figures))}
    for name in figures[0].images:
        found[name] = _mean(each.images[name] for each in figures)
    errors = torch.tensor([each.pose_error_deg for each in figures if each.pose_error_deg is not None])
    if len(errors):
        found["pose_error_deg_median"] = float(errors.quantile(0.5))
        found.update({f"pose_auc_{limit:g}deg": area for limit, area in pose_auc(errors, AUC_THRESHOLDS_DEG).items()})
    return found


def _mean(values: Iterable[float]) -> float:
    numbers: List[float] = list(values)
    return sum(numbers) / len(numbers)
