"""nerfstudio's camera optimizer, where only some poses are to be learned."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Type

import roma
import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.cameras.pose_codec import UP_DIRECTION_KEY, PoseCodec, UpDirection
from gnerf_ns.data.grown_dataparser import GrownDataParserConfig
from gnerf_ns.fields.hash_encoding import use_compiled_hash_grids
from gnerf_ns.models.image_metrics import without_lpips
from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.trainer import GNeRFTrainerConfig, latest_checkpoint
from gnerf_ns.utils.checkpoints import for_more_images, with_up_direction
from gnerf_ns.utils.errors import InputError


@dataclass
class LastCamerasOptimizerConfig(CameraOptimizerConfig):
    """Corrects the poses of the last training cameras; those before them are known."""

    _target: Type = field(default_factory=lambda: LastCamerasOptimizer)
    """Target class to instantiate."""
    num_corrected: int = 0
    """How many cameras that is."""


class LastCamerasOptimizer(CameraOptimizer):
    """See `LastCamerasOptimizerConfig`."""

    config: LastCamerasOptimizerConfig

    def __init__(self, config: LastCamerasOptimizerConfig, num_cameras: int, **kwargs: Any) -> None:
        """As `CameraOptimizer`; any mode but off."""
        super().__init__(config, num_cameras, **kwargs)
        # Not by nerfstudio's non_trainable_camera_indices: 1.1.5 takes them for rows of a batch.
        moves = (torch.arange(num_cameras) >= num_cameras - config.num_corrected)[:, None]
        self.pose_adjustment.register_hook(lambda gradient: gradient * moves.to(gradient))


LOCALIZED_FILE = "localized.json"
"""In the new run's folder: the images that were added, in the frame of the data."""

MAX_TURN_DEG = 1.0
"""An image is not added if the run's pose table would have its camera turned by more, in degrees."""


@dataclass
class GrowthConfig:
    """Which localized images are trained on, and for how long."""

    steps: Optional[int] = None
    """Training steps, made with the learning rates of the run's last ones; None for as many as it made; of ours, at
    most those of phase B."""
    max_error: float = 0.1
    """Largest root mean square color error of an image that is added, besides having converged."""
    min_agreeing: int = 2
    """Fewest of its last few hypotheses that came to the same rotation."""

    def accepts(self, figures: Mapping[str, Any]) -> bool:
        """Whether an image may be trained on, by what its frame says under "localization"."""
        agrees = figures["num_agreeing"] >= min(self.min_agreeing, figures["num_hypotheses"])
        return figures["converged"] and figures["photometric_error"] <= self.max_error and agrees


@dataclass(frozen=True)
class Growth:
    """What came of it."""

    num_added: int
    """Images that were added."""
    num_steps: int
    """Training steps that were made."""
    psnr_before: float
    """Mean over the run's held-out images, in dB."""
    psnr_after: float
    """The same at the end."""
    folder: Optional[Path]
    """The new run; None if it was worse and is gone."""


def grow_run(run_config: Any, poses_json: Path, config: GrowthConfig) -> Optional[Growth]:
    """Train a copy of a run on its own and on localized images, whose poses are learned on where the method can.

    The run itself is left as it is; the new one stands beside it. None if no image may be added: none is sure, or
    none of our own run's cameras, if these have to, looks at the origin.

    Args:
        run_config: the run's configuration, its `output_dir` being where it lies.
        poses_json: the transforms.json that `gnerf-localize` has written.
        config: how.

    Raises:
        InputError: there are no held-out images to judge by, or some of these were to be trained on; or the run has
            not got to where it trains on images.
    """
    meta = json.loads(poses_json.read_text())
    frames = [frame for frame in meta["frames"] if config.accepts(frame["localization"])]
    if frames and isinstance(run_config, GNeRFTrainerConfig):
        codec = _codec_of(run_config)
        frames = [frame for frame in frames if _can_be_held(codec, frame)]
    if not frames:
        return None
    return train_further(run_config, {**meta, "frames": [{**frame, "localized": True} for frame in frames]}, config)


