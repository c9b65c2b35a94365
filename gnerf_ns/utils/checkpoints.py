"""Checkpoints: whether one fits, and what becomes of it where a run grows.

nerfstudio itself loads what fits, skips the rest silently, and then renders noise.
"""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from torch import Tensor

from gnerf_ns.cameras.pose_codec import UP_DIRECTION_KEY
from gnerf_ns.utils.errors import InputError

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


def explain_other_hash_grids(
    missing: List[str], unexpected: List[str], torch_option: str = "--pipeline.model.implementation torch"
) -> None:
    """Say so if that is why a checkpoint does not fit.

    Args:
        missing: names that it lacks.
        unexpected: names that it has beyond those that are wanted.
        torch_option: what makes `ns-train` build hash grids that run on any machine.

    Raises:
        InputError: it is why.
    """
    if _is_tcnn(unexpected) and _is_torch(missing):
        raise InputError(
            "The checkpoint was trained with tiny-cuda-nn, which is not in use here; open it on a machine with a GPU "
            f"and tiny-cuda-nn, or train anew with {torch_option}."
        )
    if _is_torch(unexpected) and _is_tcnn(missing):
        # The config.yml says "auto" or "tcnn", which is tiny-cuda-nn here.
        raise InputError(
            "The checkpoint was trained with torch's hash grids, but here tiny-cuda-nn is in use; resume it with "
            f"{torch_option}, or open it after setting implementation: torch in its config.yml."
        )


def _is_tcnn(names: List[str]) -> bool:
    return any("tcnn" in name for name in names)


def _is_torch(names: List[str]) -> bool:
    return any("hash_table" in name for name in names)


def for_more_images(state: Dict[str, Any], trainer: Any) -> Dict[str, Any]:
    """A checkpoint with rows for further images in whatever has one for each.

    New rows are those of the new pipeline, or the mean of the others where these are learned and not the poses.
    """
    own: Dict[str, Any] = trainer.pipeline.state_dict()
    # A module's extra state is not needed by a run that has come so far.
    pipeline = {name: value.detach().clone() for name, value in own.items() if isinstance(value, Tensor)}
    for name, value in state["pipeline"].items():
        if name not in pipeline:
            continue
        if value.shape == pipeline[name].shape:
            pipeline[name] = value
        else:
            rest = pipeline[name][len(value) :]
            is_typical = "embedding" in name or name == "focal_scales.logarithms"
            pipeline[name] = torch.cat([value, value.mean(dim=0).expand_as(rest) if is_typical else rest])
    optimizers = {}
    for group, saved in state["optimizers"].items():
        parameters = trainer.optimizers.parameters[group]
        moments = {
            index: {name: _padded(value, parameters[index]) for name, value in of_one.items()}
            for index, of_one in saved["state"].items()
        }
        optimizers[group] = {**saved, "state": moments}
    return {**state, "pipeline": pipeline, "optimizers": optimizers}


def _padded(value: Any, parameter: Tensor) -> Any:
    """An optimizer's moments with zeros for further rows."""
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape == parameter.shape:
        return value
    padded = torch.zeros(parameter.shape, dtype=value.dtype)
    padded[: len(value)] = value
    return padded
