import copy
from functools import partial
from typing import Dict, Iterable, Optional

import pytest
import torch
from torch import nn

from gnerf_ns.models.adversarial_losses import (
    AugmentationConfig,
    augment_patches,
    call_frozen,
    discriminator_loss,
    generator_loss,
    inversion_loss,
    pose_regularization,
    r1_penalty,
)
from gnerf_ns.models.discriminator import Discriminator, DiscriminatorConfig
from gnerf_ns.models.inversion_network import InversionNetworkConfig


class LinearDiscriminator(nn.Module):
    """D(x) = w·x, of which every loss has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, 8, dtype=torch.float64))

    def forward(self, patches: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return (patches * self.weight).sum(dim=(1, 2, 3)) + scales


class Parts(nn.Module):
    """A stand-in for the whole model: a "renderer", both networks and a pose table, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.renderer = nn.Parameter(torch.rand(4, 3, 16, 16))
        self.discriminator = DiscriminatorConfig(base_width=4).setup()
        self.inversion_network = InversionNetworkConfig(
            image_side=16, tokens_per_side=4, width=16, depth=1, heads=2, mlp_width=16
        ).setup()
        self.codes = nn.Parameter(torch.rand(4, 3))
        self.double()

    def loss(self, name: str, augment_seed: Optional[int]) -> torch.Tensor:
        torch.manual_seed(11)
        image_set, scales = torch.rand(4, 3, 16, 16).double(), torch.rand(4).double()
        rendered = self.renderer.sigmoid()
        augment = None
        if augment_seed is not None:
            generator = torch.Generator().manual_seed(augment_seed)
            augment = partial(augment_patches, config=AugmentationConfig(probability=0.9), generator=generator)
        if name == "generator":
            return generator_loss(self.discriminator, rendered, scales, augment)
        if name == "discriminator":
            losses = discriminator_loss(self.discriminator, image_set, scales, rendered, 1 - scales, augment)
            return losses.classification + losses.gradient_penalty
        if name == "inversion":
            return inversion_loss(self.inversion_network, rendered, self.codes)
        return pose_regularization(self.inversion_network, image_set, self.codes)


TRAINED_BY = {
    "generator": {"renderer"},
    "discriminator": {"discriminator"},
    "inversion": {"inversion_network"},
    "poses": {"codes"},
}


def gradients(parts: Parts) -> Dict[str, torch.Tensor]:
    return {name: p.grad for name, p in parts.named_parameters() if p.grad is not None}


def owners(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.fixture
def parts() -> Parts:
    torch.manual_seed(0)
    return Parts()


@pytest.mark.parametrize("augment_seed", [None, 7])
@pytest.mark.parametrize("name", TRAINED_BY)
def test_each_loss_trains_its_own_part_only(parts: Parts, name: str, augment_seed: Optional[int]) -> None:
    parts.loss(name, augment_seed).backward()
    found = gradients(parts)
    assert owners(found) == TRAINED_BY[name]
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert max(gradient.abs().max().item() for gradient in found.values()) > 0


@pytest.mark.parametrize("augment_seed", [None, 7])
def test_one_backward_pass_of_the_sum_gives_the_gradients_of_separate_passes(
    parts: Parts, augment_seed: Optional[int]
) -> None:
    separate = {}
    one_by_one = copy.deepcopy(parts)
    for name in TRAINED_BY:
        one_by_one.zero_grad()
        parts_loss = one_by_one.loss(name, augment_seed)
        parts_loss.backward()
        separate.update(gradients(one_by_one))
    losses = [parts.loss(name, augment_seed) for name in TRAINED_BY]
    torch.stack(losses).sum().backward()
    summed = gradients(parts)
    assert owners(summed) == {"renderer", "discriminator", "inversion_network", "codes"}
    assert summed.keys() == separate.keys() == dict(parts.named_parameters()).keys()
    for key, gradient in summed.items():
        torch.testing.assert_close(gradient, separate[key], atol=1e-14, rtol=1e-12)


def test_the_summed_pass_equals_freezing_by_hand(parts: Parts) -> None:
    """GNeRF's own way: requires_grad off for all but one network, one backward pass each."""
    by_hand = copy.deepcopy(parts).eval()
    torch.manual_seed(11)
    image_set, scales = torch.rand(4, 3, 16, 16).double(), torch.rand(4).double()
    discriminator = by_hand.discriminator
    discriminator.requires_grad_(False)
    nn.functional.binary_cross_entropy_with_logits(
        discriminator(by_hand.renderer.sigmoid(), scales), torch.ones_like(scales)
    ).backward()
    discriminator.requires_grad_(True)
    fakes = by_hand.renderer.sigmoid().detach()
    real = image_set.clone().requires_grad_()
    logits = discriminator(real, scales)
    nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(scales)).backward(retain_graph=True)
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    (10 * (slope / 2).pow(2).sum() / 4).backward()
    nn.functional.binary_cross_entropy_with_logits(
        discriminator(fakes, 1 - scales), torch.zeros_like(scales)
    ).backward()

    parts.eval()
    (parts.loss("generator", None) + parts.loss("discriminator", None)).backward()
    for key, gradient in gradients(by_hand).items():
        torch.testing.assert_close(dict(parts.named_parameters())[key].grad, gradient, atol=1e-12, rtol=1e-9)


