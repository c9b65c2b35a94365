"""Annealed optimal transport between photographs and renderings at random poses.

Like GNeRF's discriminator it compares the distribution of renderings with that of the photographs, but needs no
adversary, and its plan tells which rendering looks like which photograph. Annealing the entropic regularisation from
large to small breaks the symmetry gently: first every photograph explains every view, then the views specialise
together.
"""

from __future__ import annotations

import math
from typing import Tuple

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def sinkhorn_plan(
    cost: Float[Tensor, "n m"], epsilon: float, iterations: int = 50, column_damping: float = 1.0
) -> Float[Tensor, "n m"]:
    """Entropic transport plan between uniform marginals, by log-domain Sinkhorn iterations.

    Args:
        cost: cost of moving mass from row to column.
        epsilon: entropic regularisation, in units of the cost.
        iterations: number of row/column updates.
        column_damping: exponent in (0, 1] on the columns' potential. 1 keeps the columns' marginal uniform; less lets
            it relax (unbalanced transport), for priors that hold poses from which no photograph was taken.

    Returns:
        Plan of total mass 1. Its rows sum to 1/n exactly (the last update is the rows').
    """
    n, m = cost.shape
    kernel = -cost / epsilon
    log_row, log_column = -math.log(n), -math.log(m)
    column_potential = cost.new_zeros(m)
    for _ in range(iterations):
        row_potential = log_row - torch.logsumexp(kernel + column_potential, dim=1)
        column_potential = column_damping * (log_column - torch.logsumexp(kernel + row_potential[:, None], dim=0))
    row_potential = log_row - torch.logsumexp(kernel + column_potential, dim=1)
    return (kernel + row_potential[:, None] + column_potential).exp()


@torch.no_grad()
def symmetric_sinkhorn_plan(
    cost: Float[Tensor, "m m"], marginal: Float[Tensor, "m"], epsilon: float, iterations: int = 50
) -> Float[Tensor, "m m"]:
    """Entropic plan of a distribution with itself (averaged updates of one potential, which converge quickly).

    Args:
        cost: symmetric cost.
        marginal: the distribution, summing to 1.
        epsilon: entropic regularisation.
        iterations: number of updates.
    """
    kernel = -cost / epsilon
    log_marginal = marginal.clamp_min(1e-12).log()
    potential = torch.zeros_like(log_marginal)
    for _ in range(iterations):
        potential = 0.5 * (potential + log_marginal - torch.logsumexp(kernel + potential, dim=1))
    return (kernel + potential[:, None] + potential).exp()


def transport_loss(
    cost: Float[Tensor, "n m"],
    self_cost: Float[Tensor, "m m"],
    epsilon: float,
    iterations: int = 50,
    column_damping: float = 1.0,
) -> Tuple[Float[Tensor, ""], Float[Tensor, "n m"]]:
    """Sinkhorn divergence of renderings from photographs, up to terms that do not depend on the renderings.

    The plans carry no gradient (envelope theorem), so the loss is ⟨P, C⟩ − ½⟨Q, C_renderings⟩. Without the second term
    renderings collapse to the mean photograph.

    Args:
        cost: of photographs (rows) against renderings at poses drawn from the prior (columns).
        self_cost: of those renderings against each other.
        epsilon: entropic regularisation, in units of the cost.
        iterations: Sinkhorn iterations.
        column_damping: see `sinkhorn_plan`.

    Returns:
        The loss and the plan P.
    """
    plan = sinkhorn_plan(cost.detach(), epsilon, iterations, column_damping)
    self_plan = symmetric_sinkhorn_plan(self_cost.detach(), plan.sum(0), epsilon, iterations)
    return (plan * cost).sum() - 0.5 * (self_plan * self_cost).sum(), plan
