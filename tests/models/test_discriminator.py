import math

import pytest
import torch
from torch import nn

from gnerf_ns.models.discriminator import Discriminator, DiscriminatorConfig
from gnerf_ns.utils.errors import InputError


def convolution_shapes(discriminator: Discriminator) -> list[tuple[int, ...]]:
    return [tuple(layer.weight.shape) for layer in discriminator.modules() if isinstance(layer, nn.Conv2d)]


def test_the_paper_s_sizes() -> None:
    discriminator = DiscriminatorConfig().setup()
    assert convolution_shapes(discriminator) == [(256, 3, 4, 4), (512, 256, 4, 4), (64, 512, 4, 4)]
    linears = [tuple(layer.weight.shape) for layer in discriminator.modules() if isinstance(layer, nn.Linear)]
    assert linears == [(64, 73), (64, 64), (1, 64)]
    assert all(layer.negative_slope == 0.2 for layer in discriminator.modules() if isinstance(layer, nn.LeakyReLU))


def test_larger_patches_start_narrower() -> None:
    discriminator = DiscriminatorConfig(patch_side=32, in_channels=4, base_width=8).setup()
    assert convolution_shapes(discriminator) == [(16, 4, 4, 4), (32, 16, 4, 4), (64, 32, 4, 4), (8, 64, 4, 4)]
    assert discriminator(torch.rand(3, 4, 32, 32), torch.rand(3)).shape == (3,)


def test_every_layer_s_spectral_norm_is_one() -> None:
    torch.manual_seed(0)
    discriminator = DiscriminatorConfig(base_width=8).setup()
    for _ in range(100):
        discriminator(torch.rand(1, 3, 16, 16), torch.rand(1))
    layers = [layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() == pytest.approx(1.0, abs=5e-3)


def test_scale_is_encoded_with_frequencies_one_to_eight() -> None:
    encoding = DiscriminatorConfig().setup().scale_encoding(torch.tensor([[0.3]]))
    expected = [math.sin(0.3 * 2**k) for k in range(4)] + [math.cos(0.3 * 2**k) for k in range(4)] + [0.3]
    torch.testing.assert_close(encoding[0].sort().values, torch.tensor(expected).sort().values, atol=1e-6, rtol=0)


def test_scale_matters_and_each_logit_sees_its_own_patch_only() -> None:
    torch.manual_seed(0)
    discriminator = DiscriminatorConfig(base_width=8).setup().eval()
    patches, scales = torch.rand(3, 3, 16, 16, requires_grad=True), torch.tensor([0.3, 0.6, 0.9])
    logits = discriminator(patches, scales)
    assert not torch.allclose(logits, discriminator(patches, scales.flip(0)))
    torch.testing.assert_close(logits[1:2], discriminator(patches[1:2], scales[1:2]))
    (gradient,) = torch.autograd.grad(logits[1], patches)
    assert gradient[0].abs().max() == 0 and gradient[2].abs().max() == 0 and gradient[1].abs().max() > 0


def test_without_instance_norm_the_patch_s_contrast_is_seen() -> None:
    torch.manual_seed(0)
    patches, scales = torch.rand(2, 3, 16, 16), torch.ones(2)
    for instance_norm, seen in ((True, False), (False, True)):
        discriminator = DiscriminatorConfig(base_width=8, instance_norm=instance_norm).setup().eval()
        # Colors are shrunk about mid-gray, the network's zero.
        faded = discriminator(0.5 + 0.5 * (patches - 0.5), scales)
        assert (not torch.allclose(faded, discriminator(patches, scales), atol=1e-4)) == seen


def test_uniform_patches_give_finite_gradients() -> None:
    discriminator = DiscriminatorConfig(base_width=8).setup()
    for level in (0.0, 0.5, 1.0):
        patches = torch.full((2, 3, 16, 16), level, requires_grad=True)
        (gradient,) = torch.autograd.grad(discriminator(patches, torch.ones(2)).sum(), patches)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("patch_side", [0, 4, 12, 24, -16])
def test_impossible_patch_sides_are_refused(patch_side: int) -> None:
    with pytest.raises(InputError, match="patch_side"):
        DiscriminatorConfig(patch_side=patch_side).setup()


def test_it_learns_to_tell_stripes_from_noise() -> None:
    torch.manual_seed(0)
    discriminator = DiscriminatorConfig(base_width=8).setup()
    optimizer = torch.optim.RMSprop(discriminator.parameters(), lr=1e-3)
    stripes = (torch.arange(16) % 4 < 2).float().expand(8, 3, 16, 16)
    for _ in range(60):
        real = (stripes + 0.1 * torch.randn(8, 3, 16, 16)).clamp(0, 1)
        logits = discriminator(torch.cat([real, torch.rand(8, 3, 16, 16)]), torch.rand(16))
        loss = nn.functional.softplus(torch.cat([-logits[:8], logits[8:]])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = discriminator(torch.cat([stripes, torch.rand(8, 3, 16, 16)]), torch.rand(16))
    assert logits[:8].min() > logits[8:].max()
