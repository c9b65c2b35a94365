"""Losses of GNeRF's phase A (arXiv 2103.15606), each with gradients to one network only.

nerfstudio's trainer sums all losses and runs one backward pass. Every loss here therefore detaches what it must not
train; the summed pass then gives each network the gradients of a pass of its own.
"""

from typing import Callable, NamedTuple, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

Augment = Callable[[Tensor], Tensor]
"""Maps patches to changed patches of the same shape."""


class DiscriminatorLosses(NamedTuple):
    """What the discriminator is trained on."""

    classification: Float[Tensor, ""]
    """-E[log D(real)] - E[log(1 - D(fake))]."""
    gradient_penalty: Float[Tensor, ""]
    """R1 on the real patches, times its weight."""


def call_frozen(module: nn.Module, *arguments: Tensor) -> Tensor:
    """A module's output with gradients to its arguments, none to its parameters, and its buffers left as they were.

    Args:
        module: what to call; in training mode a spectral norm would otherwise advance its power iteration.
        arguments: of the call.
    """
    frozen = {name: parameter.detach() for name, parameter in module.named_parameters()}
    frozen.update({name: buffer.clone() for name, buffer in module.named_buffers()})
    return functional_call(module, frozen, arguments)


def generator_loss(
    discriminator: nn.Module,
    fake_patches: Float[Tensor, "batch channels side side"],
    scales: Float[Tensor, "batch"],
    augment: Optional[Augment] = None,
) -> Float[Tensor, ""]:
    """-E[log D(fake)]: the generator's non-saturating loss. Trains what the patches come from, only.

    Args:
        discriminator: maps patches and scales to logits.
        fake_patches: rendered colours in [0, 1].
        scales: share of the image's width that each patch spans.
        augment: applied to the patches first.
    """
    seen = fake_patches if augment is None else augment(fake_patches)
    return F.softplus(-call_frozen(discriminator, seen, scales)).mean()


def discriminator_loss(
    discriminator: nn.Module,
    real_patches: Float[Tensor, "batch channels side side"],
    real_scales: Float[Tensor, "batch"],
    fake_patches: Float[Tensor, "fakes channels side side"],
    fake_scales: Float[Tensor, "fakes"],
    augment: Optional[Augment] = None,
    r1_weight: float = 10.0,
) -> DiscriminatorLosses:
    """The discriminator's two losses. Train the discriminator only.

    Args:
        discriminator: maps patches and scales to logits.
        real_patches: photographed colours in [0, 1].
        real_scales: share of the image's width that each real patch spans.
        fake_patches: rendered colours in [0, 1].
        fake_scales: likewise, of the rendered patches.
        augment: applied to real and rendered patches first.
        r1_weight: of the gradient penalty; 0 saves its double backward pass.
    """
    real = real_patches.detach().requires_grad_(r1_weight > 0)
    fake = fake_patches.detach()
    real_logits = discriminator(real if augment is None else augment(real), real_scales)
    fake_logits = discriminator(fake if augment is None else augment(fake), fake_scales)
    classification = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    penalty = r1_weight * r1_penalty(real_logits, real) if r1_weight > 0 else torch.zeros_like(classification)
    return DiscriminatorLosses(classification, penalty)


def r1_penalty(logits: Float[Tensor, "batch"], patches: Float[Tensor, "batch channels side side"]) -> Float[Tensor, ""]:
    """E‖∇D‖² on real patches (Mescheder et al. 2018, arXiv 1801.04406), differentiable in D's parameters.

    Args:
        logits: D of the patches, still connected to them. Each must depend on its own patch only.
        patches: colours in [0, 1] that require gradients.

    Returns:
        The mean over patches of the squared gradient norm per colour in [-1, 1], the unit of the paper's weight 10.
    """
    (gradients,) = torch.autograd.grad(logits.sum(), patches, create_graph=True)
    return (gradients / 2).square().sum(dim=(1, 2, 3)).mean()


def inversion_loss(
    inversion_network: nn.Module,
    rendered_images: Float[Tensor, "batch channels side side"],
    codes: Float[Tensor, "batch code_dim"],
) -> Float[Tensor, ""]:
    """E‖E(G(φ)) - φ‖² (the paper's L_E), averaged over a code's numbers too. Trains the inversion network only.

    Args:
        inversion_network: maps images to pose codes.
        rendered_images: static patches rendered from the poses, colours in [0, 1].
        codes: the poses that they were rendered from.
    """
    return F.mse_loss(inversion_network(rendered_images.detach()), codes.detach())


def pose_regularization(
    inversion_network: nn.Module,
    images: Float[Tensor, "batch channels side side"],
    codes: Float[Tensor, "batch code_dim"],
) -> Float[Tensor, ""]:
    """E‖E(I) - φ‖² (the pull of the paper's L_R), averaged over a code's numbers too. Trains the pose table only.

    Args:
        inversion_network: maps images to pose codes.
        images: photographs brought to the network's size, colours in [0, 1].
        codes: the same photographs' entries in the pose table.
    """
    with torch.no_grad():
        targets = inversion_network(images)
    return F.mse_loss(codes, targets)
