"""The trainer of images without poses: how long a run is, and the poses that it leaves."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Type, cast

import torch
import yaml
from nerfstudio.engine.optimizers import Optimizers
from torch.cuda.amp.grad_scaler import GradScaler

from gnerf_ns.cameras.learned_cameras import Split
from gnerf_ns.cameras.plots import save_image
from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.export.folders import POSES_FOLDER, write_results
from gnerf_ns.export.surface_points import surface_points
from gnerf_ns.report.page import REPORT, write_report
from gnerf_ns.runs.lines import Line, say, shown_path
from gnerf_ns.runs.progress_display import ProgressWriter, Watched
from gnerf_ns.runs.run_folder import CONFIG, RunFolderConfig
from gnerf_ns.runs.whole_runs import WholeRunTrainer
from gnerf_ns.training.learning_rates import following
from gnerf_ns.training.pipeline import GNeRFPipeline, GNeRFPipelineConfig, refuse_adversaries_on_several
from gnerf_ns.training.recipe import keep_sizes, sizes_in_words
from gnerf_ns.training.run_costs import RunTime
from gnerf_ns.training.run_report import CPU_RAYS, input_of, remarks_on, report_contents, title_of
from gnerf_ns.training.run_summary import (
    Outcome,
    color_contrast,
    outcome_lines,
    phase_of,
    places_lines,
    report_command,
    start_lines,
    unjudged_lines,
)
from gnerf_ns.utils.disk import replace_files, write_whole
from gnerf_ns.utils.errors import InputError, in_short
from gnerf_ns.utils.options import NoHeadline
from gnerf_ns.utils.ranks import Ranks

UNFINISHED_POSES = "unfinished_poses"
"""Folder in which poses are written at first; beside the final one, since paths in it are relative."""


@dataclass
class GNeRFTrainerConfig(RunFolderConfig):
    """`TrainerConfig` whose runs never share a folder, and whose saved paths hold from anywhere."""

    _target: Type = field(default_factory=lambda: GNeRFTrainer)
    """Target class to instantiate."""
    pipeline: NoHeadline[GNeRFPipelineConfig] = field(default_factory=GNeRFPipelineConfig)
    """What is trained, and how."""
    max_num_iterations: Optional[int] = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Steps of a run, with those before a resume; None: by the schedule."""

    def setup(self, **kwargs: Any) -> Any:
        """Build the trainer."""
        # Rates follow the training steps: through phase A, where the poses' optimizer has nothing to do yet, too.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        return super().setup(**kwargs)

    def set_timestamp(self) -> None:
        """Look at the number of devices, before anything is written; then name the run and claim its folder.

        Raises:
            InputError: there are not so many devices; see also `RunFolderConfig.set_timestamp`.
        """
        count, there = self.machine.num_devices * self.machine.num_machines, torch.cuda.device_count()
        if count > 1 and self.machine.num_devices > there:
            raise InputError(
                f"--machine.num-devices {self.machine.num_devices}: each process needs a CUDA GPU of its own, and this "
                f"machine has {there}."
            )
        refuse_adversaries_on_several(count, self.pipeline)
        super().set_timestamp()

    def set_experiment_name(self) -> None:
        """Name the experiment after the folder of the data (or a video), given as ``.`` or to the dataparser, too."""
        if self.experiment_name is None:
            datamanager = cast(UnposedDataManagerConfig, self.pipeline.datamanager)
            data = datamanager.data or datamanager.dataparser.data
            is_listing = data.suffix == ".json" and data.is_file()
            folder = Path(os.path.abspath(data.parent if is_listing else data))
            self.experiment_name = folder.stem or "unnamed"


class AveragingOptimizers(Optimizers):
    """`Optimizers` whose steps are the same in all processes that train together: by the mean of their gradients."""

    def __init__(self, config: Dict[str, Any], param_groups: Dict[str, Any], ranks: Ranks) -> None:
        super().__init__(config, param_groups)
        self._ranks = ranks

    def optimizer_scaler_step_some(self, grad_scaler: GradScaler, param_groups: List[str]) -> None:
        """Average gradients, and take a step."""
        self._ranks.average_gradients(parameter for name in param_groups for parameter in self.parameters.get(name, []))
        super().optimizer_scaler_step_some(grad_scaler, param_groups)