def train_further(run_config: Any, localized: Mapping[str, Any], config: GrowthConfig) -> Growth:
    """See `grow_run`, with the images to add as a transforms.json has them; without any, it is a control."""
    checkpoint = latest_checkpoint(run_config.get_checkpoint_dir())
    assert checkpoint is not None, "images were localized in it"
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    frames = sorted(localized["frames"], key=lambda frame: frame["file_path"])  # as dataparsers have them
    frames = [_as_given(frame, state["pipeline"]) for frame in frames]
    poses = torch.tensor([frame["transform_matrix"][:3] for frame in frames]).reshape(-1, 3, 4)

    grown_config = _config_beside(run_config, has_more_images=bool(frames))
    steps = _settle_steps(grown_config, state, config)
    folder: Path = grown_config.get_base_dir()
    folder.mkdir(parents=True)
    (folder / LOCALIZED_FILE).write_text(json.dumps({**localized, "frames": frames}, indent=2))
    _close_logs()
    try:
        growth = _train(grown_config, state, folder, poses, steps)
    except BaseException:  # KeyboardInterrupt, too: nobody has found out whether it is better
        _close_logs()
        shutil.rmtree(folder)
        raise
    _close_logs()
    if growth.folder is None:
        shutil.rmtree(folder)
    return growth


def _codec_of(run_config: GNeRFTrainerConfig) -> PoseCodec:
    """How the run's pose table has poses, with distances in its own units."""
    up = UpDirection()
    checkpoint = latest_checkpoint(run_config.get_checkpoint_dir())
    if checkpoint is not None:
        state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)["pipeline"]
        up.tilt.copy_(with_up_direction(state)[UP_DIRECTION_KEY])
    return PoseCodec(run_config.pipeline.resolved_pose_mode, 1.0, up)


def _can_be_held(codec: PoseCodec, frame: Mapping[str, Any]) -> bool:
    """Whether the run's pose table can have an image's pose: it may be for cameras that look at the origin alone."""
    pose = torch.tensor(frame["transform_matrix"][:3])[None]
    turn = roma.rotmat_geodesic_distance(codec.decode(codec.encode(pose))[..., :3], pose[..., :3])
    return float(turn.rad2deg()) <= MAX_TURN_DEG


def _as_given(frame: Dict[str, Any], state: Mapping[str, Tensor]) -> Dict[str, Any]:
    """An image with its focal length as it was assumed: the run's own factor will be on it again."""
    logarithms = state.get("focal_scales.logarithms")
    factor = 1.0 if logarithms is None else float(logarithms.median().exp())
    return {**frame, "fl_x": frame["fl_x"] / factor, "fl_y": frame["fl_y"] / factor}


def _settle_steps(config: Any, state: Mapping[str, Any], growth: GrowthConfig) -> int:
    """How many of the run's last steps are made again, written into its configuration."""
    total = state["step"] + 1
    steps = min(total, growth.steps or total)
    if not isinstance(config, GNeRFTrainerConfig):
        config.max_num_iterations = steps  # nerfstudio's trainer counts those after a resume
        return steps
    # Phases end where they did, however many images there are now, and what comes before B is not made again;
    # what few of them left open about depth is settled by now.
    schedule = config.pipeline.schedule.for_images(len(state["pipeline"]["train_poses.codes"]))
    schedule.pose_trial_rounds = 0
    schedule.distortion_boost = (1.0, 1.0)
    config.pipeline.schedule, config.max_num_iterations = schedule, total
    schedule = copy.copy(schedule)
    schedule.begin_anew(int(state["pipeline"]["restarts.begin"]))
    if total <= schedule.phase_b_start:
        raise InputError("The run has not got to phase B, so that its poses are not worth going on from; train it on.")
    return min(steps, total - schedule.phase_b_start)


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


