"""How long an image of Gaussians takes on a CPU, forward and backward, with one thread and with two.

The Gaussians are those of two pixel-aligned views of a curved surface, one for each pixel, about a pixel wide, with
harmonics of degree 4, as networks give them; all gradients are computed, that of the camera's pose too. CPU seconds
are those of all threads together: where the machine has nothing else to do, two threads take half of them, or a little
more.

NUMBA_NUM_THREADS=2 python benchmarks/splat_speed.py
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import Tuple

import torch
from torch.nn import functional as F

from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import PinholeView, render
from gnerf_ns.utils.cpu import keep_freed_memory

SIZES = ((64, 64), (64, 256), (181, 256), (256, 256))
"""Sides of the square views that the Gaussians are of, and of the image that is rendered, in pixels."""
BASELINE = 0.2
"""Distance of the views, in scene units; the surface is about 2 away from them."""
FOCAL = 0.9
"""Focal length of all cameras, in widths of the image."""
REPETITIONS = 9


def pixel_aligned(side: int) -> Gaussians:
    """One Gaussian for each pixel of two views."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side - 0.5] * 2, indexing="ij")
    depths = 2.0 + 0.4 * torch.sin(5 * x) + 0.3 * torch.cos(7 * y)
    means = torch.stack([x * depths / FOCAL, y * depths / FOCAL, depths], dim=-1).reshape(-1, 3)
    means = torch.cat([means, means + torch.tensor([BASELINE, 0.0, 0.0])])
    count = len(means)
    sizes = 0.3 + 0.7 * torch.rand(count, 3, generator=generator)
    return Gaussians(
        means,
        sizes * means[:, 2:] / (FOCAL * side),
        F.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        torch.rand(count, generator=generator),
        0.1 * torch.randn(count, 3, 25, generator=generator),
    )


def seconds_per_image(gaussians: Gaussians, side: int) -> Tuple[float, float]:
    """Of all threads together and by the clock, medians over the repetitions after two to warm up."""
    leaves = Gaussians(*(value.requires_grad_() for value in vars(gaussians).values()))
    lens = torch.full((2,), FOCAL * side), torch.full((2,), side / 2)
    view = PinholeView(torch.eye(4)[:3], *lens, side, side)
    times = []
    for _ in range(REPETITIONS + 2):
        start = time.process_time(), time.perf_counter()
        seen = render(leaves, replace(view, world_to_camera=torch.eye(4)[:3].requires_grad_()), torch.zeros(3))
        (seen.image.square().mean() + seen.depth.mean()).backward()
        times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    cpu, clock = zip(*times[2:], strict=True)
    return median(cpu), median(clock)


def main() -> None:
    """Print a markdown table."""
    keep_freed_memory()
    print("| Gaussians | image | threads | CPU s | s by the clock |\n| --- | --- | --- | --- | --- |")
    for side, image_side in SIZES:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            gaussians = pixel_aligned(side)
            cpu, clock = seconds_per_image(gaussians, image_side)
            count = len(gaussians)
            print(f"| {count:,} | {image_side}x{image_side} | {threads} | {cpu:.3f} | {clock:.3f} |", flush=True)


if __name__ == "__main__":
    main()
