"""One method on any device: sizes that were left as they are follow the device in use.

A method is written down once for each kind of device (`method_configs/`); what differs between the two travels with the
configuration of the CPU, and takes effect where a run begins on a GPU. Not where there happens to be one: a run on the
CPU of a machine with a GPU is like any other on a CPU.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import reduce
from typing import Any, Callable, Dict, Iterator, Literal, Tuple, TypeVar

import torch

from gnerf_ns.fields.hash_radiance import HashRadianceConfig

Device = Literal["cpu", "cuda"]
Config = TypeVar("Config", bound=Any)
"""`GNeRFPipelineConfig`, or one with its fields."""


def for_any_device(build: Callable[[Device], Config]) -> Config:
    """A pipeline's configuration for the CPU, which knows what it is on a GPU.

    Args:
        build: makes it for either.
    """
    config, other = build("cpu"), build("cuda")
    config.on_cuda = {
        name: (value, there)
        for (name, value), (_, there) in zip(_options(config), _options(other), strict=True)
        if value != there
    }
    return config


def fit_to_device(config: Any, device_type: str) -> None:
    """Give options that were left as they are the values of the device in use.

    Args:
        config: `GNeRFPipelineConfig` of a run that begins; changed in place.
        device_type: torch's name.
    """
    radiance: Any = getattr(config.model, "radiance", None)
    if device_type == "cpu" and torch.cuda.is_available() and getattr(radiance, "implementation", None) == "auto":
        radiance.implementation = "torch"  # not by the GPU that there is
    here: Dict[str, Tuple[Any, Any]] = config.on_cuda if device_type == "cuda" else {}
    for name, (on_cpu, on_cuda) in here.items():
        _replace_if_left(config, name, on_cpu, on_cuda)


def keep_sizes(config: Any, before: Any) -> None:
    """Sizes of a run that is resumed are those that it began with, on whatever device, unless others are given now.

    Args:
        config: `GNeRFPipelineConfig` of the run that goes on; changed in place.
        before: that of the run that began.
    """
    for name, (on_cpu, _) in config.on_cuda.items():
        try:
            value = reduce(getattr, name.split("."), before)
        except AttributeError:  # of another kind of field, which does not fit in any case
            continue
        _replace_if_left(config, name, on_cpu, value)
    config.on_cuda = {}


def sizes_in_words(config: Any, device_type: str, phase_b_steps: int) -> str:
    """What follows from the device, in a line; nothing of methods that have the same sizes everywhere.

    Args:
        config: `GNeRFPipelineConfig` of a run, fitted to it.
        device_type: torch's name.
        phase_b_steps: steps of phase B.
    """
    if not config.on_cuda:
        return ""
    radiance = getattr(config.model, "radiance", None)
    grid = ""
    if isinstance(radiance, HashRadianceConfig):
        grid = f", {radiance.num_levels} levels of up to {radiance.max_resolution} cells a side"
    name = "a GPU" if device_type == "cuda" else "a CPU"
    return f"Sizes are those for {name}: {config.photometric.rays_per_step} rays in {phase_b_steps} steps{grid}."


def _replace_if_left(config: Any, name: str, default: Any, value: Any) -> None:
    """Give an option, by its dotted name, a value if it is still what it is by default."""
    *parents, last = name.split(".")
    holder = reduce(getattr, parents, config)
    if getattr(holder, last, None) == default:
        setattr(holder, last, value)


def _options(config: Any, prefix: str = "") -> Iterator[Tuple[str, Any]]:
    """Dotted names and values of all that is no configuration itself."""
    for each in fields(config):
        value, name = getattr(config, each.name), f"{prefix}{each.name}"
        if is_dataclass(value) and not isinstance(value, type):
            yield from _options(value, f"{name}.")
        elif each.name not in ("_target", "on_cuda"):
            yield name, value
