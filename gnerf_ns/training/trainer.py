"""nerfstudio's trainer, with checkpoints that survive a kill and runs that end where they were meant to."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Type, cast

from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.cameras.plots import save_image
from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.data.dataset import scale_focal
from gnerf_ns.data.transforms_json import write_transforms_json
from gnerf_ns.training.ambiguity import find_ambiguity
from gnerf_ns.training.learning_rates import PhaseSchedulerConfig
from gnerf_ns.training.pipeline import GNeRFPipeline, GNeRFPipelineConfig
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.system_libraries import export_advice

POSES_FOLDER = "estimated_poses"
"""Beside the checkpoints' folder: nerfstudio takes every file in the latter for a checkpoint."""


NO_TIMESTAMP = "{timestamp}"
"""nerfstudio's placeholder for the second in which a run starts."""


@dataclass
class GNeRFTrainerConfig(TrainerConfig):
    """`TrainerConfig` whose runs never share a folder, and whose saved paths hold from anywhere."""

    _target: Type = field(default_factory=lambda: GNeRFTrainer)
    """Target class to instantiate."""
    pipeline: GNeRFPipelineConfig = field(default_factory=GNeRFPipelineConfig)
    """What is trained, and how."""
    max_num_iterations: Optional[int] = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Steps of a run, those before a resume included; None for as many as the pipeline's schedule has."""

    def setup(self, **kwargs: Any) -> Any:
        """Build the trainer."""
        # Rates follow the training steps: through phase A, where the poses' optimizer has nothing to do yet, too.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        return super().setup(**kwargs)

    def set_timestamp(self) -> None:
        """Name the run by the second in which it starts, and claim its folder: others may start in the same second.

        Raises:
            InputError: the folder cannot be made.
        """
        if self.timestamp != NO_TIMESTAMP:
            return
        super().set_timestamp()
        now, attempt = self.timestamp, 1
        while True:
            folder = self.get_base_dir()
            try:
                folder.mkdir(parents=True)
                return
            except FileExistsError:
                attempt += 1
                self.timestamp = f"{now}_{attempt}"
            except OSError as error:
                raise InputError(f"{folder} cannot be made ({error.strerror}); choose another --output-dir.") from error

    def set_experiment_name(self) -> None:
        """Name the experiment after the folder of the data, be it given as ``.`` or to the dataparser."""
        if self.experiment_name is None:
            datamanager = cast(UnposedDataManagerConfig, self.pipeline.datamanager)
            data = datamanager.data or datamanager.dataparser.data
            folder = Path(os.path.abspath(data.parent if data.is_file() else data))
            self.experiment_name = folder.stem or "unnamed"

    def save_config(self) -> None:
        """Save the configuration, unless that would bury a finished run.

        Raises:
            InputError: the run's folder already has checkpoints, and this run is not to go on from one.
        """
        is_resumed = self.load_dir is not None or self.load_checkpoint is not None
        if not is_resumed and latest_checkpoint(self.get_checkpoint_dir()) is not None:
            raise InputError(
                f"{self.get_base_dir()} already holds a run; choose another --timestamp or --experiment-name, "
                f"or go on from it with --load-dir {self.get_checkpoint_dir()}."
            )
        self.output_dir = Path(os.path.abspath(self.output_dir))
        super().save_config()


def latest_checkpoint(folder: Path) -> Optional[Path]:
    """The checkpoint of the highest step in a folder, which need not exist."""
    return max(folder.glob("step-*.ckpt"), default=None)  # the steps have leading zeros


