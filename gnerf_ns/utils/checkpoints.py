"""Checkpoints: which one is read, whether it is whole and fits, and what becomes of it where a run grows.

nerfstudio itself loads what fits, skips the rest silently, and then renders noise.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch
from torch import Tensor

from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.run_images import RunImages

TORCH_OPTION = "--pipeline.model.radiance.implementation torch"
"""Of ns-train: hash grids that run on any machine."""

IMAGES_KEY = "datamanager._extra_state"
"""Where a pipeline of ours has its `RunImages`."""

TRUST_KEY = "trust._extra_state"
"""And what was said of its poses."""
NOT_IN_OLDER_CHECKPOINTS = (
    TRUST_KEY,
    "leave_out.cost_in_vain",
    "epipolar._leave_out.cost_in_vain",  # the same
    "_model.occupancy.densities",
    "_model.occupancy.occupied",
)
"""Where these are missing, a run goes on as it would begin."""
IN_OLDER_CHECKPOINTS = tuple(
    f"{prefix}leave_out.{name}" for prefix in ("", "epipolar._") for name in ("left_out", "poses_then")
)
"""Not needed any more."""

_FILE_NAME = re.compile(r"step-(\d{9,})\.ckpt")


# Which one


def latest_checkpoint(folder: Path) -> Optional[Path]:
    """The checkpoint of the highest step in a folder, which need not exist; other files there are ignored."""
    found = [path for path in folder.glob("step-*.ckpt") if _FILE_NAME.fullmatch(path.name)]
    return max(found, default=None, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The training step in a checkpoint's name."""
    found = _FILE_NAME.fullmatch(checkpoint.name)
    assert found is not None, checkpoint
    return int(found[1])


def find_checkpoint(folder: Path, step: Optional[int] = None) -> Path:
    """The checkpoint of a step, or the latest, in a run's folder of checkpoints.

    Raises:
        InputError: there is none.
    """
    path = latest_checkpoint(folder) if step is None else folder / f"step-{step:09d}.ckpt"
    if path is None:
        raise InputError(f"There is no checkpoint (step-*.ckpt) in {folder}; name the run's nerfstudio_models folder.")
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}; name one that exists.")
    return path


# Whether it is whole


def read_checkpoint(path: Path) -> Dict[str, Any]:
    """What a checkpoint holds, on the CPU; tensors are read from the file when they are used.

    Raises:
        InputError: it is cut off, damaged, of something else than nerfstudio, or holds more than numbers.
    """
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever an unpickler makes of bytes that are none of its own
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise InputError(
                f"{path} was not opened: it holds more than numbers and text ({forbidden[1]}), which may run any "
                "program; use a checkpoint that nerfstudio has written."
            ) from error
        raise InputError(
            f"{path} is not a whole checkpoint (it is cut off or damaged); restore it, or remove it and use an "
            "earlier one."
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("pipeline"), Mapping) or "step" not in state:
        raise InputError(f"{path} is not a checkpoint of nerfstudio's; use one that ns-train has written.")
    return state


def check_finite(pipeline: Mapping[str, Any]) -> None:
    """Whether all numbers in the state of a pipeline are numbers.

    Raises:
        InputError: one is infinite or NaN.
    """
    for name, value in pipeline.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(
                f"The checkpoint holds numbers that are not finite ({name}), from a training that has diverged; use an "
                "earlier checkpoint, or train anew."
            )


# Whether it fits


def fitting_state(loaded: Mapping[str, Any], own: Mapping[str, Any]) -> Dict[str, Any]:
    """What is to be loaded of a checkpoint into a pipeline of ours.

    Poses of other held-out images than the pipeline has are left out; they are estimated again.

    Args:
        loaded: the pipeline's state in the checkpoint.
        own: that of the pipeline.

    Raises:
        InputError: the checkpoint is of other images or of another configuration, or a number is not finite.
    """
    state = {name: value for name, value in loaded.items() if name not in IN_OLDER_CHECKPOINTS}
    for name in NOT_IN_OLDER_CHECKPOINTS:
        if name in own:
            state.setdefault(name, own[name])
    if IMAGES_KEY in own and IMAGES_KEY in state:
        then, now = RunImages.from_state(state[IMAGES_KEY]), RunImages.from_state(own[IMAGES_KEY])
        then.check_training_images(now)
        if not then.has_held_out_images_of(now):
            state = {name: value for name, value in state.items() if not _is_of_held_out(name)}
            state.update({name: value for name, value in own.items() if _is_of_held_out(name)})
    check_keys(state, own)
    check_finite(state)
    return state


def _is_of_held_out(name: str) -> bool:
    return any(part.startswith("eval_") for part in name.split("."))


def check_keys(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Compare names and shapes.

    Raises:
        InputError: they differ; the sentence says what it probably means and what to do.
    """
    advice = "load it with the config.yml that stands beside it."
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected:
        explain_other_hash_grids(missing, unexpected, TORCH_OPTION)
        reason = f"for example {(missing or unexpected)[0]} is {'missing' if missing else 'unknown'}"
        raise InputError(f"The checkpoint does not fit this configuration ({reason}); {advice}")
    for name, value in own.items():
        if isinstance(value, Tensor) and state[name].shape != value.shape:
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


# A run that grows


def for_more_images(state: Mapping[str, Any], trainer: Any) -> Dict[str, Any]:
    """A checkpoint with rows for further images in whatever has one for each.

    New rows are those of the new pipeline, or the mean of the others where these are learned and not the poses.

    Args:
        state: the checkpoint.
        trainer: of any method, set up for all images.
    """
    own: Dict[str, Any] = trainer.pipeline.state_dict()
    loaded = state["pipeline"]
    # A module's extra state is its own: the images are those that the run has now.
    pipeline = {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in own.items()}
    for name, value in pipeline.items():
        if isinstance(value, Tensor) and name in loaded:
            pipeline[name] = _with_rows_of(value, loaded[name].to(value), "embedding" in name or "focal_scales" in name)
        elif name == "epipolar._extra_state" and name in loaded:  # further images come last: indices stay what they are
            pipeline[name] = loaded[name]
    optimizers = {}
    for group, saved in state["optimizers"].items():
        parameters = trainer.optimizers.parameters[group]
        moments = {
            index: {name: _padded(value, parameters[index]) for name, value in of_one.items()}
            for index, of_one in saved["state"].items()
        }
        optimizers[group] = {**saved, "state": moments}
    return {**state, "pipeline": pipeline, "optimizers": optimizers}


def _with_rows_of(own: Tensor, loaded: Tensor, is_typical: bool) -> Tensor:
    """A loaded value, with our own rows where it has none; or with its mean there."""
    if loaded.shape == own.shape:
        return loaded
    rest = own[len(loaded) :]
    return torch.cat([loaded, loaded.mean(dim=0).expand_as(rest) if is_typical else rest])


def _padded(value: Any, parameter: Tensor) -> Any:
    """An optimizer's moments with zeros for further rows."""
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape == parameter.shape:
        return value
    padded = torch.zeros(parameter.shape, dtype=value.dtype)
    padded[: len(value)] = value
    return padded
