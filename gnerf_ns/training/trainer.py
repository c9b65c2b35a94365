"""The trainer of images without poses: how long a run is, and the poses that it leaves."""

from __future__ import annotations

import os
import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Type, cast

import yaml
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from gnerf_ns.cameras.learned_cameras import Split
from gnerf_ns.cameras.plots import save_image
from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.export.folders import POSES_FOLDER, TRANSFORMS, write_results
from gnerf_ns.export.surface_points import surface_points
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.training.ambiguity import find_ambiguity
from gnerf_ns.training.learning_rates import following
from gnerf_ns.training.pipeline import GNeRFPipeline, GNeRFPipelineConfig, refuse_several_devices
from gnerf_ns.training.pose_status import (
    PoseStatus,
    knows_by_heart,
    pose_statuses,
    sentences,
    shows_most_badly,
    sides_are_alike,
    without_the_field,
)
from gnerf_ns.training.run_folder import RunFolderConfig
from gnerf_ns.training.whole_runs import WholeRunTrainer
from gnerf_ns.utils.checkpoints import latest_checkpoint
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.system_libraries import export_advice

NO_TIMESTAMP = "{timestamp}"
"""nerfstudio's placeholder for the second in which a run starts."""


@dataclass
class GNeRFTrainerConfig(RunFolderConfig):
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
            InputError: the folder cannot be made, or more than one device was asked for.
        """
        refuse_several_devices(self.machine.num_devices * self.machine.num_machines)
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
        """Name the experiment after the folder of the data (or a video), given as ``.`` or to the dataparser, too."""
        if self.experiment_name is None:
            datamanager = cast(UnposedDataManagerConfig, self.pipeline.datamanager)
            data = datamanager.data or datamanager.dataparser.data
            is_listing = data.suffix == ".json" and data.is_file()
            folder = Path(os.path.abspath(data.parent if is_listing else data))
            self.experiment_name = folder.stem or "unnamed"

    def save_config(self) -> None:
        """Save the configuration, unless that would bury a finished run.

        Raises:
            InputError: the run's folder already has checkpoints, and this run is not to go on from one.
        """
        if not self.is_resumed and latest_checkpoint(self.get_checkpoint_dir()) is not None:
            raise InputError(
                f"{self.get_base_dir()} already holds a run; choose another --timestamp or --experiment-name, "
                f"or go on from it with --load-dir {self.get_checkpoint_dir()}."
            )
        self.output_dir = Path(os.path.abspath(self.output_dir))
        super().save_config()


class GNeRFTrainer(WholeRunTrainer):
    """Overrides hooks of `Trainer`: how long a run is, how it goes on, and what is written beside its checkpoints."""

    config: GNeRFTrainerConfig
    pipeline: GNeRFPipeline

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build pipeline and optimizers; if the input cannot be used, nothing is left of the run's folder."""
        try:
            if self.config.is_resumed:
                self._begin_as_before()
            elif test_mode == "val":  # begun anew from the config.yml of a run that left no checkpoint
                self.config.pipeline.begins_with = None
            super().setup(test_mode)
            if test_mode == "val":
                # With what was found out from the images, as evaluation has to build it.
                (self.base_dir / "config.yml").write_text(yaml.dump(self.config), "utf8")
        except InputError:
            self._remove_empty_run()
            raise

    def _begin_as_before(self) -> None:
        """What followed from the beginning of a resumed run still holds."""
        before, pipeline = self.config.resumed_config(), self.config.pipeline
        pipeline.matching = "off"
        if before is not None:
            pipeline.begins_with, pipeline.poses = before.pipeline.begins_with, before.pipeline.poses
            model = cast(GNeRFModelConfig, pipeline.model)
            model.background_color = before.pipeline.model.background_color

    def _remove_empty_run(self) -> None:
        """Remove the run's folder if nothing but its configuration is in it."""
        if {path.name for path in self.base_dir.iterdir()} <= {"config.yml"}:
            shutil.rmtree(self.base_dir)
            with suppress(OSError):  # raised where other runs lie beside it
                for parent in list(self.base_dir.parents)[:2]:
                    parent.rmdir()

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
        return Optimizers(following(self.config.optimizers, lambda: self.pipeline.schedule), groups)

    def _save_checkpoint(self, step: int) -> None:
        is_last = step >= self._last_step
        if is_last:
            self.pipeline.estimate_eval_poses(step)
        super()._save_checkpoint(step)
        statuses = self._pose_statuses() if is_last else {}
        self.write_poses(self.base_dir / POSES_FOLDER, statuses)
        if is_last:
            self._say_what_came_out(statuses)

    def _pose_statuses(self) -> Dict[Split, List[PoseStatus]]:
        """Of all training images, and of all held-out ones."""
        pipeline, datamanager = self.pipeline, self.pipeline.datamanager
        cameras, costs = pipeline.cameras, pipeline.pose_search.costs
        image_set, of_train = pipeline.scene.image_set, pipeline.leave_out.origins
        are_alike = sides_are_alike(of_train)
        statuses: Dict[Split, List[PoseStatus]] = {
            "train": pose_statuses(costs, image_set, cameras.poses("train"), of_train, are_alike)
        }
        if cameras.has_eval_poses:
            held_out = ImageSet(datamanager.eval_images, cameras.eval_lenses)
            origins = pipeline.leave_out.eval_origins
            statuses["eval"] = pose_statuses(costs, held_out, cameras.poses("eval"), origins, are_alike)
        if shows_most_badly(statuses["train"]) or knows_by_heart(statuses["train"], statuses.get("eval", [])):
            return {split: without_the_field(each) for split, each in statuses.items()}
        return statuses

    def write_poses(self, folder: Path, statuses: Optional[Mapping[Split, Sequence[PoseStatus]]] = None) -> None:
        """Write the estimated cameras and the surface for other programs, and plots of where the cameras are.

        Held-out images are in the files once their poses have been estimated: at the end of training.

        Args:
            folder: which gets what `write_results` writes, `cameras.png` and `distribution.png`.
            statuses: what is to be said of each pose; None as long as nothing is known.
        """
        pipeline, datamanager = self.pipeline, self.pipeline.datamanager
        splits: Dict[Split, UnposedDataset] = {"train": datamanager.train_dataset}
        if pipeline.cameras.has_eval_poses:
            splits["eval"] = datamanager.eval_dataset
        frames = {}
        for split, dataset in splits.items():
            remarks = [status.entries for status in (statuses or {}).get(split, [])]
            cameras = pipeline.cameras.estimated(split, dataset.file_cameras)
            frames["train" if split == "train" else "test"] = dataset.file_frames(cameras, remarks or None)
        points = surface_points(pipeline.model, pipeline.scene.image_set, pipeline.cameras.poses("train"))
        write_results(folder, frames, points)
        save_image(folder / "cameras.png", (pipeline.evaluation.plot_poses() * 255).round().byte().numpy())
        save_image(folder / "distribution.png", pipeline.plot_pose_distribution())

    def _say_what_came_out(self, statuses: Mapping[Split, Sequence[PoseStatus]]) -> None:
        advice = export_advice()
        if advice is not None:
            CONSOLE.print(advice)
        folder, pipeline = self.base_dir / POSES_FOLDER, self.pipeline
        poses, plot = escape(str(folder / TRANSFORMS)), escape(str(folder / "cameras.png"))
        CONSOLE.print(f"Estimated poses: {poses}, a plot of them: {plot}")
        for sentence in sentences(
            statuses["train"], pipeline.datamanager.train_dataset.image_filenames, statuses.get("eval", ())
        ):
            CONSOLE.print(sentence, markup=False)
        ambiguity = find_ambiguity(
            pipeline.pose_search, pipeline.scene.image_set, pipeline.cameras.poses("train"), pipeline.scene.prior
        )
        for sentence in ambiguity.sentences:
            CONSOLE.print(f"[yellow]{sentence}")
        errors = pipeline.evaluation.pose_errors()
        if errors is not None:
            summary = errors.summary()
            is_truth = pipeline.config.poses == "unknown"
            CONSOLE.print(
                ("Against the true poses, which training never saw:" if is_truth else "From the poses that were given:")
                + " rotation error "
                f"{summary['rotation_error_deg_median']:.2f}° in the median, "
                f"{summary['rotation_error_deg_max']:.2f}° at most, {summary['rotation_under_5deg']:.0%} under 5°"
                + (", and the solution is mirrored." if errors.mirrored else ".")
            )
