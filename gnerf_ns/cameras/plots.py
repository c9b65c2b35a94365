"""Plots of cameras in space, and of their distribution compared with the pose prior."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePrior, roll_of

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

ESTIMATE_COLOR = "#1f6feb"
TRUTH_COLOR = "#9aa0a8"
ERROR_COLOR = "#e0342b"
TEXT_COLOR = "#555555"

VIEWS = (("from the side", 22.0, -58.0), ("from above", 90.0, -90.0))
"""Name, elevation and azimuth (in degrees) of the two views."""

FRUSTUM_CORNERS = ((-0.8, -0.6, -1.0), (0.8, -0.6, -1.0), (0.8, 0.6, -1.0), (-0.8, 0.6, -1.0), (0.0, 1.0, -1.0))
"""The image's four corners and a tick above it, in the camera's frame, relative to the depth of the frustum."""

PRIOR_SAMPLES = 20_000
BINS = 30
QUANTITIES = (("azimuth (°)", 0.0), ("elevation (°)", 1.0), ("distance (relative)", 0.02), ("roll (°)", 2.0))
"""Names of the histograms, and the margin beside the values in each."""


def frusta(camera_to_worlds: Float[Tensor, "n 3 4"], depth: float) -> Float[np.ndarray, "n 6 3"]:
    """World positions of each camera's `FRUSTUM_CORNERS`, then of its center."""
    corners = depth * camera_to_worlds.new_tensor([*FRUSTUM_CORNERS, (0.0, 0.0, 0.0)])
    points = torch.einsum("nij,kj->nki", camera_to_worlds[..., :3], corners) + camera_to_worlds[:, None, :, 3]
    return points.numpy()


def frustum_depth(camera_to_worlds: Float[Tensor, "n 3 4"], crowd: int) -> float:
    """How deep frusta are to be drawn, in scene units: the more cameras, the smaller, so that they are told apart.

    Args:
        camera_to_worlds: all cameras.
        crowd: how many of them stand among each other.
    """
    distance = float(torch.linalg.vector_norm(camera_to_worlds[..., 3], dim=-1).median())
    return max(distance, 1e-6) * min(0.15, 0.65 / crowd**0.5)


def _draw_cameras(axes: "Axes3D", camera_to_worlds: Float[Tensor, "n 3 4"], depth: float, color: str) -> None:
    """Draw pyramids with a shaded image plane and a tick on its upper side."""
    from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection

    points = frusta(camera_to_worlds, depth)
    sides = [(0, 5), (1, 5), (2, 5), (3, 5), (2, 4), (3, 4)]
    axes.add_collection3d(Line3DCollection(points[:, np.array(sides)].reshape(-1, 2, 3), colors=color, linewidths=0.6))
    faces = Poly3DCollection(list(points[:, :4]), edgecolors=color, linewidths=0.8)
    faces.set_facecolor((color, 0.18))  # type: ignore[arg-type]
    axes.add_collection3d(faces)


@dataclass(frozen=True)
class CameraGroup:
    """Cameras drawn in one color."""

    camera_to_worlds: Float[Tensor, "n 3 4"]
    """camera_to_world matrices, on the CPU."""
    color: str
    """matplotlib's name of the color."""
    label: str
    """Text in the legend."""


@dataclass(frozen=True)
class LineGroup:
    """Lines drawn in one color."""

    lines: List[Float[np.ndarray, "points 3"]]
    """Vertices of each line."""
    color: str
    """matplotlib's name of the color."""
    label: str
    """Text in the legend."""


