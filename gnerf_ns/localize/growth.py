"""A run trained on with images that were localized in it, beside the run itself."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Type, Union

import roma
import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec, UpDirection
from gnerf_ns.data.grown_dataparser import GrownDataParserConfig
from gnerf_ns.data.transforms_json import load_transforms_json, read_transforms_json
from gnerf_ns.fields.hash_encoding import use_compiled_hash_grids
from gnerf_ns.models.image_metrics import without_lpips
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.schedule import Schedule
from gnerf_ns.training.trainer import GNeRFTrainerConfig
from gnerf_ns.utils.checkpoints import find_checkpoint, for_more_images, read_checkpoint
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.run_images import hashes

LOCALIZED_FILE = "localized.json"
"""In the new run's folder: the images that were added, in the frame of the data."""

MAX_TURN_DEG = 1.0
"""An image is not added if the run's cameras cannot have its pose but for a rotation by more, in degrees."""


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

    def accepts(self, frame: Mapping[str, Any]) -> bool:
        """Whether an image may be trained on, by what its frame says of it."""
        figures = frame["localization"]
        agrees = figures["num_agreeing"] >= min(self.min_agreeing, figures["num_hypotheses"])
        return (
            figures["converged"]
            and not frame.get("flagged")
            and figures["photometric_error"] <= self.max_error
            and agrees
        )


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


class GivenPoses:
    """What growth has to know of a method that takes poses as they are given, as nerfstudio's own do.

    Args:
        run_config: the run's configuration.
        checkpoint: what the run has come to.
    """

    are_given = True
    """Whether the data's poses are those that the field was trained on."""

    def __init__(self, run_config: Any, checkpoint: Mapping[str, Any]) -> None:
        self._num_steps = checkpoint["step"] + 1
        self._state: Mapping[str, Tensor] = checkpoint["pipeline"]

    def can_hold(self, camera_to_world: Float[Tensor, "3 4"]) -> bool:
        """Whether a camera of the method may have a pose."""
        return True

    def with_given_focal_length(self, frame: Dict[str, Any]) -> Dict[str, Any]:
        """A frame with the focal length from which the method comes to the one that was found."""
        return frame

    def plan_steps(self, config: Any, steps: Optional[int]) -> int:
        """Write into the new run's configuration how many of the run's last steps are made again.

        Args:
            config: that configuration.
            steps: the number that was asked for; None for as many as the run made.

        Returns:
            That number.
        """
        config.max_num_iterations = min(self._num_steps, steps or self._num_steps)  # after a resume: of those to come
        return config.max_num_iterations

    def begin(self, pipeline: Any, camera_to_worlds: Float[Tensor, "added 3 4"]) -> None:
        """Take the poses of the last training images, those that were added, for where these begin."""


