"""A trained run of any method, loaded from its config.yml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import torch
import yaml

from gnerf_ns.cameras.up_direction import UP_DIRECTION_KEY
from gnerf_ns.data.dataparsers.grown_dataparser import GrownDataParserConfig
from gnerf_ns.errors import InputError
from gnerf_ns.model_components.hash_grid_keys import explain_other_hash_grids
from gnerf_ns.model_components.image_metrics import without_lpips


def load_run(load_config: Path) -> Tuple[Any, Any]:
    """Configuration of a run, as it was saved but for where it lies now (it may have been moved); and its pipeline.

    Args:
        load_config: its config.yml.

    Raises:
        InputError: the run or its data cannot be found, or its weights do not fit what is installed here.
    """
    # Imports every installed method.
    from nerfstudio.utils.eval_utils import eval_setup

    if not load_config.is_file():
        raise InputError(f"There is no file {load_config}; give --load-config the config.yml of a trained run.")
    run = load_config.resolve().parent
    checkpoints = sorted((run / "nerfstudio_models").glob("step-*.ckpt"))  # the steps have leading zeros
    if not checkpoints:
        raise InputError(f"{run / 'nerfstudio_models'} holds no checkpoint; train the run first.")

    def where_it_lies_now(config: Any) -> Any:
        _set_folder(config, run)
        _check_data(config, load_config)
        return config

    try:
        with without_lpips():
            _, pipeline, _, _ = eval_setup(load_config, test_mode="inference", update_config_callback=where_it_lies_now)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"The run of {load_config} cannot be loaded on this machine ({reason[0]}); splatfacto and whatever else "
            "needs a GPU has to be loaded where there is one."
        ) from error
    # Read again: eval_setup's own is changed for rendering only.
    config = where_it_lies_now(yaml.load(load_config.read_text(), Loader=yaml.Loader))
    _check_weights(checkpoints[-1], pipeline)
    return config, pipeline


def _set_folder(config: Any, run: Path) -> None:
    """Saved paths of nerfstudio's own methods hold only from the folder in which training was started."""
    experiment, method, timestamp = ("", *run.parts)[-3:]
    if method != config.method_name:
        raise InputError(
            f"{run} is a run of {config.method_name}, which nerfstudio looks for in a folder of that name; move it to "
            f"{run.parent / config.method_name / run.name}."
        )
    config.output_dir, config.experiment_name, config.timestamp = run.parents[2], experiment, timestamp
    dataparser = getattr(config.pipeline.datamanager, "dataparser", None)
    if isinstance(dataparser, GrownDataParserConfig):
        dataparser.localized = run / dataparser.localized.name


def _check_data(config: Any, load_config: Path) -> None:
    datamanager = config.pipeline.datamanager
    dataparser = getattr(datamanager, "dataparser", None)
    data = getattr(datamanager, "data", None) or config.data or getattr(dataparser, "data", None)
    if data is not None and not Path(data).exists():
        raise InputError(
            f"{data}, on which {load_config} was trained, is not there any more; put it back, or correct the paths "
            "called data in that file."
        )


def _check_weights(checkpoint: Path, pipeline: Any) -> None:
    """nerfstudio takes what fits from a checkpoint, and leaves the rest as it was drawn at random."""
    saved = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)["pipeline"]
    names = {name.removeprefix("module.") for name in saved}
    # What is no tensor is a module's extra state, and no weight.
    own = {name for name, value in pipeline.state_dict().items() if isinstance(value, torch.Tensor)}
    missing = sorted(name for name in own - names - {UP_DIRECTION_KEY} if "lpips" not in name)
    if missing:
        explain_other_hash_grids(missing, sorted(names - own))
        raise InputError(
            f"{checkpoint} holds no {missing[0]}, which the method has here; open it with the versions of nerfstudio "
            "and its methods that it was trained with."
        )
