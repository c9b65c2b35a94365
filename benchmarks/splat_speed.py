"""How long an image of Gaussians takes on a CPU, forward and backward, with one thread and with two.

The Gaussians are those of two pixel-aligned views of a curved surface, one for each pixel, about a pixel wide, with
harmonics of degree 4, as networks give them; all gradients are computed, that of the camera's pose too.

The clock tells little where other programs want the cores. CPU seconds are told for all threads together and for the
one that works longest, which is about what the clock shows on a quiet machine; let threads sleep while they wait for
each other, so that this is not counted.

OMP_WAIT_POLICY=passive NUMBA_NUM_THREADS=2 python benchmarks/splat_speed.py
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Dict, NamedTuple

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


class Seconds(NamedTuple):
    """What an image takes."""

    all_threads: float
    busiest_thread: float
    clock: float


def cpu_of_threads() -> Dict[str, float]:
    """CPU seconds of each thread of this process so far."""
    tasks = Path("/proc/self/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks}


def seconds_per_image(gaussians: Gaussians, side: int) -> Seconds:
    """Medians over the repetitions after two to warm up."""
    leaves = Gaussians(*(value.requires_grad_() for value in vars(gaussians).values()))
    lens = torch.full((2,), FOCAL * side), torch.full((2,), side / 2)
    view = PinholeView(torch.eye(4)[:3], *lens, side, side)
    times = []
    for _ in range(REPETITIONS + 2):
        before, start = cpu_of_threads(), time.perf_counter()
        seen = render(leaves, replace(view, world_to_camera=torch.eye(4)[:3].requires_grad_()), torch.zeros(3))
        (seen.image.square().mean() + seen.depth.mean()).backward()
        clock, after = time.perf_counter() - start, cpu_of_threads()
        cpu = [seconds - before.get(thread, 0.0) for thread, seconds in after.items()]
        times.append(Seconds(sum(cpu), max(cpu), clock))
    return Seconds(*(median(column) for column in zip(*times[2:], strict=True)))


def main() -> None:
    """Print a markdown table."""
    keep_freed_memory()
    print("| Gaussians | image | threads | CPU s, all threads | CPU s, busiest thread | s by the clock |")
    print("| --- | --- | --- | --- | --- | --- |")
    for side, image_side in SIZES:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            gaussians = pixel_aligned(side)
            numbers = " | ".join(f"{value:.3f}" for value in seconds_per_image(gaussians, image_side))
            print(f"| {len(gaussians):,} | {image_side}x{image_side} | {threads} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
