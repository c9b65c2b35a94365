"""The image of the learned distribution of poses, and the numbers behind it."""

import math

import numpy as np
import torch

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.plots import ESTIMATE_COLOR, plot_pose_distribution, pose_quantities
from gnerf_ns.cameras.pose_prior import PosePriorConfig


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
