"""Does a checkpoint fit? nerfstudio itself loads what fits, skips the rest silently, and then renders noise."""

from __future__ import annotations

from typing import Any, Dict

import torch
from torch import Tensor

from gnerf_ns.cameras.up_direction import UP_DIRECTION_KEY
from gnerf_ns.errors import InputError
from gnerf_ns.model_components.hash_grid_keys import explain_other_hash_grids

HELD_OUT = ("eval_poses.codes", "eval_poses_step")
"""Entries that can be estimated again, and that depend on which images are held out."""


TORCH_OPTION = "--pipeline.model.radiance.implementation torch"
"""Of ns-train: hash grids that run on any machine."""


def fitting_state(loaded: Dict[str, Any], own: Dict[str, Tensor]) -> Dict[str, Any]:
    """What is to be loaded of a checkpoint into a pipeline with a state of its own.

    Raises:
        InputError: see `check_keys`.
    """
    state = with_up_direction(drop_other_held_out_poses(dict(loaded), own))
    check_keys(state, own)
    return state


def drop_other_held_out_poses(state: Dict[str, Any], own: Dict[str, Tensor]) -> Dict[str, Any]:
    """The checkpoint, with our own held-out poses in place of those of other images."""
    if getattr(state.get(HELD_OUT[0]), "shape", None) != own[HELD_OUT[0]].shape:
        state.update({name: own[name] for name in HELD_OUT})
    return state


def with_up_direction(state: Dict[str, Any]) -> Dict[str, Any]:
    """The checkpoint, with +z up where it is of before what is up was learned."""
    return {UP_DIRECTION_KEY: torch.zeros(2), **state}


def check_keys(state: Dict[str, Any], own: Dict[str, Tensor]) -> None:
    """Compare names and shapes.

    Raises:
        InputError: they differ; the sentence says what it probably means and what to do.
    """
    # Modules' extra state is left out: it may be missing, and has no shape.
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    own = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    advice = "load it with the config.yml that stands beside it."
    poses = "train_poses.codes"
    if poses in state and state[poses].shape != own[poses].shape:
        raise InputError(
            f"The checkpoint holds {tuple(state[poses].shape)} pose numbers, but the data asks for "
            f"{tuple(own[poses].shape)}: it is of other images or another pose mode; train anew or name its own data."
        )
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected:
        explain_other_hash_grids(missing, unexpected, TORCH_OPTION)
        reason = f"for example {(missing or unexpected)[0]} is {'missing' if missing else 'unknown'}"
        raise InputError(f"The checkpoint does not fit this configuration ({reason}); {advice}")
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise InputError(
                f"The checkpoint does not fit this configuration ({name} is {tuple(state[name].shape)}, "
                f"not {tuple(value.shape)}); {advice}"
            )
