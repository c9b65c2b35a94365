"""Histograms along rays, against sums over everything."""

from itertools import pairwise
from typing import List

import torch
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.fields.ray_histograms import dilate, sample_edges, upper_bounds

shares = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=9)


def histogram(widths: List[float], weights: List[float]):
    """Of one ray: edges from 0 to 1, and as many weights as fit."""
    count = min(len(widths), len(weights))
    inner = torch.tensor(widths[:count]).double().cumsum(0)
    edges = torch.cat([torch.zeros(1).double(), inner / inner[-1]])
    return edges[None], torch.tensor(weights[:count]).double()[None]


@given(shares, shares, st.floats(0.001, 0.4))
def test_dilated_densities_are_the_largest_ones_nearby(widths, weights, by):
    edges, weights = histogram(widths, weights)
    dilated_edges, dilated = dilate(edges, weights, by)
    assert dilated_edges.shape[1] == 3 * weights.shape[1] + 1 and (dilated_edges.diff() >= 0).all()
    torch.testing.assert_close(dilated.sum(), torch.ones(()).double())
    densities = weights[0] / edges[0].diff()
    expected = []
    for start, end in zip(dilated_edges[0, :-1].tolist(), dilated_edges[0, 1:].tolist(), strict=True):
        middle = 0.5 * (start + end)
        near = [
            float(density)
            for density, first, last in zip(densities, edges[0, :-1], edges[0, 1:], strict=True)
            if first - by <= middle < last + by
        ]
        expected.append(max(near, default=0.0) * (end - start))
    expected = torch.tensor(expected).double()
    torch.testing.assert_close(dilated[0], expected / expected.sum())


@given(shares, shares, st.integers(2, 12), st.floats(0.0, 0.999))
def test_new_edges_lie_between_points_at_equal_shares(widths, weights, count, jitter):
    edges, weights = histogram(widths, weights)
    new = sample_edges(edges, weights, count, torch.tensor([[jitter]]).double())[0]
    assert len(new) == count + 1 and (new.diff() >= -1e-12).all() and new[0] >= 0 and new[-1] <= 1
    cumulative = torch.cat([torch.zeros(1).double(), weights[0].cumsum(0) / weights.sum()])
    points = []
    for index in range(count):
        share, bin_index = (index + jitter) / count, 0
        while cumulative[bin_index + 1] <= share:
            bin_index += 1
        within = (share - cumulative[bin_index]) / (cumulative[bin_index + 1] - cumulative[bin_index])
        points.append(float(edges[0, bin_index] + within * (edges[0, bin_index + 1] - edges[0, bin_index])))
    middles = [0.5 * (one + other) for one, other in pairwise(points)]
    torch.testing.assert_close(new[1:-1], torch.tensor(middles).double())
    for edge, expected in ((new[0], 2 * points[0] - middles[0]), (new[-1], 2 * points[-1] - middles[-1])):
        torch.testing.assert_close(edge, torch.tensor(min(1.0, max(0.0, expected))).double())


def test_an_even_histogram_in_the_middle_of_its_bins_gives_even_edges():
    edges = torch.tensor([[0.0, 1.0]])
    new = sample_edges(edges, torch.ones(1, 1), 8, torch.full((1, 1), 0.5))
    torch.testing.assert_close(new[0], torch.linspace(0, 1, 9))


def test_where_nothing_weighs_samples_are_even():
    edges = torch.linspace(0, 1, 5)[None]
    new = sample_edges(edges, torch.zeros(1, 4), 4, torch.full((1, 1), 0.5))
    torch.testing.assert_close(new, edges)


def test_one_bin_is_the_whole_ray():
    new = sample_edges(torch.tensor([[0.0, 0.3, 1.0]]), torch.ones(1, 2), 1, torch.zeros(1, 1))
    torch.testing.assert_close(new, torch.tensor([[0.0, 1.0]]))


def test_weights_in_bins_of_no_width_are_no_reason_to_look_there():
    edges = torch.tensor([[0.0, 0.5, 0.5, 1.0]])
    dilated_edges, dilated = dilate(edges, torch.tensor([[0.1, 0.0, 0.9]]), 0.1)
    assert dilated_edges.isfinite().all() and dilated.isfinite().all()
    assert (dilated[dilated_edges.diff() == 0] == 0).all()


@given(shares, shares, shares, shares, st.floats(-0.3, 0.9), st.floats(0.2, 2.0))
def test_bounds_are_what_overlaps(widths, weights, other_widths, other_weights, shift, scale):
    """Of bins that reach beyond the others, too."""
    edges, _ = histogram(other_widths, other_weights)
    coarse_edges, coarse_weights = histogram(widths, weights)
    coarse_edges = shift + scale * coarse_edges
    expected = [
        sum(
            float(weight)
            for weight, first, last in zip(coarse_weights[0], coarse_edges[0, :-1], coarse_edges[0, 1:], strict=True)
            if first < end and last > start
        )
        for start, end in pairwise(edges[0].tolist())
    ]
    bounds = upper_bounds(edges, coarse_edges.contiguous(), coarse_weights)
    torch.testing.assert_close(bounds[0], torch.tensor(expected).double())


def test_gradients_of_bounds():
    edges, coarse = torch.tensor([[0.0, 0.3, 0.5, 1.0]]).double(), torch.tensor([[0.1, 0.4, 0.9]]).double()
    weights = torch.tensor([[0.2, 0.7]]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda coarse_weights: upper_bounds(edges, coarse, coarse_weights), (weights,))