def plot_cameras(
    estimated: Float[Tensor, "n 3 4"], ground_truth: Optional[Float[Tensor, "n 3 4"]] = None, title: str = ""
) -> UInt8[np.ndarray, "height width 3"]:
    """Plot estimated cameras from the side and from above, with a red line from each to its true position.

    Args:
        estimated: camera_to_world matrices.
        ground_truth: true cameras in the frame of the estimate, NaN where unknown; none are drawn if None.
        title: text above the plot.
    """
    estimated = estimated.detach().double().cpu()
    groups = [CameraGroup(estimated, ESTIMATE_COLOR, f"estimated ({len(estimated)} cameras)")]
    lines = []
    if ground_truth is not None:
        truth = ground_truth.detach().double().cpu()
        known = truth.isfinite().flatten(1).all(dim=1)
        groups.insert(0, CameraGroup(truth[known], TRUTH_COLOR, "true"))
        errors = torch.stack([estimated[known][..., 3], truth[known][..., 3]], dim=1).numpy()
        lines.append(LineGroup(list(errors), ERROR_COLOR, "position error"))
    return plot_groups(groups, lines, title)


def plot_localized(
    training: Float[Tensor, "n 3 4"],
    localized: Float[Tensor, "m 3 4"],
    converged: Bool[Tensor, "m"],
    paths: List[Float[Tensor, "steps 3 4"]],
    title: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Plot localized cameras among the training cameras, with the path of each through its optimization.

    Args:
        training: camera_to_world matrices of training images.
        localized: camera_to_world matrices of the localized images.
        converged: which of the localizations converged.
        paths: poses of each localized image during optimization, from its start.
        title: text above the plot.
    """
    localized, sure = localized.detach().double().cpu(), converged.cpu()
    groups = [
        CameraGroup(training.detach().double().cpu(), TRUTH_COLOR, f"training ({len(training)} cameras)"),
        CameraGroup(localized[sure], ESTIMATE_COLOR, f"localized ({int(sure.sum())})"),
        CameraGroup(localized[~sure], ERROR_COLOR, f"not converged ({int((~sure).sum())})"),
    ]
    lines = [path[..., 3].detach().double().cpu().numpy() for path in paths]
    drawn = [group for group in groups if len(group.camera_to_worlds)]
    return plot_groups(drawn, [LineGroup(lines, "#e0a52b", "optimization path")], title)


def plot_groups(
    groups: List[CameraGroup], line_groups: List[LineGroup], title: str
) -> UInt8[np.ndarray, "height width 3"]:
    """Plot cameras and lines from the side and from above, with a legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from mpl_toolkits.mplot3d import Axes3D
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    everything = torch.cat([group.camera_to_worlds for group in groups])
    depth = frustum_depth(everything, max(len(group.camera_to_worlds) for group in groups))
    drawn = np.concatenate([frusta(everything, depth).reshape(-1, 3), np.zeros((1, 3))])
    low, high = drawn.min(axis=0), drawn.max(axis=0)

    figure = Figure(figsize=(12.0, 6.6), dpi=110, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for column, (name, elevation, azimuth) in enumerate(VIEWS):
        axes = figure.add_axes((0.5 * column, 0.07, 0.5, 0.82), projection="3d")
        assert isinstance(axes, Axes3D)
        _set_up_axes(axes, (low, high), seen_from_above=elevation == 90.0)
        axes.view_init(elev=elevation, azim=azimuth)
        for lines in line_groups:
            axes.add_collection3d(Line3DCollection(lines.lines, colors=lines.color, linewidths=1.6))
        for group in groups:
            _draw_cameras(axes, group.camera_to_worlds, depth, group.color)
        figure.text(0.5 * column + 0.02, 0.875, name, color=TEXT_COLOR, fontsize=11)

    drawn_groups = [*groups, *line_groups]
    handles = [Line2D([], [], color=group.color, linewidth=2.5, label=group.label) for group in drawn_groups]
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=11)
    figure.text(0.02, 0.94, title, fontsize=13, weight="bold", color="#222222")
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _set_up_axes(
    axes: "Axes3D", bounds: Tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]], seen_from_above: bool
) -> None:
    """Set equal scales over the given box, light grid lines, and the unit circle in the xy plane if it fits."""
    # matplotlib's stubs have no 3-D axes.
    plain: Any = axes
    low, high = bounds
    middle, half = (low + high) / 2.0, np.maximum((high - low) / 2.0, 0.05 * (high - low).max()) * 1.04
    plain.patch.set_visible(False)
    plain.set_proj_type("ortho")
    plain.set_box_aspect(half / np.linalg.norm(half), zoom=1.2 if seen_from_above else 1.12)
    for name, center, half_side in zip("xyz", middle, half, strict=True):
        getattr(plain, f"set_{name}lim")(center - half_side, center + half_side)
        axis = getattr(plain, f"{name}axis")
        axis.set_pane_color((0.97, 0.97, 0.98, 1.0))
        axis._axinfo["grid"].update(color="#e3e5e8", linewidth=0.6)
        axis.line.set_color("#c9ccd1")
        plain.tick_params(axis=name, labelsize=8, colors="#777777", pad=0)
        getattr(plain, f"set_{name}label")(name, color=TEXT_COLOR, labelpad=-4)
    if seen_from_above:
        plain.set_zticks([])
        plain.set_zlabel("")
    if half.min() > 0.5:
        angles = np.linspace(0.0, 2.0 * np.pi, 73)
        plain.plot(
            np.cos(angles), np.sin(angles), np.zeros_like(angles), color="#6f7782", linewidth=0.8, ls=(0, (5, 4))
        )


