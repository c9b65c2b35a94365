"""Plots of cameras and of where they are: what must be visible in them, and the file they are saved to."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.plots import (
    ERROR_COLOR,
    ESTIMATE_COLOR,
    TRUTH_COLOR,
    plot_cameras,
    plot_pose_distribution,
    pose_quantities,
    save_image,
)
from gnerf_ns.cameras.pose_prior import PosePriorConfig

TRUTH = PosePriorConfig().resolve().sample(20, 2.8, "cpu", torch.Generator().manual_seed(0))


def pixels_of(image: np.ndarray, color: str) -> int:
    """How many pixels have a color, outside of the legend at the bottom."""
    rgb = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
    drawing = image[: int(0.93 * len(image))].astype(int)
    return int((np.abs(drawing - rgb).max(axis=-1) < 40).sum())


def test_shows_estimate_truth_and_errors() -> None:
    estimated = TRUTH.clone().requires_grad_()
    moved = estimated + torch.tensor([0.0, 0.0, 0.0, 0.5])
    image = plot_cameras(moved, TRUTH, "Cameras")
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    for color in (ESTIMATE_COLOR, TRUTH_COLOR, ERROR_COLOR):
        assert pixels_of(image, color) > 300, color


def test_without_truth_shows_neither_truth_nor_errors() -> None:
    image = plot_cameras(TRUTH)
    assert pixels_of(image, ESTIMATE_COLOR) > 1000
    assert pixels_of(image, ERROR_COLOR) == 0


def test_errors_shrink_with_the_distance() -> None:
    def error_pixels(distance: float) -> int:
        return pixels_of(plot_cameras(TRUTH + torch.tensor([0.0, 0.0, 0.0, distance]), TRUTH), ERROR_COLOR)

    assert error_pixels(0.6) > 2 * error_pixels(0.1)


@pytest.mark.parametrize("count", [1, 2, 300])
def test_draws_any_number_of_cameras(count: int) -> None:
    assert pixels_of(plot_cameras(TRUTH[:1].repeat(count, 1, 1)), ESTIMATE_COLOR) > 20


def test_saves_the_very_pixels_and_leaves_nothing_else(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    path = tmp_path / "new" / "folder" / "cameras.png"
    save_image(path, image)
    save_image(path, image)
    with Image.open(path) as saved:
        assert np.array_equal(np.asarray(saved), image)
    assert [entry.name for entry in path.parent.iterdir()] == ["cameras.png"]


def test_quantities_of_a_known_pose() -> None:
    elevation, azimuth = math.radians(35.0), math.radians(250.0)
    direction = torch.tensor(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    pose = look_at(3.0 * direction[None], roll=torch.tensor([math.radians(-12.0)]))
    torch.testing.assert_close(pose_quantities(pose, 2.5), torch.tensor([[250.0, 35.0, 1.2, -12.0]]))


def test_the_plot_shows_where_images_were_taken_from() -> None:
    prior = PosePriorConfig(elevation_deg=(-90.0, 90.0)).resolve()
    taken = PosePriorConfig(elevation_deg=(10.0, 40.0)).resolve().sample(50, 2.75, "cpu").requires_grad_()
    image = plot_pose_distribution(taken, prior, 2.75)
    assert image.dtype == np.uint8 and image.shape[0] * 2 < image.shape[1]
    rgb = np.array([int(ESTIMATE_COLOR[start : start + 2], 16) for start in (1, 3, 5)])
    blue = np.abs(image.astype(int) - rgb).max(axis=-1) < 40
    # The second panel is elevation, from -90 to 90: the learned curve rises in its upper half only.
    panel = blue[: int(0.75 * len(blue)), image.shape[1] // 4 : image.shape[1] // 2]
    assert panel[:, : panel.shape[1] // 2 - 5].sum() < 0.05 * panel.sum() and panel.sum() > 100