class GNeRFTrainer(WholeRunTrainer):
    """Overrides hooks of `Trainer`: how long a run is, how it goes on, and what is written beside its checkpoints."""

    config: GNeRFTrainerConfig
    pipeline: GNeRFPipeline
    _is_unjudged: bool = False
    """Whether it has ended, but how far its poses can be trusted could not be found out."""

    def _set_up(self, test_mode: Literal["test", "val", "inference"]) -> None:
        before = self.config.resumed_config() if self.config.is_resumed else None
        if self.config.is_resumed:
            self._begin_as(before)
        elif test_mode == "val":  # begun anew from the config.yml of a run that left no checkpoint
            self.config.pipeline.begins_with = None
        super()._set_up(test_mode)
        if self.config.is_resumed:
            self._check_steps_of(before)
        if test_mode == "val" and self.pipeline.ranks.is_first:
            # With what was found out from the images, as evaluation has to build it.
            write_whole(self.base_dir / CONFIG, yaml.dump(self.config))

    def _begin_as(self, before: Optional[Any]) -> None:
        """What followed from the beginning of a resumed run, by its configuration, still holds."""
        pipeline = self.config.pipeline
        pipeline.matching = "off"
        if before is not None:
            pipeline.begins_with, pipeline.poses = before.pipeline.begins_with, before.pipeline.poses
            keep_sizes(pipeline, before.pipeline)

    def _check_steps_of(self, before: Optional[Any]) -> None:
        """Until November 2026, few images were left out in steps of their own, which there are no more.

        Raises:
            InputError: a run that began so cannot go on.
        """
        if hasattr(getattr(before, "pipeline", None), "pose_trials") and self.pipeline.schedule.config.leave_out_rounds:
            raise InputError(
                "This run of few images began with an older gnerf_ns, whose steps are not those of today; train anew "
                "without --load-dir, which takes half the time, or go on with the older one."
            )

    def setup_optimizers(self) -> Optimizers:
        """Length, where left open, and learning rates follow the pipeline's schedule, which knows the images.

        Raises:
            InputError: there is no optimizer for what is to be trained.
        """
        if self.config.max_num_iterations is None:
            self.config.max_num_iterations = self.pipeline.schedule.total_steps
        groups = self.pipeline.get_param_groups()
        missing = sorted(groups.keys() - self.config.optimizers.keys())
        if missing:
            raise InputError(
                f"{self.config.method_name} has no optimizer for {', '.join(missing)}; use gnerf-ns-adversarial."
            )
        followed = following(self.config.optimizers, lambda: self.pipeline.schedule)
        return AveragingOptimizers(followed, groups, self.pipeline.ranks)

    def _say_what_begins(self, display: ProgressWriter) -> None:
        places = display.places
        if self.config.is_tensorboard_enabled():
            places.append(f"tensorboard --logdir {shown_path(self.base_dir)}")
        schedule = self.pipeline.schedule
        side = schedule.config.settled_image_side[1]
        sizes = sizes_in_words(self.config.pipeline, self.pipeline.device.type, side, schedule.phase_b_steps)
        say(start_lines(input_of(self.pipeline), schedule.attempts_left + 1, places, sizes))

    def _watched(self) -> Watched:
        pipeline, total = self.pipeline, int(self._last_step) + 1
        num_held_out = len(pipeline.datamanager.eval_dataset)
        run_time = RunTime(len(pipeline.cameras), num_held_out, self._start_step, total, self.config.steps_per_save)
        return Watched(
            phase=lambda step: phase_of(pipeline.schedule, step, total),
            run_time=run_time,
            first_step=self._start_step,
            num_steps=total,
            replan=lambda: run_time.set_schedule(pipeline.schedule),
            poses=lambda: pipeline.cameras.poses("train"),
            contrast=color_contrast(pipeline.scene.image_set, pipeline.model.evaluation_background),
        )

    def _save_checkpoint(self, step: int) -> None:
        is_last = step >= self._last_step
        if not is_last:
            self.pipeline.trust.clear()
        super()._save_checkpoint(step)
        if is_last:  # only now: whatever fails here, what was trained is saved
            self.pipeline.estimate_eval_poses(step)
            self._judge(step)
            super()._save_checkpoint(step)
        unfinished = self.base_dir / UNFINISHED_POSES
        try:
            self.write_poses(unfinished)
            replace_files(unfinished, self.base_dir / POSES_FOLDER)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        if is_last and not self._is_unjudged:
            self._write_report()

    def _judge(self, step: int) -> None:
        try:
            self.pipeline.judge(step)
            self._is_unjudged = False
        except Exception as error:  # of whatever kind: the run is done all the same
            self.pipeline.trust.clear()
            self._is_unjudged = True
            self._say_what_failed("How far the poses can be trusted could not be found out", error)

    def _write_report(self) -> None:
        max_rays = None if self.pipeline.device.type == "cuda" else CPU_RAYS
        try:
            contents = report_contents(self.pipeline, self.base_dir, title_of(self.config), max_rays)
            write_report(self.base_dir / POSES_FOLDER / REPORT, contents)
        except Exception as error:  # of whatever kind: the verdict is to be said
            self._say_what_failed("The report could not be made", error)

    def _say_what_failed(self, what: str, error: Exception) -> None:
        command = report_command(shown_path(self.base_dir))
        say([Line(f"{what} ({in_short(error)}); try again with: {command}", "yellow", is_copied=True)])

    def write_poses(self, folder: Path) -> None:
        """Write the estimated cameras and the surface for other programs, and plots of where the cameras are.

        Held-out images are in the files once their poses have been estimated: at the end of training.

        Args:
            folder: which gets what `write_results` writes, `cameras.png` and `distribution.png`.
        """
        pipeline, datamanager = self.pipeline, self.pipeline.datamanager
        splits: Dict[Split, UnposedDataset] = {"train": datamanager.train_dataset}
        if pipeline.cameras.has_eval_poses:
            splits["eval"] = datamanager.eval_dataset
        frames = {}
        for split, dataset in splits.items():
            remarks = [status.entries for status in pipeline.trust.statuses.get(split, [])]
            cameras = pipeline.cameras.estimated(split, dataset.file_cameras)
            frames["train" if split == "train" else "test"] = dataset.file_frames(cameras, remarks or None)
        points = surface_points(pipeline.model, pipeline.scene.image_set, pipeline.cameras.poses("train"))
        write_results(folder, frames, points)
        save_image(folder / "cameras.png", (pipeline.evaluation.plot_poses() * 255).round().byte().numpy())
        save_image(folder / "distribution.png", pipeline.plot_pose_distribution())

    def _say_how_it_ended(self) -> None:
        """Say what the run has come to.

        A program that trains as a part of what it does says itself where the results are.
        """
        if not self.pipeline.ranks.is_first:
            return
        if not (self.pipeline.trust.statuses or self._is_unjudged):
            self._say_where_it_stopped()
            return
        if self._is_unjudged:
            self.has_failed = self.pipeline.restarts.has_failed
            lines = unjudged_lines(self._seconds(), self.has_failed)
        else:
            with self.train_lock:  # the viewer's thread switches the model's mode
                outcome = self._outcome()
            self.has_failed = outcome.verdict.level == "failed"
            lines = outcome_lines(outcome)
        self._say_nothing_more()
        say(lines)
        if self._display is not None:
            say(places_lines(self.base_dir, POSES_FOLDER))

    def _seconds(self) -> Optional[float]:
        return None if self._display is None else self._display.elapsed

    def _outcome(self) -> Outcome:
        pipeline, trust = self.pipeline, self.pipeline.trust
        statuses, held_out, verdict = trust.statuses["train"], trust.statuses.get("eval", ()), trust.verdict
        assert verdict is not None
        remarks = [Line(text, "yellow" if text in trust.remarks else "") for text in remarks_on(pipeline)]
        pipeline.publish_cameras()
        held_out_psnr = pipeline.evaluation.held_out_psnr()
        return Outcome(
            verdict=verdict,
            seconds=self._seconds(),
            statuses=statuses,
            held_out=held_out,
            held_out_psnr=held_out_psnr,
            phase_a_explained=pipeline.restarts.kept_explained,
            remarks=remarks,
        )
