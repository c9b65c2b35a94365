"""One method on any device and for images of any size: sizes that were left as they are follow these.

A method is written down once for each kind of device (`method_configs/`); what differs between the two travels with the
configuration of the CPU, and takes effect where a run begins on a GPU. Not where there happens to be one: a run on the
CPU of a machine with a GPU is like any other on a CPU.

A CPU's sizes are for images as large as it would choose. Where they are twice as large, there are twice as many steps
and a few more, and one more level, up to cells half as large (measured in `benchmarks/README.md`, up to four times as
large). A GPU's are for the 800 pixels that it takes at most unless told otherwise. Of few images, poses and matter move
for long, so that no space counts as empty in training: of twelve of Lego that cover two sides, the median of poses came
to 0.9 to 1.2 degrees with it, and to 0.5 and less without. Half of the rays show each of them more often than all do
each of a hundred; errors that all cameras share shrink with the number of steps, not of rays.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import fields, is_dataclass
from functools import reduce
from typing import Any, Callable, Dict, Iterator, Literal, Tuple, TypeVar

import torch

from gnerf_ns.fields.hash_radiance import PROPOSALS_ALL_ALONG, HashRadianceConfig
from gnerf_ns.training.schedule import FEW_IMAGES

STEPS_ROUNDED_TO = 50
MOST_DETAIL = 4.0
"""Images larger than so many times a CPU's own get no more steps and levels: their details are for a GPU."""

STEPS_GROW_BY = 1.1
"""Steps grow with this power of the images' size: poses of 400 pixels were 0.066 degrees off in the median after four
times as many steps as of 100, and 0.061 after 4.5 times (one seed)."""

STEPS_OF_FEW = 1.8
"""Of few images, phase B has so many times the steps, wherever their poses are from: twelve that were 1.4 degrees off
were 0.31 off after 600 of them, 0.19 after 1,000 and 0.10 after 2,000. Searches of misfits stay where they are:
poses that are altogether wrong show early, and what is shared is no misfit."""

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


def fit_to_images(config: Any, detail: float, num_images: int) -> bool:
    """Give what was left as it is for a CPU more of it where images show more, or are few.

    Args:
        config: `GNeRFPipelineConfig` of a run that begins on a CPU; changed in place.
        detail: how many times as long as by default images are, in pixels. Below 1 nothing changes.
        num_images: how many are trained on.

    Returns:
        Whether the field has changed.
    """
    detail, are_few = min(MOST_DETAIL, max(1.0, detail)), num_images <= FEW_IMAGES
    if _is_left(config, "schedule.phase_b_steps"):
        schedule = config.schedule
        growth = detail**STEPS_GROW_BY
        steps = schedule.phase_b_steps * growth * (STEPS_OF_FEW if are_few else 1.0)
        schedule.phase_b_steps = STEPS_ROUNDED_TO * round(steps / STEPS_ROUNDED_TO)
        schedule.misfit_search_steps = tuple(round(step * growth) for step in schedule.misfit_search_steps)
    before, radiance, more = copy(config.model.radiance), config.model.radiance, round(math.log2(detail))
    if all(_is_left(config, f"model.radiance.{name}") for name in ("num_levels", "max_resolution")):
        radiance.num_levels += more
        radiance.max_resolution <<= more
    if are_few:
        config.model.samples_empty_space = True
        if _is_left(config, "photometric.rays_per_step"):
            config.photometric.rays_per_step //= 2
        if _is_left(config, "model.radiance.num_proposal_samples"):
            radiance.num_proposal_samples = PROPOSALS_ALL_ALONG
    return radiance != before


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
        if name == "schedule.phase_b_steps" and config.schedule.phase_b_steps == on_cpu:
            config.schedule.misfit_search_steps = before.schedule.misfit_search_steps
        _replace_if_left(config, name, on_cpu, value)
    config.on_cuda = {}
    if config.datamanager.max_image_side == "auto":
        config.datamanager.max_image_side = before.datamanager.max_image_side
    # What was found out from the images: background, and whether there is a room around the object.
    model, model_before = config.model, before.model
    model.background_color, is_grown = model_before.background_color, model.extent != model_before.extent
    model.extent = model_before.extent
    radiance, radiance_before = model.radiance, model_before.radiance
    are_grids = isinstance(radiance, HashRadianceConfig) and isinstance(radiance_before, HashRadianceConfig)
    if is_grown and are_grids and radiance.num_levels != radiance_before.num_levels:
        model.radiance = radiance.for_surroundings()


def sizes_in_words(config: Any, device_type: str, image_side: int, phase_b_steps: int) -> str:
    """What follows from device and images, in a line; nothing of methods that have the same sizes everywhere.

    Args:
        config: `GNeRFPipelineConfig` of a run, fitted to them.
        device_type: torch's name.
        image_side: longer side of the images, in pixels.
        phase_b_steps: steps of phase B.
    """
    if not config.on_cuda:
        return ""
    radiance = getattr(config.model, "radiance", None)
    grid = ""
    if isinstance(radiance, HashRadianceConfig):
        grid = f", {radiance.num_levels} levels of up to {radiance.max_resolution} cells a side"
    place = "a GPU" if device_type == "cuda" else f"a CPU and images of {image_side} pixels"
    return f"Sizes are those for {place}: {config.photometric.rays_per_step} rays in {phase_b_steps} steps{grid}."


def _is_left(config: Any, name: str) -> bool:
    """Whether an option, by its dotted name, follows device and images, and is as it is for a CPU."""
    return name in config.on_cuda and reduce(getattr, name.split("."), config) == config.on_cuda[name][0]


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
