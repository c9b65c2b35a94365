import math
from typing import Tuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from gnerf_ns.pose_search.image_matching import pairwise_cost, pyramid_features
from gnerf_ns.training.transport import sinkhorn_plan, symmetric_sinkhorn_plan, transport_loss


def random_cost(n: int, m: int, seed: int = 0) -> Tensor:
    return torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(image_set: Tensor, renderings: Tensor, epsilon: float, iterations: int = 50) -> Tuple[Tensor, Tensor]:
    features = pyramid_features(renderings)
    cost = pairwise_cost(pyramid_features(image_set), features)
    return transport_loss(cost, pairwise_cost(features, features), epsilon, iterations)


def regularized_cost(plan: Tensor, cost: Tensor, epsilon: float) -> Tensor:
    """What an entropic plan minimizes among all plans with its marginals."""
    return (plan * cost).sum() + epsilon * torch.special.xlogy(plan, plan).sum()


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 12), m=st.integers(1, 12), epsilon=st.floats(0.05, 5.0), seed=st.integers(0, 10**6))
def test_plan_has_uniform_marginals(n: int, m: int, epsilon: float, seed: int):
    plan = sinkhorn_plan(random_cost(n, m, seed), epsilon, iterations=2000)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.full((n,), 1 / n, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((m,), 1 / m, dtype=torch.float64), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("damping", [1.0, 0.9])
def test_rows_are_exact_after_few_iterations_even_at_extreme_costs(damping: float):
    cost = 1e4 * random_cost(6, 9).float()
    plan = sinkhorn_plan(cost, 0.0075, iterations=1, column_damping=damping)
    torch.testing.assert_close(plan.sum(1), torch.full((6,), 1 / 6), rtol=1e-2, atol=0)


def test_plan_at_small_epsilon_is_the_best_assignment():
    cost = random_cost(9, 9, seed=3)
    rows, columns = linear_sum_assignment(cost.numpy())
    expected = torch.zeros(9, 9, dtype=torch.float64)
    expected[rows, columns] = 1 / 9
    torch.testing.assert_close(sinkhorn_plan(cost, 1e-3, iterations=20_000), expected, atol=1e-3, rtol=0)


def test_plan_at_small_epsilon_costs_what_the_linear_program_costs():
    n, m = 4, 6
    cost = random_cost(n, m, seed=4)
    marginals = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    best = linprog(cost.numpy().ravel(), A_eq=marginals, b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)])
    plan = sinkhorn_plan(cost, 1e-3, iterations=20_000)
    assert math.isclose(float((plan * cost).sum()), best.fun, rel_tol=1e-3)


def test_plan_equals_scaling_iterations_of_the_textbook():
    cost, epsilon = random_cost(5, 8, seed=5), 0.2
    kernel = np.exp(-cost.numpy() / epsilon)
    left, right = np.ones(5), np.ones(8)
    for _ in range(500):
        right = (1 / 8) / (kernel.T @ left)
        left = (1 / 5) / (kernel @ right)
    expected = torch.from_numpy(left[:, None] * kernel * right)
    torch.testing.assert_close(sinkhorn_plan(cost, epsilon, iterations=500), expected)


def test_large_epsilon_explains_every_image_by_every_view():
    plan = sinkhorn_plan(random_cost(4, 5), 1e5)
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / 20), rtol=1e-4, atol=0)


def test_damping_leaves_out_views_that_no_image_shows():
    cost = torch.full((6, 8), 0.1, dtype=torch.float64)
    cost[:, 6:] = 1.0
    strays = [
        float(sinkhorn_plan(cost, 0.05, 500, column_damping=damping).sum(0)[6:].sum()) for damping in (1, 0.9, 0.5)
    ]
    assert math.isclose(strays[0], 2 / 8, rel_tol=1e-6)
    assert strays[0] > 3 * strays[1] > 9 * strays[2]


