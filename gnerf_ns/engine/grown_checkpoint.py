"""A checkpoint that goes on with more pictures than it was saved with."""

from __future__ import annotations

from typing import Any, Dict

import torch
from torch import Tensor


def for_more_pictures(state: Dict[str, Any], trainer: Any) -> Dict[str, Any]:
    """A checkpoint with rows for further pictures in whatever has one for each.

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
            is_typical = "embedding" in name or name == "focal_factors.logarithms"
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
