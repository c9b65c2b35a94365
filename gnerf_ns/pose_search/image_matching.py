"""How alike two small images are: the cost by which images are matched with renderings.

Images that were not aimed at the object's middle show it somewhere else in the image. Poses drawn at random
would have to meet that, too, in two more dimensions; `ShiftTolerantMatching` finds it for each pair by correlation.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional, Protocol, Tuple, runtime_checkable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor
from torch.nn import functional as F

SHIFT_REACH = 3.0
"""Shifts of up to so many standard deviations are tried."""

FULLY_INSIDE = 0.999
"""Pixels, and means over squares, of which less is image count as padding, which is no evidence for anything."""

POOLED = (2, 4)
"""Besides pixels, means over squares of these sides are compared."""


class Matches(NamedTuple):
    """Every image of one set compared with every image of another."""

    cost: Float[Tensor, "n m"]
    """How different they are; differentiable in both."""
    shift: Optional[Float[Tensor, "n m 2"]]
    """How far the first must be moved from where the second has it, as (x, y) in units of half the shorter side of the
    image, y down; None for not at all."""


@runtime_checkable
class ImageMatching(Protocol):
    """Two steps, so that a set is described once and compared with many."""

    def describe(
        self, images: Float[Tensor, "batch channels height width"], background: Float[Tensor, "channels"]
    ) -> Inexact[Tensor, "batch *features"]:
        """What is to be compared of colors in [0, 1] over a background; both sides divisible by 4."""
        ...

    def compare(
        self,
        first: Inexact[Tensor, "n *features"],
        second: Inexact[Tensor, "m *features"],
        size: Tuple[int, int],
        temperature: float,
        validity: Optional[Float[Tensor, "n height width"]] = None,
    ) -> Matches:
        """Compare all pairs of two described sets.

        Args:
            first: one set.
            second: another.
            size: height and width of the images.
            temperature: how much cost an explanation may have that is e times less likely than another.
            validity: share of each pixel of the first set that is image and not padding; None where all is image.
        """
        ...


class PlainMatching:
    """The sum, over pixels and means of pixels, of the mean squared difference."""

    def describe(
        self, images: Float[Tensor, "batch channels height width"], background: Float[Tensor, "channels"]
    ) -> Float[Tensor, "batch features"]:
        """See `pyramid_features`."""
        return pyramid_features(images)

    def compare(
        self,
        first: Float[Tensor, "n features"],
        second: Float[Tensor, "m features"],
        size: Tuple[int, int],
        temperature: float,
        validity: Optional[Float[Tensor, "n height width"]] = None,
    ) -> Matches:
        """See `pairwise_cost`."""
        weights = None if validity is None else pyramid_weights(validity)
        return Matches(pairwise_cost(first, second, weights), None)


class ShiftTolerantMatching:
    """The same at the best of all shifts by whole pixels, which costs what it is unlikely.

    By the correlation theorem: a few multiplications per frequency, pair and channel. What a shift moves out of the
    first image is not seen and does not count; what it moves in is taken for background.
    """

    def __init__(self, shift_std: float) -> None:
        """
        Args:
            shift_std: how far images are off, on each axis: a standard deviation in units of half the shorter side.
        """
        self.shift_std = shift_std

    def describe(
        self, images: Float[Tensor, "batch channels height width"], background: Float[Tensor, "channels"]
    ) -> Inexact[Tensor, "batch channels rows columns"]:
        """Fourier coefficients of the image with enough background around it."""
        # In full precision: costs are differences of sums of squares.
        with torch.autocast(images.device.type, enabled=False):
            contrast = images.float() - background.to(images).view(-1, 1, 1)
            return torch.fft.rfft2(contrast, s=self._padded((images.shape[-2], images.shape[-1])))

    def compare(
        self,
        first: Inexact[Tensor, "n channels rows columns"],
        second: Inexact[Tensor, "m channels rows columns"],
        size: Tuple[int, int],
        temperature: float,
        validity: Optional[Float[Tensor, "n height width"]] = None,
    ) -> Matches:
        """Costs at the likeliest shifts, their unlikeliness included, and those shifts."""
        padded, values = self._padded(size), first.shape[1] * size[0] * size[1]
        filters = _scale_filters(padded, first.device)
        if validity is None:
            frames, shares = torch.ones(1, *size, device=first.device), torch.ones(1, 1, device=first.device)
        else:
            frames = (validity > FULLY_INSIDE).float()
            shares = frames.mean(dim=(1, 2)).clamp_min(1e-6)[:, None]
            # What is padding was described as if it were image.
            contrast = torch.fft.irfft2(first, s=padded)[..., : size[0], : size[1]]
            first = torch.fft.rfft2(contrast * frames[:, None], s=padded)
        products = torch.einsum("nckl,mckl->nmkl", first * filters.square().sum(0), second.conj())
        correlation = torch.fft.irfft2(products, s=padded)
        energy = _energies(first, filters, padded).sum(dim=(1, 2))
        seen_energy = _seen_energy(_energies(second, filters, padded), frames)
        difference = (energy[:, None, None, None] + seen_energy - 2.0 * correlation).flatten(2) / values
        difference = difference / shares[..., None]

        shifts = _shifts(padded, first.device)
        penalty = self._penalty(shifts, size, temperature)
        best = (difference.detach() + penalty).argmin(dim=2)
        cost = difference.gather(2, best[..., None]).squeeze(-1).clamp_min(0.0) + penalty[best]
        return Matches(cost, shifts[best] * (2.0 / min(size)))

    def _padded(self, size: Tuple[int, int]) -> Tuple[int, int]:
        """Large enough that no tried shift wraps around; even, for the transform."""
        reach = self._reach(size)
        return size[0] + reach + (size[0] + reach) % 2, size[1] + reach + (size[1] + reach) % 2

    def _reach(self, size: Tuple[int, int]) -> int:
        return min(min(size) - 1, math.ceil(SHIFT_REACH * self.shift_std * min(size) / 2.0))

    def _penalty(
        self, shifts: Float[Tensor, "places 2"], size: Tuple[int, int], temperature: float
    ) -> Float[Tensor, "places"]:
        """Minus the logarithm of a shift's likelihood, times the temperature."""
        likely = temperature * 0.5 * shifts.square().sum(-1) / (self.shift_std * min(size) / 2.0) ** 2
        return torch.where(shifts.abs().amax(dim=-1) <= self._reach(size), likely, torch.inf)


