"""Pictures of estimated cameras."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

ESTIMATE_COLOR = "#1f6feb"
TRUTH_COLOR = "#9aa0a8"
ERROR_COLOR = "#e0342b"
TEXT_COLOR = "#555555"

VIEWS = (("from the side", 22.0, -58.0), ("from above", 90.0, -90.0))
"""Name, elevation and azimuth (degrees) of the two views."""

FRUSTUM_CORNERS = ((-0.8, -0.6, -1.0), (0.8, -0.6, -1.0), (0.8, 0.6, -1.0), (-0.8, 0.6, -1.0), (0.0, 1.0, -1.0))
"""In the camera's frame and in units of the frustum's depth: the picture's four corners, then a tick above it."""


def _frusta(camera_to_worlds: Float[Tensor, "n 3 4"], depth: float) -> Float[np.ndarray, "n 6 3"]:
    """World positions of each camera's five frustum corners, then of its centre."""
    corners = depth * camera_to_worlds.new_tensor([*FRUSTUM_CORNERS, (0.0, 0.0, 0.0)])
    points = torch.einsum("nij,kj->nki", camera_to_worlds[..., :3], corners) + camera_to_worlds[:, None, :, 3]
    return points.numpy()


def _draw_cameras(axes: "Axes3D", camera_to_worlds: Float[Tensor, "n 3 4"], depth: float, color: str) -> None:
    """Pyramids with a shaded picture plane, and a tick on its upper side."""
    from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection

    points = _frusta(camera_to_worlds, depth)
    sides = [(0, 5), (1, 5), (2, 5), (3, 5), (2, 4), (3, 4)]
    axes.add_collection3d(Line3DCollection(points[:, np.array(sides)].reshape(-1, 2, 3), colors=color, linewidths=0.6))
    faces = Poly3DCollection(list(points[:, :4]), edgecolors=color, linewidths=0.8)
    faces.set_facecolor((color, 0.18))  # type: ignore[arg-type]
    axes.add_collection3d(faces)


def plot_cameras(
    estimated: Float[Tensor, "n 3 4"], ground_truth: Optional[Float[Tensor, "n 3 4"]] = None, title: str = ""
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws cameras from the side and from above, with a red line from each to its true position.

    Args:
        estimated: camera_to_world matrices.
        ground_truth: true cameras, already aligned to the estimate's frame; none are drawn if None.
        title: a line above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from mpl_toolkits.mplot3d import Axes3D
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    estimated = estimated.detach().double().cpu()
    truth = None if ground_truth is None else ground_truth.detach().double().cpu()
    everything = estimated if truth is None else torch.cat([estimated, truth])
    # Small enough that a full hemisphere of cameras does not become one blot.
    distance = float(torch.linalg.vector_norm(estimated[..., 3], dim=-1).median())
    depth = max(distance, 1e-6) * min(0.15, 0.65 / len(estimated) ** 0.5)
    drawn = np.concatenate([_frusta(everything, depth).reshape(-1, 3), np.zeros((1, 3))])
    low, high = drawn.min(axis=0), drawn.max(axis=0)

    figure = Figure(figsize=(12.0, 6.6), dpi=110, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for column, (name, elevation, azimuth) in enumerate(VIEWS):
        axes = figure.add_axes((0.5 * column, 0.07, 0.5, 0.82), projection="3d")
        assert isinstance(axes, Axes3D)
        _set_up_axes(axes, (low, high), seen_from_above=elevation == 90.0)
        axes.view_init(elev=elevation, azim=azimuth)
        if truth is not None:
            _draw_cameras(axes, truth, depth, TRUTH_COLOR)
            errors = torch.stack([estimated[..., 3], truth[..., 3]], dim=1).numpy()
            axes.add_collection3d(Line3DCollection(errors, colors=ERROR_COLOR, linewidths=1.6))
        _draw_cameras(axes, estimated, depth, ESTIMATE_COLOR)
        figure.text(0.5 * column + 0.02, 0.875, name, color=TEXT_COLOR, fontsize=11)

    handles = [Line2D([], [], color=ESTIMATE_COLOR, linewidth=2.5, label=f"estimated ({len(estimated)} cameras)")]
    if truth is not None:
        handles.append(Line2D([], [], color=TRUTH_COLOR, linewidth=2.5, label="true"))
        handles.append(Line2D([], [], color=ERROR_COLOR, linewidth=2.5, label="position error"))
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=11)
    figure.text(0.02, 0.94, title, fontsize=13, weight="bold", color="#222222")
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _set_up_axes(
    axes: "Axes3D", bounds: Tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]], seen_from_above: bool
) -> None:
    """Equal scales over the given box, a quiet grid, and the object's unit circle on the ground where it fits."""
    # matplotlib's stubs know nothing of 3-D axes.
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


def save_picture(path: Path, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes a picture in the format that the file's ending names, whole or not at all; makes its folder if need be."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    Image.fromarray(picture).save(partial)
    os.replace(partial, path)
