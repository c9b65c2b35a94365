import pytest
import torch

from gnerf_ns.models.adversarial_losses import (
    AugmentationConfig,
    augment_patches,
    cutout_mask,
    jitter_colors,
)

ALWAYS = AugmentationConfig(probability=1.0)
NOTHING = AugmentationConfig(probability=1.0, brightness=0.0, saturation=0.0, contrast=0.0, cutout=0.0)


def factor(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value)


def test_golden_colors() -> None:
    # One row of two pixels: red (1, 0, 0.5) and gray 0.1.
    patch = torch.tensor([[[[1.0, 0.1]], [[0.0, 0.1]], [[0.5, 0.1]]]])
    brighter = jitter_colors(patch, factor(0.2), factor(1.0), factor(1.0))
    torch.testing.assert_close(brighter, patch + 0.2)
    gray = jitter_colors(patch, factor(0.0), factor(0.0), factor(1.0))
    torch.testing.assert_close(gray[0, :, 0], torch.tensor([[0.5, 0.1]]).expand(3, 2))
    uniform = jitter_colors(patch, factor(0.0), factor(1.0), factor(0.0))
    torch.testing.assert_close(uniform, torch.full((1, 3, 1, 2), 0.3))
    vivid = jitter_colors(patch, factor(0.0), factor(2.0), factor(1.0))
    torch.testing.assert_close(vivid[0, :, 0, 0], torch.tensor([1.5, -0.5, 0.5]))


def test_golden_cutout() -> None:
    mask = cutout_mask(4, 8, 0.5, torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.0]))
    expected = torch.zeros(2, 4, 8, dtype=torch.bool)
    expected[0, 1:3, 2:6] = True
    expected[1, :1, 6:] = True
    assert torch.equal(mask, expected)
    assert not cutout_mask(4, 4, 0.0, torch.tensor([0.625]), torch.tensor([0.625])).any()


def test_nothing_and_never_change_nothing() -> None:
    patches = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(augment_patches(patches, NOTHING), patches)
    never = AugmentationConfig(probability=0.0)
    assert torch.equal(augment_patches(patches, never), patches)


def test_share_of_changed_patches() -> None:
    patches = torch.rand(1000, 3, 8, 8)
    changed = augment_patches(patches, AugmentationConfig(), torch.Generator().manual_seed(0)) != patches
    share = changed.flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.05)


def test_changes_differ_between_patches_and_repeat_with_the_generator() -> None:
    patches = torch.rand(1, 3, 16, 16).expand(6, -1, -1, -1)
    first = augment_patches(patches, ALWAYS, torch.Generator().manual_seed(1))
    assert torch.equal(first, augment_patches(patches, ALWAYS, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, augment_patches(patches, ALWAYS, torch.Generator().manual_seed(2)))
    assert (first[0] - first[1]).abs().max() > 0.01


def test_brightness_stays_within_its_bound_and_reaches_it() -> None:
    config = AugmentationConfig(probability=1.0, brightness=0.25, saturation=0.0, contrast=0.0, cutout=0.0)
    patches = torch.full((500, 3, 2, 2), 0.5)
    added = augment_patches(patches, config, torch.Generator().manual_seed(0)) - patches
    assert added.abs().max() <= 0.25 and added.max() > 0.24 and added.min() < -0.24


def test_opacity_is_cut_out_but_not_colored() -> None:
    patches = torch.rand(4, 4, 16, 16)
    no_cutout = AugmentationConfig(probability=1.0, cutout=0.0)
    assert torch.equal(augment_patches(patches, no_cutout)[:, 3], patches[:, 3])
    only_cutout = AugmentationConfig(probability=1.0, brightness=0.0, saturation=0.0, contrast=0.0)
    changed = augment_patches(patches, only_cutout)
    hidden = (changed == 0.5).all(dim=1)
    assert hidden.flatten(1).any(dim=1).all()
    torch.testing.assert_close(changed.movedim(1, -1)[~hidden], patches.movedim(1, -1)[~hidden])


def test_gradients_are_exact_and_vanish_under_the_cutout() -> None:
    patches = torch.rand(3, 3, 6, 6, dtype=torch.float64, requires_grad=True)

    def augment(values: torch.Tensor) -> torch.Tensor:
        return augment_patches(values, ALWAYS, torch.Generator().manual_seed(5))

    assert torch.autograd.gradcheck(augment, (patches,))
    assert torch.autograd.gradgradcheck(augment, (patches,))
    only_cutout = AugmentationConfig(probability=1.0, brightness=0.0, saturation=0.0, contrast=0.0)
    changed = augment_patches(patches, only_cutout)
    (gradient,) = torch.autograd.grad(changed.sum(), patches)
    assert torch.equal(gradient == 0, changed == 0.5)