def test_damped_plan_is_the_optimum_of_unbalanced_transport():
    # Chizat et al. 2018: an exponent of rho / (rho + epsilon) belongs to the penalty rho KL(columns | uniform).
    cost, epsilon, damping = random_cost(5, 7, seed=6), 0.1, 0.8
    rho = epsilon * damping / (1 - damping)
    plan = sinkhorn_plan(cost, epsilon, 2000, damping).requires_grad_()
    columns = plan.sum(0)
    objective = regularized_cost(plan, cost, epsilon) + rho * (columns * (columns * 7).log() - columns).sum()
    slope = torch.autograd.grad(objective, plan)[0]
    # No mass can be moved within a row to any gain.
    torch.testing.assert_close(slope, slope.mean(1, keepdim=True).expand_as(slope), atol=1e-8, rtol=0)


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_symmetric_plan(epsilon: float):
    points = random_cost(10, 3, seed=7)
    cost = pairwise_cost(points, points)
    marginal = random_cost(1, 10, seed=8)[0].softmax(0)
    plan = symmetric_sinkhorn_plan(cost, marginal, epsilon, iterations=100)
    torch.testing.assert_close(plan, plan.T)
    torch.testing.assert_close(plan.sum(1), marginal, rtol=1e-4, atol=1e-8)


def test_symmetric_plan_survives_an_empty_column():
    marginal = torch.tensor([0.5, 0.5, 0.0])
    plan = symmetric_sinkhorn_plan(random_cost(3, 3).float(), marginal, 0.0075)
    assert torch.isfinite(plan).all() and plan[2].sum() < 1e-4


def test_gradient_is_that_of_the_minimum():
    """Envelope theorem: with the plans held fixed the gradient is that of the minima, plans moving along."""
    image_set, epsilon, iterations = random_images(4, seed=9), 0.05, 3000

    def minimum(flat: Tensor) -> Tensor:
        features = pyramid_features(flat.view(3, 3, 4, 4))
        cost, self_cost = pairwise_cost(pyramid_features(image_set), features), pairwise_cost(features, features)
        plan = sinkhorn_plan(cost, epsilon, iterations)
        self_plan = symmetric_sinkhorn_plan(self_cost, plan.sum(0), epsilon, iterations)
        return regularized_cost(plan, cost, epsilon) - 0.5 * regularized_cost(self_plan, self_cost, epsilon)

    renderings = random_images(3, seed=10).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(image_set, renderings, epsilon, iterations)[0], renderings)
    flat = renderings.detach().flatten()
    for index in range(0, len(flat), 17):
        step = torch.zeros_like(flat)
        step[index] = 1e-4
        slope = float(minimum(flat + step) - minimum(flat - step)) / 2e-4
        assert math.isclose(slope, float(gradient.flatten()[index]), rel_tol=1e-3, abs_tol=1e-7)


def test_loss_returns_the_plan_without_gradient():
    renderings = random_images(3, seed=11).requires_grad_()
    loss, plan = loss_of(random_images(5, seed=12), renderings, 0.1)
    assert plan.shape == (5, 3) and not plan.requires_grad and loss.requires_grad


def test_renderings_that_are_the_images_stay():
    image_set = random_images(5, seed=13)
    renderings = image_set.flip(0).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(image_set, renderings, 0.001, 3000)[0], renderings)
    assert gradient.abs().max() < 1e-6


def spread_after_training(with_self_term: bool) -> float:
    """Distance among renderings, relative to that among images, after fitting at a large epsilon."""
    image_set = random_images(8, seed=14)
    renderings = random_images(8, seed=15).requires_grad_()
    optimizer = torch.optim.SGD([renderings], lr=10.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss, plan = loss_of(image_set, renderings, epsilon=10.0)
        if not with_self_term:
            loss = (plan * pairwise_cost(pyramid_features(image_set), pyramid_features(renderings))).sum()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(renderings.mean(0), image_set.mean(0), atol=0.02, rtol=0)
    return float(renderings.detach().std(0).mean() / image_set.std(0).mean())


def test_self_term_keeps_renderings_from_collapsing_to_the_mean_image():
    assert spread_after_training(with_self_term=True) > 0.8
    assert spread_after_training(with_self_term=False) < 0.05
