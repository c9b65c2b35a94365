"""Train on with pictures that were localised in a run (iNeRF section 3.4), or leave it be if that makes it worse."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.data.dataparsers.grown_dataparser import GrownDataParserConfig
from gnerf_ns.engine.gnerf_trainer import GNeRFTrainerConfig, latest_checkpoint
from gnerf_ns.errors import InputError
from gnerf_ns.localization.trained_run import without_lpips
from gnerf_ns.localization.trained_scene import use_compiled_hash_grids
from gnerf_ns.pipelines.gnerf_pipeline import GNeRFPipeline

LOCALIZED_FILE = "localized.json"
"""In the new run's folder: the pictures that were added, in the frame of the data."""


@dataclass
class GrowthConfig:
    """Which localised pictures are trained on, and for how long."""

    steps: Optional[int] = None
    """Training steps, made with the learning rates of the run's last ones; None for half as many as it made."""
    max_error: float = 0.1
    """Largest root mean square colour error of a picture that is added, besides having converged."""
    min_agreeing: int = 2
    """Fewest of its last few hypotheses that came to the same rotation."""

    def accepts(self, figures: Mapping[str, Any]) -> bool:
        """Whether a picture may be trained on, by what its frame says under "localization"."""
        agrees = figures["num_agreeing"] >= min(self.min_agreeing, figures["num_hypotheses"])
        return figures["converged"] and figures["photometric_error"] <= self.max_error and agrees


@dataclass(frozen=True)
class Growth:
    """What came of it."""

    num_added: int
    """Pictures that were added."""
    psnr_before: float
    """Mean over the run's held-out pictures, in dB."""
    psnr_after: float
    """The same at the end."""
    folder: Optional[Path]
    """The new run; None if it was worse and is gone."""


def grow_run(run_config: Any, poses_json: Path, config: GrowthConfig) -> Optional[Growth]:
    """Train a copy of a run on its own and on localised pictures, whose poses are learned on where the method can.

    The run itself is left as it is; the new one stands beside it. None if no picture may be added.

    Args:
        run_config: the run's configuration, its `output_dir` being where it lies.
        poses_json: the transforms.json that `gnerf-localize` has written.
        config: how.

    Raises:
        InputError: there are no held-out pictures to judge by, or some of these were to be trained on.
    """
    meta = json.loads(poses_json.read_text())
    accepted = [{**frame, "localized": True} for frame in meta["frames"] if config.accepts(frame["localization"])]
    checkpoint = latest_checkpoint(run_config.get_checkpoint_dir())
    assert checkpoint is not None, "pictures were localised in it"
    if not accepted:
        return None
    meta["frames"] = sorted(accepted, key=lambda frame: frame["file_path"])  # as dataparsers have them
    poses = torch.tensor([frame["transform_matrix"][:3] for frame in meta["frames"]])

    grown_config = _config_beside(run_config)
    folder: Path = grown_config.get_base_dir()
    folder.mkdir(parents=True)
    (folder / LOCALIZED_FILE).write_text(json.dumps(meta, indent=2))
    _close_logs()
    try:
        growth = _train(grown_config, checkpoint, folder, poses, config)
    except InputError:
        shutil.rmtree(folder)
        raise
    finally:
        _close_logs()
    if growth.folder is None:
        shutil.rmtree(folder)
    return growth


def _close_logs() -> None:
    """nerfstudio goes on writing into the logs of all earlier trainings of a process, gone ones too."""
    from nerfstudio.utils import writer  # not above: it cannot be the first of nerfstudio's modules

    for log in writer.EVENT_WRITERS:
        if isinstance(log, writer.TensorboardWriter):
            log.tb_writer.close()
    writer.EVENT_WRITERS.clear()


def _expect_steps(total: int) -> None:
    """Or nerfstudio's estimate of the remaining time is a day, after a resume."""
    from nerfstudio.utils import writer

    writer.GLOBAL_BUFFER["max_iter"] = total


def _config_beside(run_config: Any) -> Any:
    """The configuration of a run in a folder of its own, with the localised pictures in its data."""
    config = copy.deepcopy(run_config)
    number, config.timestamp = 1, f"{run_config.timestamp}-grown"
    while config.get_base_dir().exists():
        number += 1
        config.timestamp = f"{run_config.timestamp}-grown-{number}"
    datamanager = config.pipeline.datamanager
    datamanager.dataparser = GrownDataParserConfig(
        data=datamanager.data or datamanager.dataparser.data,
        base=datamanager.dataparser,
        localized=config.get_base_dir().absolute() / LOCALIZED_FILE,
        base_has_true_poses=not isinstance(config, GNeRFTrainerConfig),
    )
    datamanager.data = datamanager.dataparser.data
    config.load_dir = config.load_checkpoint = config.load_step = None
    config.vis = "tensorboard"
    return config