def test_generator_loss_leaves_the_discriminator_as_it_was(parts: Parts) -> None:
    before = copy.deepcopy(parts.discriminator.state_dict())
    assert parts.discriminator.training
    parts.loss("generator", None).backward()
    after = parts.discriminator.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    # The discriminator's own call, by contrast, advances the power iteration.
    parts.loss("discriminator", None)
    assert any(not torch.equal(before[key], after[key]) for key in before if key.endswith("_u"))


def test_frozen_call_gives_the_module_s_output() -> None:
    torch.manual_seed(0)
    module = DiscriminatorConfig(base_width=4).setup().eval()
    patches, scales = torch.rand(2, 3, 16, 16), torch.rand(2)
    output = call_frozen(module, patches, scales)
    assert torch.equal(output, module(patches, scales)) and not output.requires_grad


def test_losses_in_closed_form() -> None:
    torch.manual_seed(0)
    linear = LinearDiscriminator()
    real, fake = torch.rand(5, 3, 8, 8).double(), torch.rand(4, 3, 8, 8).double()
    real_scales, fake_scales = torch.rand(5).double(), torch.rand(4).double()
    probability_real = linear(real, real_scales).sigmoid()
    probability_fake = linear(fake, fake_scales).sigmoid()
    losses = discriminator_loss(linear, real, real_scales, fake, fake_scales)
    torch.testing.assert_close(
        losses.classification, -probability_real.log().mean() - (1 - probability_fake).log().mean()
    )
    # Colors in [-1, 1] are twice as wide as those in [0, 1]: half the slope, a quarter of its square.
    torch.testing.assert_close(losses.gradient_penalty, 10 * linear.weight.square().sum() / 4)
    torch.testing.assert_close(generator_loss(linear, fake, fake_scales), -probability_fake.log().mean())


def test_confident_logits_give_finite_losses() -> None:
    linear = LinearDiscriminator()
    linear.weight.data.fill_(1e4)
    patches, scales = torch.ones(2, 3, 8, 8).double(), torch.ones(2).double()
    assert generator_loss(linear, -patches, scales).isfinite()
    assert discriminator_loss(linear, -patches, scales, patches, scales).classification.isfinite()


def test_no_penalty_where_its_weight_is_zero() -> None:
    linear = LinearDiscriminator()
    patches, scales = torch.rand(2, 3, 8, 8).double(), torch.rand(2).double()
    losses = discriminator_loss(linear, patches, scales, patches, scales, r1_weight=0.0)
    assert losses.gradient_penalty.item() == 0 and not losses.gradient_penalty.requires_grad


def r1_of(discriminator: Discriminator, patches: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    patches = patches.detach().requires_grad_()
    return r1_penalty(discriminator(patches, scales), patches)


@pytest.mark.parametrize("instance_norm", [True, False])
def test_r1_s_double_backward_through_spectral_norm_against_finite_differences(instance_norm: bool) -> None:
    torch.manual_seed(0)
    discriminator = DiscriminatorConfig(base_width=4, instance_norm=instance_norm).setup().double().eval()
    patches, scales = torch.rand(2, 3, 16, 16).double(), torch.rand(2).double()
    r1_of(discriminator, patches, scales).backward()
    step = 1e-6
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
            values.append(r1_of(discriminator, patches, scales).item())
            with torch.no_grad():
                parameter.sub_(sign * step * direction)
        numeric = (values[0] - values[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(numeric, rel=1e-3, abs=1e-8), name


def test_pose_losses_are_mean_squares(parts: Parts) -> None:
    rendered = torch.rand(4, 3, 16, 16).double()
    expected = (parts.inversion_network(rendered) - parts.codes).square().mean()
    torch.testing.assert_close(inversion_loss(parts.inversion_network, rendered, parts.codes), expected)
    torch.testing.assert_close(pose_regularization(parts.inversion_network, rendered, parts.codes), expected)
