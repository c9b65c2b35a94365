"""Histograms of weights along rays: bounded by one another, widened, and sampled (Mip-NeRF 360, section 3)."""

from __future__ import annotations

from typing import Tuple

import torch
from jaxtyping import Float
from torch import Tensor


def dilate(
    edges: Float[Tensor, "rays edges"], weights: Float[Tensor, "rays bins"], by: float
) -> Tuple[Float[Tensor, "rays dilated_edges"], Float[Tensor, "rays dilated_bins"]]:
    """The largest density within a distance, so that what a moving camera is about to see is looked at, too.

    Args:
        edges: of bins, ascending in [0, 1].
        weights: of bins.
        by: the distance, in the units of the edges.

    Returns:
        Edges in [0, 1], and weights that sum to 1, of three times as many bins.
    """
    densities = weights / (edges[:, 1:] - edges[:, :-1]).clamp_min(torch.finfo(edges.dtype).tiny)
    first, last = edges[:, :-1] - by, edges[:, 1:] + by
    dilated = torch.cat([edges, first, last], dim=-1).clamp(0.0, 1.0).sort(dim=-1).values
    starts, ends = dilated[:, :-1, None], dilated[:, 1:, None]
    # No widened bin begins or ends inside of one of these: it covers all of it or nothing.
    middles = 0.5 * (starts + ends)
    covered = (first[:, None] <= middles) & (middles < last[:, None])
    largest = torch.where(covered, densities[:, None], 0.0).amax(dim=-1)
    dilated_weights = largest * (ends - starts).squeeze(-1)
    total = dilated_weights.sum(dim=-1, keepdim=True)
    return dilated, dilated_weights / total.clamp_min(torch.finfo(edges.dtype).tiny)


def sample_edges(
    edges: Float[Tensor, "rays edges"],
    weights: Float[Tensor, "rays bins"],
    num_bins: int,
    jitter: Float[Tensor, "rays 1"],
) -> Float[Tensor, "rays new_edges"]:
    """Edges of bins that hold equal shares of a histogram, about.

    Points are taken at equal distances of its cumulative sum. Between them lie the new edges, and beyond the first and
    the last point they lie as far as on the other side: else bins would crowd where there is nothing (appendix).

    Args:
        edges: of bins, ascending in [0, 1].
        weights: of bins; evenly spread where all are 0.
        num_bins: how many to make.
        jitter: where the points are between their neighbors, in [0, 1); 0.5 for the middle. One for all of a ray.
    """
    total = weights.sum(dim=-1, keepdim=True)
    widths = edges[:, 1:] - edges[:, :-1]
    cumulative = torch.where(total > 0, weights, widths).cumsum(dim=-1)
    cumulative = torch.cat([torch.zeros_like(total), cumulative / cumulative[:, -1:]], dim=-1)
    shares = (torch.arange(num_bins).to(edges) + jitter) / num_bins
    above = torch.searchsorted(cumulative, shares.contiguous(), right=True).clamp(1, edges.shape[1] - 1)
    low, high = cumulative.gather(-1, above - 1), cumulative.gather(-1, above)
    within = ((shares - low) / (high - low).clamp_min(torch.finfo(edges.dtype).tiny)).clamp(0.0, 1.0)
    points = torch.lerp(edges.gather(-1, above - 1), edges.gather(-1, above), within)
    if num_bins == 1:
        return torch.cat([edges[:, :1], edges[:, -1:]], dim=-1)
    between = 0.5 * (points[:, 1:] + points[:, :-1])
    first = 2.0 * points[:, :1] - between[:, :1]
    last = 2.0 * points[:, -1:] - between[:, -1:]
    return torch.cat([first, between, last], dim=-1).clamp(0.0, 1.0)


def upper_bounds(
    edges: Float[Tensor, "rays edges"],
    coarse_edges: Float[Tensor, "rays coarse_edges"],
    coarse_weights: Float[Tensor, "rays coarse_bins"],
) -> Float[Tensor, "rays bins"]:
    """The most that bins can hold if another histogram of the same is right: what its bins that overlap hold (eq. 12).

    nerfstudio's `outer` gives a bin beyond the first or the last of the others the weight of that one, and not 0.

    Args:
        edges: of the bins, ascending.
        coarse_edges: of the other histogram, ascending.
        coarse_weights: of its bins; the result is differentiable in them.
    """
    sums = torch.cat([torch.zeros_like(coarse_weights[:, :1]), coarse_weights.cumsum(dim=-1)], dim=-1)
    count = coarse_weights.shape[1]
    first = torch.searchsorted(coarse_edges, edges[:, :-1].contiguous(), right=True).sub(1).clamp(0, count)
    last = torch.searchsorted(coarse_edges, edges[:, 1:].contiguous()).clamp_max(count)
    return (sums.gather(-1, last) - sums.gather(-1, first)).clamp_min(0.0)
