"""How far the network is from the official code's, in the cases whose outputs were recorded.

python benchmarks/noposplat_parity.py --reference FILE

The file holds what the official code puts out for weights and images that are computed from names and positions alone
(below). Full cases need 3 GB of memory.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import numpy as np
import roma
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.noposplat.network import NoPoSplatNetwork, NoPoSplatNetworkConfig, tiny_network
from gnerf_ns.splats.gaussians import Gaussians


@dataclass(frozen=True)
class Case:
    """What the network is, and what it is given."""

    config: NoPoSplatNetworkConfig
    views: int = 2
    height: int = 32
    width: int = 48


def _pixelwise(**changes: Any) -> Case:
    return Case(replace(tiny_network(), intrinsics="pixelwise", **changes))


CASES = {
    "full_2v_64x64": Case(NoPoSplatNetworkConfig(), height=64, width=64),
    "full_2v_64x96": Case(NoPoSplatNetworkConfig(), height=64, width=96),
    "full_3v_64x64": Case(NoPoSplatNetworkConfig(), views=3, height=64, width=64),
    "full_2v_256x256": Case(NoPoSplatNetworkConfig(), height=256, width=256),
    "tiny_2v_32x48": Case(tiny_network()),
    "tiny_2v_48x32_portrait": Case(tiny_network(), height=48, width=32),
    "tiny_3v_32x48": Case(tiny_network(), views=3),
    "tiny_linear": Case(replace(tiny_network(), intrinsics="linear")),
    "tiny_pixelwise_0": _pixelwise(ray_degree=0),
    "tiny_pixelwise_4": _pixelwise(ray_degree=4),
    "tiny_pixelwise_decoder_4": _pixelwise(ray_degree=4, rays_join="decoder"),
}
"""Those of the file, by their names there."""


# Weights, images and lenses


def fixed_weight(name: str, shape: Tuple[int, ...]) -> Tensor:
    """One parameter, drawn from its name alone: so the official code's were drawn, too."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if not name.endswith(".weight"):
        return 0.1 * numbers
    if len(shape) == 1:
        return 1.0 + 0.1 * numbers
    return numbers / math.prod(shape[1:]) ** 0.5 * (0.2 if name.endswith(".dpt.head.4.weight") else 1.0)


def fixed_network(config: NoPoSplatNetworkConfig) -> NoPoSplatNetwork:
    """The network with such weights, ready to be used."""
    with torch.device("meta"):
        network = NoPoSplatNetwork(config)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():  # without the second names of shared ones
            parameter.copy_(fixed_weight(name, tuple(parameter.shape)))
    return network.eval()


def fixed_images(views: int, height: int, width: int) -> Float[Tensor, "1 views 3 height width"]:
    """Waves of different directions in each view and color, rounded to 8 bits."""
    options = {"indexing": "ij"}
    axes = [torch.arange(count, dtype=torch.float64) for count in (views, 3, height, width)]
    view, color, y, x = torch.meshgrid(*axes, **options)
    waves = torch.sin(0.21 * x + 0.13 * y + 0.9 * view + 2.1 * color)
    waves = waves + torch.cos(0.05 * x * (1 + color) - 0.17 * y + 1.3 * view)
    return ((0.5 + 0.25 * waves) * 255).round().clamp(0, 255).float()[None] / 255


def fixed_intrinsics(views: int) -> Float[Tensor, "1 views 3 3"]:
    """Camera matrices no two of whose entries are alike."""
    matrices = torch.eye(3).repeat(views, 1, 1)
    view = torch.arange(views)
    matrices[:, 0, 0], matrices[:, 1, 1] = 0.85 + 0.02 * view, 0.9 - 0.03 * view
    matrices[:, 0, 2], matrices[:, 1, 2] = 0.5, 0.48 + 0.01 * view
    return matrices[None]


# Comparison


def quantities(gaussians: Gaussians) -> Dict[str, Tensor]:
    """What is compared of the first scene, by the names in the file."""
    quaternions = gaussians.quaternions[0].roll(-1, dims=-1)
    axes = roma.unitquat_to_rotmat(quaternions) * gaussians.scales[0, :, None]
    return {
        "means": gaussians.means[0],
        "scales": gaussians.scales[0],
        "rotations_xyzw": quaternions,
        "covariances": axes @ axes.mT,
        "opacities": gaussians.opacities[0],
        "harmonics": gaussians.harmonics[0],
    }


def expected(reference: Mapping[str, np.ndarray], name: str) -> Dict[str, Tuple[Tensor, Tensor]]:
    """What the official code put out: for each quantity the indices of Gaussians, and their values."""
    meta = json.loads(str(reference["meta"]))
    count, stride = meta["gaussians"][name], meta["stride"][name]
    found = {}
    for quantity in ("means", "scales", "rotations_xyzw", "covariances", "opacities", "harmonics"):
        values = torch.from_numpy(reference[f"{name}/{quantity}"])
        whole = len(values) == count
        if whole and name == "tiny_2v_48x32_portrait" and quantity == "means":
            values = portrait_means(values, CASES[name])
        found[quantity] = torch.arange(0, count, 1 if whole else stride), values
    return found


def portrait_means(means: Float[Tensor, "n 3"], case: Case) -> Float[Tensor, "n 3"]:
    """The official code gives the means of portrait images, and nothing else, column by column: set right."""
    return means.unflatten(0, (case.views, case.width, case.height)).transpose(1, 2).flatten(0, 2)


def relative_difference(values: Tensor, reference: Tensor) -> float:
    """The largest difference over the largest value."""
    return float((values - reference).abs().max() / reference.abs().max())


def main(reference: Path, only: str = "") -> None:
    """Print a markdown table.

    Args:
        reference: the file of the official code's outputs.
        only: what the names of the cases begin with, for example "tiny".
    """
    print(f"{torch.get_num_threads()} threads\n")
    print(
        "| case | largest difference over largest value | of | seconds | CPU-seconds |\n| --- | --- | --- | --- | --- |"
    )
    with np.load(reference) as file:
        networks: Dict[str, NoPoSplatNetwork] = {}
        for name, case in CASES.items():
            if not name.startswith(only):
                continue
            if repr(case.config) not in networks:
                networks = {repr(case.config): fixed_network(case.config)}
            (network,) = networks.values()
            start, cpu_start = time.perf_counter(), time.process_time()
            with torch.no_grad():
                gaussians = network(fixed_images(case.views, case.height, case.width), fixed_intrinsics(case.views))
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            found = quantities(gaussians)
            differences = {
                quantity: relative_difference(found[quantity][indices], values)
                for quantity, (indices, values) in expected(file, name).items()
            }
            worst = max(differences, key=differences.__getitem__)
            print(f"| {name} | {differences[worst]:.1e} | {worst} | {seconds:.2f} | {cpu_seconds:.2f} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
