"""How much `keep_freed_memory` saves: the same phase-A-sized step with and without it, each in a process of its own.

python benchmarks/freed_memory.py
"""

from __future__ import annotations

import subprocess
import sys

STEP = """
import sys, time, torch
from gnerf_ns.utils.cpu import keep_freed_memory
from gnerf_ns.fields.hash_encoding import CoarseToFineHashEncoding
if sys.argv[1] == "kept":
    assert keep_freed_memory(), "this system has no glibc"
torch.manual_seed(0)
encoding = CoarseToFineHashEncoding(
    num_levels=8, min_res=8, max_res=256, log2_hashmap_size=17, implementation="torch"
)
encoding.set_active_levels(4)
layers = torch.nn.Sequential(
    torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16)
)
positions = torch.rand(500_000, 3)
times = []
for _ in range(8):
    start = time.perf_counter()
    layers(encoding(positions)).square().mean().backward()
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2])
"""


def main() -> None:
    """Time both and print the ratio."""
    seconds = {
        name: float(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", STEP, name], check=True, capture_output=True, text=True
            ).stdout
        )
        for name in ("returned", "kept", "returned", "kept")
    }
    ratio = seconds["returned"] / seconds["kept"]
    print(
        f"{seconds['returned']:.2f} s a step, {seconds['kept']:.2f} s with freed memory kept: {ratio:.1f} times faster"
    )


if __name__ == "__main__":
    main()