class LearnedPoses(GivenPoses):
    """The same of our own methods."""

    are_given = False

    def __init__(self, run_config: GNeRFTrainerConfig, checkpoint: Mapping[str, Any]) -> None:
        super().__init__(run_config, checkpoint)
        up = UpDirection()
        up.tilt.copy_(self._state["cameras.up_direction.tilt"])
        self._codec = PoseCodec(run_config.pipeline.resolved_pose_mode, 1.0, up)

    def can_hold(self, camera_to_world: Float[Tensor, "3 4"]) -> bool:
        """Not if its cameras all look at the origin, and this one does not."""
        held = self._codec.decode(self._codec.encode(camera_to_world[None]))[0]
        turn = roma.rotmat_geodesic_distance(held[:, :3], camera_to_world[:, :3])
        return float(turn.rad2deg()) <= MAX_TURN_DEG

    def with_given_focal_length(self, frame: Dict[str, Any]) -> Dict[str, Any]:
        """The run's typical factor, which new images get (`for_more_images`), will be on it again."""
        factor = float(self._state["cameras.focal_scales.logarithms"].mean().exp())
        return {**frame, "fl_x": frame["fl_x"] / factor, "fl_y": frame["fl_y"] / factor}

    def plan_steps(self, config: GNeRFTrainerConfig, steps: Optional[int]) -> int:
        """At most those of phase B: what comes before it is not made again.

        Raises:
            InputError: the run has not got there.
        """
        # Phases end where they did, however many images there are now. What few of them left open about depth is
        # settled by now.
        num_images = len(self._state["cameras.codes"])
        settled = replace(
            config.pipeline.resolved_schedule.settled(num_images), leave_out_rounds=0, distortion_boost=(1.0, 1.0)
        )
        config.pipeline.schedule, config.max_num_iterations = settled, self._num_steps
        begin = int(self._state["restarts.begin"])
        in_phase_b = self._num_steps - Schedule.of(settled, num_images, image_side=1).begun_anew(begin).phase_a_end
        if in_phase_b <= 0:
            raise InputError(
                "The run has not got to phase B, so that its poses are not worth going on from; train it on."
            )
        return min(in_phase_b, steps or in_phase_b)

    def begin(self, pipeline: Any, camera_to_worlds: Float[Tensor, "added 3 4"]) -> None:
        """The dataparser sets them aside."""
        num_all = len(pipeline.cameras)
        added = torch.arange(num_all - len(camera_to_worlds), num_all, device=pipeline.device)
        pipeline.cameras.assign(added, camera_to_worlds.to(pipeline.device))
        pipeline.leave_out.origins[added] = PoseOrigin.LOOKED_UP
        pipeline.publish_cameras()


def grow_run(run_config: Any, poses_json: Path, config: GrowthConfig) -> Optional[Growth]:
    """Train a copy of a run on its own and on localized images, whose poses are learned on where the method can.

    The run itself is left as it is; the new one stands beside it. None if no image may be added: none is sure, or
    none of our own run's cameras, if these have to, looks at the origin.

    Args:
        run_config: the run's configuration, whose `get_base_dir()` is where it lies.
        poses_json: the transforms.json that `gnerf-localize` has written.
        config: how.

    Raises:
        InputError: there are no held-out images to judge by, or some of these were to be trained on; or the run has
            not got to where it trains on images.
    """
    method = _method_of(run_config, _checkpoint_of(run_config))
    meta, poses = load_transforms_json(poses_json), upright_poses(poses_json)
    folder = poses_json.absolute().parent

    def named_from_the_root(frame: Mapping[str, Any]) -> Dict[str, str]:
        return {key: (folder / frame[key]).as_posix() for key in ("file_path", "mask_path") if key in frame}

    frames = [
        {**frame, **named_from_the_root(frame), "localized": True}
        for frame in meta["frames"]
        if config.accepts(frame) and method.can_hold(poses[poses_json.parent / frame["file_path"]])
    ]
    if not frames:
        return None
    return train_further(run_config, {**meta, "frames": frames}, config)


def train_further(run_config: Any, localized: Mapping[str, Any], config: GrowthConfig) -> Growth:
    """See `grow_run`, with the images to add as a transforms.json has them; without any, it is a control."""
    state = _checkpoint_of(run_config)
    method = _method_of(run_config, state)
    frames = sorted(localized["frames"], key=lambda frame: frame["file_path"])  # as dataparsers have them
    frames = [method.with_given_focal_length(frame) for frame in frames]
    grown_config = _config_beside(run_config, method.are_given, has_more_images=bool(frames))
    steps = method.plan_steps(grown_config, config.steps)
    folder: Path = grown_config.get_base_dir()
    folder.mkdir(parents=True)
    (folder / LOCALIZED_FILE).write_text(json.dumps({**localized, "frames": frames}, indent=2))
    _close_logs()
    try:
        growth = _train(grown_config, state, method, frames, steps)
    except BaseException:  # KeyboardInterrupt, too: nobody has found out whether it is better
        _close_logs()
        shutil.rmtree(folder)
        raise
    _close_logs()
    if growth.folder is None:
        shutil.rmtree(folder)
    return growth