def _config_beside(run_config: Any, has_more_images: bool) -> Any:
    """The configuration of a run in a folder of its own, with the localized images in its data."""
    config = copy.deepcopy(run_config)
    number, config.timestamp = 1, f"{run_config.timestamp}-grown"
    while config.get_base_dir().exists():
        number += 1
        config.timestamp = f"{run_config.timestamp}-grown-{number}"
    datamanager = config.pipeline.datamanager
    if has_more_images:
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


def _train(config: Any, state: Dict[str, Any], folder: Path, poses: Float[Tensor, "added 3 4"], steps: int) -> Growth:
    _learn_poses_of_added(config, len(poses))
    config.save_config()
    with without_lpips():
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup(test_mode="test")
    use_compiled_hash_grids(trainer.pipeline.model)
    _check_split(trainer.pipeline.datamanager)
    config.load_checkpoint = folder / "begin.ckpt"
    torch.save(for_more_images(state, trainer), config.load_checkpoint)
    trainer._load_checkpoint()
    config.load_checkpoint.unlink()
    config.load_checkpoint = None
    before = trainer.pipeline.get_average_eval_image_metrics(step=None)["psnr"]
    CONSOLE.print(f"{len(poses)} images more, {steps} training steps; held-out PSNR before: {before:.2f} dB")

    _begin_new_poses(trainer.pipeline, poses)
    _rewind(trainer, steps)
    trainer.train()
    after = trainer.pipeline.get_average_eval_image_metrics(step=None)["psnr"]
    return Growth(len(poses), steps, float(before), float(after), folder if after >= before else None)


def _rewind(trainer: Any, steps: int) -> None:
    """Have the last steps made again, at the learning rates of then."""
    total = trainer._start_step
    trainer._start_step = total - steps
    for scheduler in trainer.optimizers.schedulers.values():
        scheduler.load_state_dict(
            {**scheduler.state_dict(), "last_epoch": total - steps, "_step_count": total - steps + 1}
        )
    _expect_steps(total)


def _learn_poses_of_added(config: Any, num_added: int) -> None:
    """Have nerfacto and its like learn these camera poses, if they learn none: those that they were given stay."""
    optimizer = getattr(config.pipeline.model, "camera_optimizer", None)
    if isinstance(optimizer, LastCamerasOptimizerConfig):
        optimizer.num_corrected += num_added
    elif optimizer is not None and optimizer.mode == "off" and "camera_opt" in config.optimizers:
        config.pipeline.model.camera_optimizer = LastCamerasOptimizerConfig(
            mode="SO3xR3",
            num_corrected=num_added,
            trans_l2_penalty=optimizer.trans_l2_penalty,
            rot_l2_penalty=optimizer.rot_l2_penalty,
        )


def _check_split(datamanager: Any) -> None:
    held_out = {_full_size(path) for path in datamanager.eval_dataset.image_filenames}
    training = [_full_size(path) for path in datamanager.train_dataset.image_filenames]
    if not held_out:
        raise InputError("The run holds no images out, by which growth could be judged; train it with some held out.")
    both = sorted(held_out.intersection(training))
    if both:
        raise InputError(
            f"{both[0]} is held out to judge the run by, and cannot be trained on; leave it out of --images."
        )
    if len(set(training)) < len(training):
        twice = next(path for path in training if training.count(path) > 1)
        raise InputError(f"{twice} is a training image of this run already; leave it out of --images.")


def _full_size(path: Path) -> Path:
    """The image in `images` where this is the same one in nerfstudio's `images_2`, `images_4`..."""
    path = path.resolve()
    return path.parent.with_name(re.sub(r"_\d+$", "", path.parent.name)) / path.name


def _begin_new_poses(pipeline: Any, poses: Float[Tensor, "added 3 4"]) -> None:
    """nerfstudio's own methods have them from the dataparser."""
    if isinstance(pipeline, GNeRFPipeline):
        num_all = len(pipeline.datamanager.train_dataset)
        added = torch.arange(num_all - len(poses), num_all, device=pipeline.device)
        pipeline.train_poses.assign(added, poses.to(pipeline.device))
        pipeline.publish_poses()
