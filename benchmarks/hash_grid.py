"""How much faster the compiled hash grid is than nerfstudio's torch code: both in one run, forward and backward.

python benchmarks/hash_grid.py
"""

from __future__ import annotations

import time
from typing import Any, Dict, Tuple

import torch
from nerfstudio.field_components.encodings import HashEncoding

from gnerf_ns.fields.hash_encoding import CompiledHashEncoding
from gnerf_ns.utils.cpu import keep_freed_memory

SIZES: Dict[str, Tuple[int, Dict[str, Any]]] = {
    "phase A, 4 levels": (430_000, {"num_levels": 4, "min_res": 8, "max_res": 35, "log2_hashmap_size": 17}),
    "phase B, 8 levels": (43_000, {"num_levels": 8, "min_res": 8, "max_res": 256, "log2_hashmap_size": 17}),
}
"""Samples of one step of gnerf-ns on a CPU, and its grid."""

REPETITIONS = 7


def seconds_per_step(encoding: HashEncoding, positions: torch.Tensor) -> float:
    """Median over the repetitions after two to warm up."""
    times = []
    for _ in range(REPETITIONS + 2):
        start = time.perf_counter()
        encoding(positions).square().mean().backward()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[REPETITIONS // 2]


def main() -> None:
    """Print a markdown table."""
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads\n")
    print("| step | samples | torch s | compiled s | ratio |\n| --- | --- | --- | --- | --- |")
    for name, (samples, sizes) in SIZES.items():
        torch.manual_seed(0)
        positions = torch.rand(samples, 3, requires_grad=True)
        stock = seconds_per_step(HashEncoding(implementation="torch", **sizes), positions)
        compiled = seconds_per_step(CompiledHashEncoding(implementation="torch", **sizes), positions)
        print(f"| {name} | {samples} | {stock:.3f} | {compiled:.3f} | {stock / compiled:.1f} |")


if __name__ == "__main__":
    main()