def upright_poses(path: Path) -> Dict[Path, Float[Tensor, "3 4"]]:
    """By image file, in the order of dataparsers, the poses of a transforms.json, which are those of stored pixels."""
    frames = read_transforms_json(path).frames
    return {
        frame.image: torch.from_numpy(frame.camera_to_world).float()
        for frame in frames
        if frame.camera_to_world is not None
    }


def _checkpoint_of(run_config: Any) -> Dict[str, Any]:
    return read_checkpoint(find_checkpoint(run_config.get_checkpoint_dir()))


def _method_of(run_config: Any, checkpoint: Mapping[str, Any]) -> GivenPoses:
    kind = LearnedPoses if isinstance(run_config, GNeRFTrainerConfig) else GivenPoses
    return kind(run_config, checkpoint)


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


def _config_beside(run_config: Any, poses_are_given: bool, has_more_images: bool) -> Any:
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
            base_has_true_poses=poses_are_given,
        )
        datamanager.data = datamanager.dataparser.data
    config.load_dir = config.load_checkpoint = config.load_step = None
    config.vis = "tensorboard"
    return config


def _train(
    config: Any, state: Mapping[str, Any], method: GivenPoses, frames: List[Dict[str, Any]], steps: int
) -> Growth:
    folder: Path = config.get_base_dir()
    _learn_poses_of_added(config, len(frames))
    config.save_config()
    with without_lpips():
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup(test_mode="test")
    use_compiled_hash_grids(trainer.pipeline.model)
    _check_split(trainer.pipeline.datamanager, len(frames))
    config.load_checkpoint = folder / "begin.ckpt"
    torch.save(for_more_images(state, trainer), config.load_checkpoint)
    trainer._load_checkpoint()
    config.load_checkpoint.unlink()
    config.load_checkpoint = None
    before = trainer.pipeline.get_average_eval_image_metrics(step=None)["psnr"]
    CONSOLE.print(f"{len(frames)} images more, {steps} training steps; held-out PSNR before: {before:.2f} dB")

    poses = list(upright_poses(folder / LOCALIZED_FILE).values())
    method.begin(trainer.pipeline, torch.stack(poses) if poses else torch.empty(0, 3, 4))
    _rewind(trainer, steps)
    trainer.train()
    after = trainer.pipeline.get_average_eval_image_metrics(step=None)["psnr"]
    return Growth(len(frames), steps, float(before), float(after), folder if after >= before else None)


def _rewind(trainer: Any, steps: int) -> None:
    """Have the last steps made again, at the learning rates of then."""
    total = trainer._start_step
    trainer._start_step = total - steps
    for scheduler in trainer.optimizers.schedulers.values():
        scheduler.load_state_dict(
            {**scheduler.state_dict(), "last_epoch": total - steps, "_step_count": total - steps + 1}
        )
    _expect_steps(total)


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


def _check_split(datamanager: Any, num_added: int) -> None:
    """Whether growth can be judged by images that are not trained on, and whether the added ones are new."""
    training, held_out = datamanager.train_dataset.image_filenames, datamanager.eval_dataset.image_filenames
    if not held_out:
        raise InputError("The run holds no images out, by which growth could be judged; train it with some held out.")
    num_before = len(training) - num_added
    known, judged_by = _known_by(training[:num_before]), _known_by(held_out)
    for path in training[num_before:]:
        if _known_by([path]) & judged_by:
            raise InputError(
                f"{path} is held out to judge the run by, and cannot be trained on; leave it out of --images."
            )
        if _known_by([path]) & known:
            raise InputError(f"{path} is a training image of this run already; leave it out of --images.")


def _known_by(images: Sequence[Path]) -> Set[Union[Path, str]]:
    """Where images are, and what is in their files: one may have been copied, or shrunk."""
    return {*map(_full_size, images), *hashes(images)}


def _full_size(path: Path) -> Path:
    """The image in `images` where this is the same one in nerfstudio's `images_2`, `images_4`..."""
    path = path.resolve()
    return path.parent.with_name(re.sub(r"_\d+$", "", path.parent.name)) / path.name