class GNeRFTrainer(Trainer):
    """Overrides hooks of `Trainer`: how long a run is, how checkpoints are found and saved, how a run goes on."""

    config: GNeRFTrainerConfig
    pipeline: GNeRFPipeline

    def setup_optimizers(self) -> Optimizers:
        """Length, where left open, and learning rates follow the pipeline's schedule, which knows the images."""
        schedule = self.pipeline.schedule
        if self.config.max_num_iterations is None:
            self.config.max_num_iterations = schedule.total_steps
        # The configuration of a run may be older than this parameter.
        self.config.optimizers.setdefault("up_direction", copy.deepcopy(self.config.optimizers["poses"]))
        for optimizer in self.config.optimizers.values():
            if isinstance(optimizer["scheduler"], PhaseSchedulerConfig):
                optimizer["scheduler"].schedule = schedule
        return super().setup_optimizers()

    def _load_checkpoint(self) -> None:
        """Check that there is something to resume from before nerfstudio looks.

        Raises:
            InputError: there is no whole checkpoint where one was said to be, or it does not fit.
        """
        path, folder = self.config.load_checkpoint, self.config.load_dir
        if folder is not None:
            path = latest_checkpoint(folder)
            if path is None:
                raise InputError(
                    f"There is no checkpoint (step-*.ckpt) in {folder}; name the run's nerfstudio_models folder."
                )
            if self.config.load_step is not None:
                path = folder / f"step-{self.config.load_step:09d}.ckpt"
        if path is not None and not path.is_file():
            raise InputError(f"There is no checkpoint {path}; name one that exists.")
        if path is not None and not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not a whole checkpoint; use another one.")
        super()._load_checkpoint()
        for scheduler in self.optimizers.schedulers.values():
            if self._start_step > 0 and scheduler.last_epoch == 0:  # of a parameter that the checkpoint does not know
                scheduler.last_epoch = self._start_step - 1
                scheduler.step()

    def train(self) -> None:
        """Train up to `max_num_iterations` in all; nerfstudio would add that many to a resumed run."""
        planned = cast(int, self.config.max_num_iterations)
        self.config.max_num_iterations = max(0, planned - self._start_step)
        self._last_step = planned - 1
        if self.config.max_num_iterations == 0:
            CONSOLE.print(f"Nothing to train: the checkpoint is already at step {self._start_step} of {planned}.")
            self.step = max(0, self._start_step - 1)
            self.save_checkpoint(self.step)
            return
        super().train()

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save checkpoint and poses so that a kill at any moment leaves the previous ones whole."""
        if step >= self._last_step:
            self.pipeline.estimate_held_out_poses(step)
        final_folder = self.checkpoint_dir
        self.checkpoint_dir = self.base_dir / "unfinished_checkpoint"
        try:
            super().save_checkpoint(step)
        finally:
            written, self.checkpoint_dir = self.checkpoint_dir, final_folder
        final_folder.mkdir(parents=True, exist_ok=True)
        name = f"step-{step:09d}.ckpt"
        os.replace(written / name, final_folder / name)
        shutil.rmtree(written)
        self.write_poses(self.base_dir / POSES_FOLDER)
        if step >= self._last_step:
            self._say_what_came_out()
        if self.config.save_only_latest_checkpoint:
            for older in final_folder.glob("*.ckpt"):
                if older.name != name:
                    older.unlink()

    def write_poses(self, folder: Path) -> None:
        """Write the estimated poses as a nerfstudio transforms.json, and images of them and of where they are from.

        Args:
            folder: which gets `transforms.json`, `cameras.png` and `distribution.png`.
        """
        pipeline = self.pipeline
        dataset = pipeline.datamanager.train_dataset
        write_transforms_json(
            folder / "transforms.json",
            # The training cameras are those of images cropped and shrunk.
            scale_focal(dataset.file_cameras, pipeline.focal_scales()),
            pipeline.estimated_cameras().camera_to_worlds,
            dataset.image_filenames,
            dataset.mask_filenames,
            dataset.applies_orientation,
        )
        save_image(folder / "cameras.png", (pipeline.evaluation.plot_poses() * 255).round().byte().numpy())
        save_image(folder / "distribution.png", pipeline.plot_pose_distribution())

    def _say_what_came_out(self) -> None:
        advice = export_advice()
        if advice is not None:
            CONSOLE.print(advice)
        folder, pipeline = self.base_dir / POSES_FOLDER, self.pipeline
        CONSOLE.print(f"Estimated poses: {folder / 'transforms.json'}, an image of them: {folder / 'cameras.png'}")
        ambiguity = find_ambiguity(
            pipeline.pose_search, pipeline.scene.image_set, pipeline.train_poses(), pipeline.scene.prior
        )
        for sentence in ambiguity.sentences:
            CONSOLE.print(f"[yellow]{sentence}")
        errors = pipeline.evaluation.pose_errors()
        if errors is not None:
            summary = errors.summary()
            CONSOLE.print(
                "Against the true poses, which training never saw: rotation error "
                f"{summary['rotation_error_deg_median']:.2f}° in the median, "
                f"{summary['rotation_error_deg_max']:.2f}° at most, {summary['rotation_under_5deg']:.0%} under 5°"
                + (", and the solution is mirrored." if errors.mirrored else ".")
            )
