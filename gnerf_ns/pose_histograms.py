"""Where the pictures turned out to be taken from, against what the prior allowed."""

from typing import Any, Dict

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gnerf_ns.cameras.pose_population import roll_of
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.plots import ESTIMATE_COLOR, TEXT_COLOR, TRUTH_COLOR

PRIOR_DRAWS = 20_000
BINS = 30
QUANTITIES = (("azimuth (°)", 0.0), ("elevation (°)", 1.0), ("distance (of the prior's unit)", 0.02), ("roll (°)", 2.0))
"""What is shown, and how much room is left beside the values."""


def pose_quantities(camera_to_worlds: Float[Tensor, "n 3 4"], radius: float) -> Float[Tensor, "n 4"]:
    """Azimuth in [0, 360), elevation and roll in degrees, and the distance from the origin in units of ``radius``.

    Columns in the order azimuth, elevation, distance, roll.
    """
    positions = camera_to_worlds[..., 3]
    distances = torch.linalg.vector_norm(positions, dim=-1)
    azimuths = torch.rad2deg(torch.atan2(positions[:, 1], positions[:, 0])) % 360.0
    elevations = torch.rad2deg(torch.asin((positions[:, 2] / distances.clamp_min(1e-12)).clamp(-1.0, 1.0)))
    return torch.stack([azimuths, elevations, distances / radius, torch.rad2deg(roll_of(camera_to_worlds))], dim=-1)


def plot_pose_distribution(
    camera_to_worlds: Float[Tensor, "n 3 4"], prior: PosePrior, radius: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Histograms of estimated azimuth, elevation, distance and roll, over those of the prior.

    Args:
        camera_to_worlds: estimated poses, in the frame of the prior.
        prior: what was assumed.
        radius: the camera distance that counts as 1 in the prior, in scene units.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    generator = torch.Generator().manual_seed(0)
    assumed = pose_quantities(prior.sample(PRIOR_DRAWS, radius, "cpu", generator), radius).numpy()
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
    figure.suptitle(f"Poses of {len(found)} pictures", fontsize=12, weight="bold", color="#222222")
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
