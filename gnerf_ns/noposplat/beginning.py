"""How a network without pretrained weights begins: with Gaussians before the camera, and with points before images.

With random weights all Gaussians lie about the first camera's center, where none is drawn: no gradient comes from
images of them. Official training begins from MASt3R's weights (NoPoSplat, Ye et al., ICLR 2025, arXiv 2410.24207,
section 3.5), which have learned where the pixels' points are. So does a small network here, in its first steps: it is
told the points of scenes whose depths are known, as DUSt3R (Wang et al., CVPR 2024, section 3.2) and MASt3R are.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gnerf_ns.noposplat.gaussian_parameters import SCALE_UNIT
from gnerf_ns.noposplat.network import NoPoSplatNetwork

FIRST_DEPTH = 2.5
"""Where Gaussians begin, straight ahead of the first camera, in distances between the cameras: about what views that
overlap by half look at."""

FIRST_WIDTH = 1.0
"""Standard deviation of a Gaussian in its beginning, in pixels at that depth. Larger ones hide what is behind, smaller
ones leave gaps, from both of which gradients are poor."""


@torch.no_grad()
def begin_before_the_camera(network: NoPoSplatNetwork) -> None:
    """Set the last biases of an untrained network so that its Gaussians are seen.

    They lie at `FIRST_DEPTH`, are as wide as pixels there (where focal lengths are an image's side), half opaque, gray,
    and not turned.
    """
    width = FIRST_WIDTH * FIRST_DEPTH / network.config.image_side
    for head in (network.downstream_head1, network.downstream_head2):
        _last_bias(head).copy_(torch.tensor([0.0, 0.0, math.log1p(FIRST_DEPTH)]))
    for head in (network.gaussian_param_head, network.gaussian_param_head2):
        bias = _last_bias(head).zero_()
        bias[1:4] = math.log(math.expm1(width / SCALE_UNIT))  # before the softplus
        bias[7] = 1.0  # w of x, y, z, w


def _last_bias(head: nn.ModuleDict) -> Tensor:
    return head.get_submodule("dpt.head.4").get_parameter("bias")


def point_loss(
    means: Float[Tensor, "batch gaussians 3"], points: Float[Tensor, "batch views height width 3"]
) -> Float[Tensor, ""]:
    """Mean distance between Gaussians and the points of their pixels, in squashed coordinates.

    Args:
        means: in the order of `points`: views, rows, columns.
        points: the true ones, in the first camera's frame, in distances between the cameras.
    """
    return torch.linalg.vector_norm(squashed(means) - squashed(points).flatten(1, 3), dim=-1).mean()


def squashed(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The inverse of `gaussian_parameters.centers`: what the heads put out for points; far ones weigh less."""
    lengths = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
    return points / lengths.clamp_min(1e-8) * torch.log1p(lengths)
