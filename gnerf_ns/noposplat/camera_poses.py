"""Where views were taken, by the Gaussians that the network has made of them.

NoPoSplat (Ye et al., ICLR 2025, arXiv 2410.24207), section 3.4: PnP and RANSAC between a view's pixels and its own
Gaussians, then gradient descent on the photometric error with the Gaussians frozen. The perceptual term (LPIPS) is left
out: its weights would have to be downloaded, and poses are told by the two others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Optional

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.cameras.pose_codec import PoseIncrements
from gnerf_ns.data.images import area_resize
from gnerf_ns.splats.axes import inverse_poses
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import PinholeView, render
from gnerf_ns.utils.annealing import geometric

MIN_OPACITY = 0.3
"""Gaussians that are no more opaque than this are no points (the official code's threshold). Where that is most of a
view's, opacities do not tell which points are right, but that the network lets another view show what both see; then
all count."""
RANSAC_ITERATIONS = 100
"""As in the official code."""
PIXEL_ERRORS, PIXEL_ERROR_SIDE = (5.0, 10.0, 20.0), 256
"""A point agrees with a pose if it is seen so many pixels from its own, at most, where images have the second number of
pixels on a side; in images of other sizes it is the same share of them (the official code is for that size, and has the
first number). Where too few points agree, as those of small networks, more is allowed."""
MIN_POINTS = 64
"""With fewer points, any pose that agrees with them does so by chance."""
MIN_AGREEING = 0.2
"""Share of the points that have to agree. Points without a camera agree with the best pose to a few percent."""

REFINEMENT_STEPS = 200
"""Steps of Adam, as in the official code."""
LEARNING_RATES, HELD_SHARE = (2e-2, 1e-3), 0.5
"""First and last one, in radians and in distances from the scene's middle. The first is held for such a share of the
steps, then they fall geometrically. The official rate is 5e-3 throughout, with which poses that are 10 degrees off end
a degree off; with these, a hundredth."""
BETAS = (0.8, 0.9)
"""Of Adam: it has to forget soon how steep it was far away."""
COARSE_SIDE, COARSE_SHARE = 0.5, 0.3
"""Images are so much smaller for such a share of the steps, which is quicker and leads there from farther away."""
MIN_COARSE_SIDE = 16
"""In pixels; images are not made smaller than this."""
SSIM_WINDOW, SSIM_SIGMA, SSIM_CONSTANT = 11, 1.5, 0.03**2 / 2
"""In pixels, and for colors from 0 to 1: those of SSIM (Wang et al., 2004)."""
ENOUGH_STRUCTURE = 0.98
"""A correlation above this counts as this: the rest is noise (the official code's limit)."""


class PointPose(NamedTuple):
    """A pose from points."""

    world_to_camera: Float[Tensor, "3 4"]
    """In OpenCV's axes, on the CPU."""
    agreeing: float
    """Share of the points that are seen where they should be."""


def pose_from_points(
    means: Float[Tensor, "height width 3"],
    opacities: Float[Tensor, "height width"],
    focal: Float[Tensor, "2"],
    center: Float[Tensor, "2"],
) -> Optional[PointPose]:
    """Where a view is from, by one Gaussian for each of its pixels (PnP by SQPNP, RANSAC).

    Args:
        means: in scene units.
        opacities: 0 to 1.
        focal: focal lengths of the view, in pixels.
        center: its principal point, in pixels; (0, 0) is the outer corner of the first pixel.

    Returns:
        The pose; or None if there are too few Gaussians, or too few of them agree with any pose.
    """
    height, width = opacities.shape
    opaque = opacities > MIN_OPACITY
    counts = opaque if opaque.float().mean() >= 0.5 else torch.ones_like(opaque)
    rows, columns = np.nonzero(counts.cpu().numpy())
    if len(rows) < MIN_POINTS:
        return None
    points = means[rows, columns].double().cpu().numpy()
    pixels = np.stack([columns, rows], axis=1) + 0.5
    intrinsics = np.eye(3)
    intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2] = focal.cpu().numpy(), center.cpu().numpy()
    pixel = (height * width) ** 0.5 / PIXEL_ERROR_SIDE
    poses = (_ransac(points, pixels, intrinsics, allowed * pixel) for allowed in PIXEL_ERRORS)
    return next((pose for pose in poses if pose is not None), None)


def _ransac(
    points: Float[np.ndarray, "points 3"],
    pixels: Float[np.ndarray, "points 2"],
    intrinsics: Float[np.ndarray, "3 3"],
    max_pixel_error: float,
) -> Optional[PointPose]:
    """The pose with which most points agree, if they are enough."""
    try:
        found, turn, shift, agreeing = cv2.solvePnPRansac(
            points,
            pixels,
            intrinsics,
            np.zeros(4),  # no distortion
            iterationsCount=RANSAC_ITERATIONS,
            reprojectionError=max_pixel_error,
            flags=cv2.SOLVEPNP_SQPNP,
        )
    except cv2.error:  # points on one line, or all in one place
        return None
    if not found or agreeing is None or len(agreeing) < MIN_AGREEING * len(points):
        return None
    pose = np.concatenate([cv2.Rodrigues(turn)[0], shift.reshape(3, 1)], axis=1)
    in_front = points.take(np.ravel(agreeing).astype(np.int64), axis=0) @ pose[2, :3] + pose[2, 3] > 0
    if not np.isfinite(pose).all() or in_front.mean() < 0.5:
        return None
    return PointPose(torch.from_numpy(pose).float(), len(agreeing) / len(points))


def refined_pose(
    gaussians: Gaussians, image: Float[Tensor, "3 height width"], view: PinholeView, steps: int = REFINEMENT_STEPS
) -> Float[Tensor, "3 4"]:
    """A view's pose from which fixed Gaussians look most like its image.

    The loss is the mean squared error and 1 less the mean of SSIM's structure term. Adam moves the camera around the
    middle of the scene (see `PoseIncrements`).

    Args:
        gaussians: of the scene, without a batch; frozen.
        image: colors from 0 to 1.
        view: where to begin, and the lens.
        steps: of Adam.

    Returns:
        The refined world_to_camera, or the given one where that is better.
    """
    gaussians = Gaussians(*(value.detach() for value in vars(gaussians).values()))
    opaque = gaussians.opacities > MIN_OPACITY
    middle = (gaussians.means[opaque] if bool(opaque.any()) else gaussians.means).median(dim=0).values
    poses = PoseIncrements(inverse_poses(view.world_to_camera)[None], middle)
    optimizer = torch.optim.Adam(poses.parameters(), lr=LEARNING_RATES[0], betas=BETAS)
    background = torch.zeros(3, device=image.device)

    def loss_of(world_to_camera: Float[Tensor, "3 4"], share: float = 1.0) -> Float[Tensor, ""]:
        lens = _smaller(view, share)
        wanted = area_resize(image[None], lens.height, lens.width)[0]
        shown = render(gaussians, replace(lens, world_to_camera=world_to_camera), background).image.permute(2, 0, 1)
        return F.mse_loss(shown, wanted) + 1.0 - structure(shown, wanted)

    with torch.enable_grad():
        for step in range(steps):
            progress = step / max(1, steps - 1)
            fallen = max(0.0, progress - HELD_SHARE) / (1.0 - HELD_SHARE)
            optimizer.param_groups[0]["lr"] = geometric(LEARNING_RATES, fallen)
            optimizer.zero_grad()
            loss_of(inverse_poses(poses()[0]), COARSE_SIDE if progress < COARSE_SHARE else 1.0).backward()
            optimizer.step()
    refined = inverse_poses(poses()[0].detach())
    with torch.no_grad():
        return refined if loss_of(refined) < loss_of(view.world_to_camera) else view.world_to_camera


def structure(first: Float[Tensor, "3 height width"], second: Float[Tensor, "3 height width"]) -> Float[Tensor, ""]:
    """Mean of SSIM's third factor, (s_xy + c) / (s_x s_y + c), at most `ENOUGH_STRUCTURE` each: how alike images are
    whatever their brightness and contrast (Wang et al., 2004, eq. 10)."""
    offsets = torch.arange(SSIM_WINDOW, device=first.device) - SSIM_WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    window = (weights / weights.sum()).to(first)

    def blurred(values: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 inner_height inner_width"]:
        across = F.conv2d(values[:, None], window[None, None, None, :])
        return F.conv2d(across, window[None, None, :, None])[:, 0]

    mean, other_mean = blurred(first), blurred(second)
    variance = (blurred(first * first) - mean * mean).clamp_min(0.0)
    other_variance = (blurred(second * second) - other_mean * other_mean).clamp_min(0.0)
    covariance = blurred(first * second) - mean * other_mean
    # The root has no derivative at zero.
    deviations = (variance * other_variance + torch.finfo(first.dtype).eps ** 2).sqrt()
    return ((covariance + SSIM_CONSTANT) / (deviations + SSIM_CONSTANT)).clamp_max(ENOUGH_STRUCTURE).mean()


def _smaller(view: PinholeView, share: float) -> PinholeView:
    """The same view in fewer pixels, where it has enough."""
    sides = [max(min(side, MIN_COARSE_SIDE), round(share * side)) for side in (view.width, view.height)]
    scales = view.focal.new_tensor([sides[0] / view.width, sides[1] / view.height])
    return replace(view, focal=view.focal * scales, center=view.center * scales, width=sides[0], height=sides[1])