def _seen_energy(
    energies: Float[Tensor, "m rows columns"], frames: Float[Tensor, "n height width"]
) -> Float[Tensor, "n m rows columns"]:
    """How much of an image's energy is inside each frame (1 inside, 0 outside) when it is shifted, for every shift."""
    padded = (energies.shape[-2], energies.shape[-1])
    products = torch.fft.rfft2(frames, s=padded)[:, None] * torch.fft.rfft2(energies).conj()
    return torch.fft.irfft2(products, s=padded)


def _shifts(padded: Tuple[int, int], device: torch.device) -> Float[Tensor, "places 2"]:
    """(x, y) in pixels that each place of a correlation stands for."""
    y, x = (torch.fft.fftfreq(side, 1.0 / side, device=device) for side in padded)
    return torch.stack([x[None, :].expand(*padded), y[:, None].expand(*padded)], dim=-1).flatten(0, 1)


def _scale_filters(padded: Tuple[int, int], device: torch.device) -> Float[Tensor, "scales rows columns"]:
    """What pixels and means over squares keep of each frequency."""
    rows, columns = torch.fft.fftfreq(padded[0], device=device), torch.fft.rfftfreq(padded[1], device=device)
    return torch.stack([_transfer(rows, side)[:, None] * _transfer(columns, side) for side in (1, *POOLED)])


def _transfer(frequency: Float[Tensor, "count"], side: int) -> Float[Tensor, "count"]:
    """What a mean over so many pixels leaves of a frequency (in cycles per pixel)."""
    return torch.sinc(side * frequency) / torch.sinc(frequency)


def _energies(
    spectra: Inexact[Tensor, "batch channels rows columns"],
    filters: Float[Tensor, "scales rows columns"],
    padded: Tuple[int, int],
) -> Float[Tensor, "batch padded_rows padded_columns"]:
    """At each place, the sum of squares over channels and scales."""
    return torch.fft.irfft2(spectra[:, None] * filters[:, None], s=padded).square().sum(dim=(1, 2))


def pyramid_features(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
    """Stack an image with its 2x and 4x average-pooled copies into one vector.

    Args:
        images: colors in [0, 1]; height and width divisible by 4.

    Returns:
        Features whose squared Euclidean distance is the sum over the three scales of the mean squared difference.
    """
    scales = [images, *(F.avg_pool2d(images, side) for side in POOLED)]
    return torch.cat([scale.flatten(1) / math.sqrt(scale[0].numel()) for scale in scales], dim=1)


def pyramid_weights(validity: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch features"]:
    """What each of three channels' `pyramid_features` counts where images are padded; 1 on average over each scale.

    Args:
        validity: share of each pixel that is image, in [0, 1].
    """
    scales = []
    for side in (1, *POOLED):
        inside = (F.avg_pool2d(validity[:, None], side) > FULLY_INSIDE).float()
        share = inside.mean(dim=(1, 2, 3), keepdim=True)
        scales.append((inside / share.clamp_min(1e-6)).expand(-1, 3, -1, -1).flatten(1))
    return torch.cat(scales, dim=1)


def pairwise_cost(
    first: Float[Tensor, "n features"],
    second: Float[Tensor, "m features"],
    weights: Optional[Float[Tensor, "n features"]] = None,
) -> Float[Tensor, "n m"]:
    """Squared Euclidean distance between every pair of feature vectors (differentiable, also at zero distance).

    Args:
        first: one set.
        second: another.
        weights: what each feature of the first set counts; None for 1.
    """
    # Differences of products of about 5: the error of half precision would exceed what tells two poses apart.
    with torch.autocast(first.device.type, enabled=False):
        if weights is None:
            squared = first.square().sum(1)[:, None] + second.square().sum(1)[None, :] - 2.0 * first @ second.T
        else:
            weighted = weights * first
            squared = (weighted * first).sum(1)[:, None] + weights @ second.square().T - 2.0 * weighted @ second.T
    return squared.clamp_min(0.0)
