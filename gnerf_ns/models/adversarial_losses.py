"""Losses of GNeRF's phase A (arXiv 2103.15606) and the augmentation of the patches that they compare.

nerfstudio's trainer sums all losses and runs one backward pass. Every loss here therefore detaches what it must not
train, so that each network gets the same gradients as from a backward pass of its own.

The augmentation follows DiffAugment (Zhao et al. 2020, arXiv 2006.10738): with few images, a discriminator memorizes
them. Real and rendered patches pass through the same kinds of random changes, and gradients flow through these.
"""

from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

CUTOUT_COLOR = 0.5
"""Mid-gray, the zero of colors in [-1, 1], which is what the discriminator sees."""


@dataclass
class AugmentationConfig:
    """Strength and frequency of the augmentation; the defaults are those of GNeRF's released code."""

    probability: float = 0.5
    """Probability that a patch is changed at all."""
    brightness: float = 0.25
    """Largest value added to or subtracted from all colors, which are in [0, 1]."""
    saturation: float = 1.0
    """Largest relative change of saturation: a factor in 1 ± this."""
    contrast: float = 0.5
    """Largest relative change of contrast: a factor in 1 ± this."""
    cutout: float = 0.5
    """Side of the gray square that covers part of a patch, relative to the patch's side; 0 for none."""


def augment_patches(
    patches: Float[Tensor, "batch channels height width"],
    config: AugmentationConfig,
    generator: Optional[torch.Generator] = None,
) -> Float[Tensor, "batch channels height width"]:
    """Change brightness, saturation and contrast of some patches, and cover a square of each of them with gray.

    Args:
        patches: colors in [0, 1]. Channels after the third (opacity) keep their values outside the square.
        config: strength and frequency.
        generator: source of randomness, on the patches' device; torch's own if None.

    Returns:
        New patches; values may leave [0, 1].
    """
    batch, _, height, width = patches.shape
    uniform = torch.rand(batch, 6, 1, 1, 1, generator=generator, device=patches.device, dtype=patches.dtype)
    brightness, saturation, contrast, row, column, chance = uniform.unbind(dim=1)
    colors = jitter_colors(
        patches[:, :3],
        config.brightness * (2 * brightness - 1),
        1 + config.saturation * (2 * saturation - 1),
        1 + config.contrast * (2 * contrast - 1),
    )
    changed = torch.cat([colors, patches[:, 3:]], dim=1)
    hidden = cutout_mask(height, width, config.cutout, row[:, 0, 0, 0], column[:, 0, 0, 0])
    changed = torch.where(hidden[:, None], changed.new_tensor(CUTOUT_COLOR), changed)
    return torch.where(chance < config.probability, changed, patches)


def jitter_colors(
    patches: Float[Tensor, "batch channels height width"],
    brightness: Float[Tensor, "batch 1 1 1"],
    saturation: Float[Tensor, "batch 1 1 1"],
    contrast: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch channels height width"]:
    """Change brightness, then saturation about each pixel's gray, then contrast about the patch's mean.

    Args:
        patches: colors.
        brightness: added to every color.
        saturation: factor; 0 makes a patch gray.
        contrast: factor; 0 makes a patch uniform.
    """
    patches = patches + brightness
    gray = patches.mean(dim=1, keepdim=True)
    patches = gray + saturation * (patches - gray)
    mean = patches.mean(dim=(1, 2, 3), keepdim=True)
    return mean + contrast * (patches - mean)


def cutout_mask(
    height: int, width: int, share: float, rows: Float[Tensor, "batch"], columns: Float[Tensor, "batch"]
) -> Bool[Tensor, "batch {height} {width}"]:
    """Masks of one rectangle in each patch, which may extend beyond the patch's edge.

    Args:
        height: height of a patch, in pixels.
        width: width of a patch, in pixels.
        share: sides of the rectangle relative to those of the patch.
        rows: vertical position of the rectangles' centers relative to the height, in [0, 1].
        columns: horizontal position of the rectangles' centers relative to the width, in [0, 1].

    Returns:
        True inside the rectangle.
    """
    row_centers = (torch.arange(height, device=rows.device) + 0.5) / height
    column_centers = (torch.arange(width, device=columns.device) + 0.5) / width
    in_rows = (row_centers - rows[:, None]).abs() < share / 2
    in_columns = (column_centers - columns[:, None]).abs() < share / 2
    return in_rows[:, :, None] & in_columns[:, None, :]


Augment = Callable[[Tensor], Tensor]
"""Maps patches to changed patches of the same shape."""


class DiscriminatorLosses(NamedTuple):
    """The two losses that train the discriminator."""

    classification: Float[Tensor, ""]
    """-E[log D(real)] - E[log(1 - D(fake))]."""
    gradient_penalty: Float[Tensor, ""]
    """R1 penalty on the real patches, times its weight."""


def call_frozen(module: nn.Module, *arguments: Tensor) -> Tensor:
    """Call a module so that gradients reach its arguments but not its parameters, and its buffers do not change.

    Args:
        module: module to call; in training mode, its spectral norms would otherwise advance their power iteration.
        arguments: arguments of the call.
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
    """-E[log D(fake)]: the generator's non-saturating loss. Trains only what the patches were rendered from.

    Args:
        discriminator: maps patches and scales to logits.
        fake_patches: rendered colors in [0, 1].
        scales: share of the image's width that each patch spans.
        augment: augmentation of the patches, if any.
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
    """The discriminator's two losses. They train the discriminator only.

    Args:
        discriminator: maps patches and scales to logits.
        real_patches: real colors in [0, 1].
        real_scales: share of the image's width that each real patch spans.
        fake_patches: rendered colors in [0, 1].
        fake_scales: share of the image's width that each rendered patch spans.
        augment: augmentation of real and rendered patches, if any.
        r1_weight: weight of the gradient penalty; 0 saves its double backward pass.
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
        logits: D's outputs for the patches, with their graph. Each must depend on its own patch only.
        patches: colors in [0, 1] that require gradients.

    Returns:
        The mean over patches of the squared gradient norm per color in [-1, 1], the unit of the paper's weight 10.
    """
    (gradients,) = torch.autograd.grad(logits.sum(), patches, create_graph=True)
    return (gradients / 2).square().sum(dim=(1, 2, 3)).mean()


def inversion_loss(
    inversion_network: nn.Module,
    rendered_images: Float[Tensor, "batch channels side side"],
    codes: Float[Tensor, "batch code_dim"],
) -> Float[Tensor, ""]:
    """E‖E(G(φ)) - φ‖² (the paper's L_E), also averaged over a code's dimensions. Trains the inversion network only.

    Args:
        inversion_network: maps images to pose codes.
        rendered_images: whole images rendered from the poses, colors in [0, 1].
        codes: pose codes that they were rendered from.
    """
    return F.mse_loss(inversion_network(rendered_images.detach()), codes.detach())


def pose_regularization(
    inversion_network: nn.Module,
    images: Float[Tensor, "batch channels side side"],
    codes: Float[Tensor, "batch code_dim"],
) -> Float[Tensor, ""]:
    """E‖E(I) - φ‖² (second term of the paper's L_R), also averaged over a code's dimensions. Trains the poses only.

    Args:
        inversion_network: maps images to pose codes.
        images: images resized for the network, colors in [0, 1].
        codes: learned pose codes of these images.
    """
    with torch.no_grad():
        targets = inversion_network(images)
    return F.mse_loss(codes, targets)