def save_image(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write an image, complete or not at all, in the format of the file's suffix; make its folder if necessary."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    Image.fromarray(image).save(partial)
    os.replace(partial, path)


def pose_quantities(camera_to_worlds: Float[Tensor, "n 3 4"], radius: float) -> Float[Tensor, "n 4"]:
    """Azimuth in [0, 360), elevation, distance from the origin relative to ``radius``, and roll; angles in degrees."""
    positions = camera_to_worlds[..., 3]
    distances = torch.linalg.vector_norm(positions, dim=-1)
    azimuths = torch.rad2deg(torch.atan2(positions[:, 1], positions[:, 0])) % 360.0
    elevations = torch.rad2deg(torch.asin((positions[:, 2] / distances.clamp_min(1e-12)).clamp(-1.0, 1.0)))
    return torch.stack([azimuths, elevations, distances / radius, torch.rad2deg(roll_of(camera_to_worlds))], dim=-1)


def plot_pose_distribution(
    camera_to_worlds: Float[Tensor, "n 3 4"], prior: PosePrior, radius: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Histograms of estimated azimuths, elevations, distances and rolls, and those of the prior.

    Args:
        camera_to_worlds: estimated poses, in the frame of the prior.
        prior: distribution that was assumed.
        radius: camera distance that is 1 in the prior, in scene units.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    generator = torch.Generator().manual_seed(0)
    assumed = pose_quantities(prior.sample(PRIOR_SAMPLES, radius, "cpu", generator), radius).numpy()
    found = pose_quantities(camera_to_worlds.detach().float().cpu(), radius).numpy()

    figure = Figure(figsize=(12.0, 3.4), dpi=110, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for column, (axes, (name, margin)) in enumerate(zip(figure.subplots(1, 4), QUANTITIES, strict=True)):
        both = np.concatenate([assumed[:, column], found[:, column]])
        style: Dict[str, Any] = {
            "bins": np.linspace(both.min() - margin, both.max() + margin, BINS + 1),
            "density": True,
        }
        axes.hist(assumed[:, column], color=TRUTH_COLOR, alpha=0.35, label="prior", **style)
        axes.hist(found[:, column], color=ESTIMATE_COLOR, histtype="step", linewidth=1.8, label="learned", **style)
        axes.set_xlabel(name, color=TEXT_COLOR)
        axes.set_yticks([])
        axes.tick_params(labelsize=8, colors="#777777")
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
        if column == 0:
            axes.legend(frameon=False, fontsize=9)
    figure.suptitle(f"Poses of {len(found)} images", fontsize=12, weight="bold", color="#222222")
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