def _train(
    config: Any, checkpoint: Path, folder: Path, poses: Float[Tensor, "added 3 4"], growth: GrowthConfig
) -> Growth:
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    total = state["step"] + 1
    steps = min(total, growth.steps or max(1, total // 2))
    is_ours = isinstance(config, GNeRFTrainerConfig)
    # Ours counts a run's steps, nerfstudio's trainer those after a resume.
    config.max_num_iterations = total if is_ours else steps
    only_new_move = _learn_poses(config)
    config.save_config()
    with without_lpips():
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup(test_mode="test")
    use_compiled_hash_grids(trainer.pipeline.model)
    _check_split(trainer.pipeline.datamanager)
    resumed = folder / checkpoint.name
    torch.save(_for_more_pictures(state, trainer, total - steps), resumed)
    config.load_checkpoint = resumed
    trainer._load_checkpoint()
    _expect_steps(total)
    resumed.unlink()
    config.load_checkpoint = None
    _begin_new_poses(trainer, poses, only_new_move)

    before = trainer.pipeline.get_average_eval_image_metrics(step=None)["psnr"]
    CONSOLE.print(f"{len(poses)} pictures more, {steps} training steps; held-out PSNR before: {before:.2f} dB")
    trainer.train()
    after = trainer.pipeline.get_average_eval_image_metrics(step=None)["psnr"]
    return Growth(len(poses), float(before), float(after), folder if after >= before else None)


def _learn_poses(config: Any) -> bool:
    """Have nerfacto and its like learn camera poses; whether they did not, so that known ones have to stay."""
    optimizer = getattr(config.pipeline.model, "camera_optimizer", None)
    if optimizer is None or optimizer.mode != "off" or "camera_opt" not in config.optimizers:
        return False
    optimizer.mode = "SO3xR3"
    return True


def _check_split(datamanager: Any) -> None:
    held_out = {Path(path).resolve() for path in datamanager.eval_dataset.image_filenames}
    training = [Path(path).resolve() for path in datamanager.train_dataset.image_filenames]
    if not held_out:
        raise InputError("The run holds no pictures out, by which growth could be judged; train it with some held out.")
    both = sorted(held_out.intersection(training))
    if both:
        raise InputError(
            f"{both[0]} is held out to judge the run by, and cannot be trained on; leave it out of --images."
        )
    if len(set(training)) < len(training):
        twice = next(path for path in training if training.count(path) > 1)
        raise InputError(f"{twice} is a training picture of this run already; leave it out of --images.")


def _for_more_pictures(state: Dict[str, Any], trainer: Any, step: int) -> Dict[str, Any]:
    """A checkpoint as it would be at an earlier step, with rows for further pictures in whatever has one for each.

    New rows are those of the new pipeline, or the mean of the others where it is a learned embedding.
    """
    pipeline = {name: value.detach().clone() for name, value in trainer.pipeline.state_dict().items()}
    for name, value in state["pipeline"].items():
        if name not in pipeline:
            continue
        if value.shape == pipeline[name].shape:
            pipeline[name] = value
        else:
            rest = pipeline[name][len(value) :]
            pipeline[name] = torch.cat([value, value.mean(dim=0).expand_as(rest) if "embedding" in name else rest])
    optimizers = {}
    for group, saved in state["optimizers"].items():
        parameters = trainer.optimizers.parameters[group]
        moments = {
            index: {name: _padded(value, parameters[index]) for name, value in of_one.items()}
            for index, of_one in saved["state"].items()
        }
        optimizers[group] = {**saved, "state": moments}
    schedulers = {
        group: {**saved, "last_epoch": step, "_step_count": step + 1} for group, saved in state["schedulers"].items()
    }
    return {**state, "step": step - 1, "pipeline": pipeline, "optimizers": optimizers, "schedulers": schedulers}


def _padded(value: Any, parameter: Tensor) -> Any:
    """An optimizer's moments with zeros for further rows."""
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape == parameter.shape:
        return value
    padded = torch.zeros(parameter.shape, dtype=value.dtype)
    padded[: len(value)] = value
    return padded


def _begin_new_poses(trainer: Any, poses: Float[Tensor, "added 3 4"], only_new_move: bool) -> None:
    pipeline = trainer.pipeline
    num_all = len(pipeline.datamanager.train_dataset)
    added = torch.arange(num_all - len(poses), num_all, device=pipeline.device)
    if isinstance(pipeline, GNeRFPipeline):  # nerfstudio's methods have them from the dataparser
        pipeline.train_poses.assign(added, poses.to(pipeline.device))
        pipeline.publish_poses()
    elif only_new_move:
        adjustment = pipeline.model.camera_optimizer.pose_adjustment
        is_new = torch.zeros_like(adjustment)
        is_new[added] = 1.0
        adjustment.register_hook(lambda gradient: gradient * is_new)
