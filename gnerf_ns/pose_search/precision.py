"""How sharply an image's colors tell its pose in a field that stays as it is: Gauss-Newton, robust to patterns.

Neighboring pixels err alike, where a field is blurred or an edge is misplaced: taking all errors for independent
would make poses several times too sure. So errors are summed up over the cells of a grid, and these are taken to be
independent (the sandwich estimator with clusters; White 1980, Liang and Zeger 1986).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.pose_covariance import PRIOR_RAD, PoseSigmas, moved, single_sigmas
from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.image_renderer import RAYS_PER_CHUNK, ImageRenderer
from gnerf_ns.pose_search.pixel_sampling import PixelChoice
from gnerf_ns.utils.fair_lock import give_way

COMPARED_SIDE = 128
"""Longer side of the images that are looked at, in pixels; no more than they have."""
PIXELS_EACH = 400
"""Random pixels of each image. Twice as many change the figures by a tenth."""
CELLS = 8
"""Cells of the grid along each side."""
STEP = 0.01
"""Of the numeric derivative of colors, in radians and camera distances: about half a pixel. A field's own derivatives
are those of its finest cells."""
LEAST_NOISE = 0.01
"""Standard deviation of colors in [0, 1] at least: an image of one color tells nothing, however well it is shown."""


@torch.no_grad()
def color_sigmas(
    renderer: ImageRenderer,
    image_set: ImageSet,
    camera_to_worlds: Float[Tensor, "n 3 4"],
    motions: Float[Tensor, "n 6 freedoms"],
) -> PoseSigmas:
    """Standard deviations of poses by the colors of each image alone; the field is taken to be right.

    Args:
        renderer: of the trained field.
        image_set: the images.
        camera_to_worlds: their poses.
        motions: what these are free in (`free_motions`).
    """
    side = min(COMPARED_SIDE, max(image_set.images.height, image_set.images.width))
    coords, colors, counts = PixelChoice(image_set, "random", renderer.background).all_at(side)
    height, width = image_set.size_at(side)
    generator = torch.Generator().manual_seed(0)
    freedoms, covariances = motions.shape[2], []
    with renderer.frozen():
        for index, pose in enumerate(camera_to_worlds):
            give_way()
            shown = (counts[index] > 0).nonzero()[:, 0]
            if len(shown) == 0:  # nothing is known but what was before
                covariances.append(PRIOR_RAD**2 * torch.eye(freedoms).to(motions))
                continue
            chosen = shown[torch.randperm(len(shown), generator=generator)[:PIXELS_EACH].to(shown.device)]
            steps = STEP * torch.cat([motions.new_zeros(1, 6), motions[index].mT]).to(pose)
            poses = moved(pose.expand(freedoms + 1, 3, 4), steps)
            own = torch.full((freedoms + 1,), index, device=pose.device)
            directions = image_set.directions.at(own, coords[chosen].expand(freedoms + 1, -1, -1))
            areas = image_set.directions.pixel_areas(own, directions, height, width)
            rays = rays_from_poses(poses, directions, own, areas)
            chunks = [
                renderer.colors(rays[first : first + RAYS_PER_CHUNK]) for first in range(0, len(rays), RAYS_PER_CHUNK)
            ]
            rendered = torch.cat(chunks).view(freedoms + 1, -1, 3).double()
            slopes = ((rendered[1:] - rendered[0]) / STEP).permute(1, 2, 0)
            errors = colors[index, chosen].double() - rendered[0]
            covariances.append(_covariance(slopes, errors, _cells(coords[chosen])))
    return single_sigmas(torch.stack(covariances).to(camera_to_worlds), motions)


def _cells(coords: Float[Tensor, "pixels 2"]) -> Tensor:
    """The cell of the grid that each pixel is in."""
    columns, rows = (0.5 * CELLS * (coords + 1.0)).long().clamp(0, CELLS - 1).unbind(dim=-1)
    return rows * CELLS + columns


def _covariance(
    slopes: Float[Tensor, "pixels 3 freedoms"], errors: Float[Tensor, "pixels 3"], cells: Tensor
) -> Float[Tensor, "freedoms freedoms"]:
    """Of least squares, with errors that are independent between cells only."""
    information = torch.einsum("pci,pcj->ij", slopes, slopes)
    of_pixels = torch.einsum("pci,pc->pi", slopes, errors)
    of_cells = of_pixels.new_zeros(CELLS**2, slopes.shape[2]).index_add(0, cells, of_pixels)
    # What is known before: as much as so many further errors of the usual size tell.
    variance = max(float(errors.square().mean()) if len(errors) else 0.0, LEAST_NOISE**2)
    before = variance / PRIOR_RAD**2 * torch.eye(len(information)).to(information)
    inverse = torch.linalg.inv(information + before)
    return inverse @ (of_cells.mT @ of_cells + variance * before) @ inverse
