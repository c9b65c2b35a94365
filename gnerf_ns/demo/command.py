"""`gnerf-demo`: renders a scene of our own, trains on its images without their poses, and shows the result."""

import copy
import math
import random
import shlex
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np
import torch
import tyro
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.demo.film import orbit_poses, render_frames
from gnerf_ns.demo.scene import ProceduralSceneConfig, render_procedural_scene
from gnerf_ns.models.image_metrics import without_lpips
from gnerf_ns.training.run_costs import step_cost
from gnerf_ns.utils.console import progress_display
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.film import write_film
from gnerf_ns.utils.system_libraries import export_advice

if TYPE_CHECKING:
    from rich.progress import Progress

    from gnerf_ns.training.trainer import GNeRFTrainer, GNeRFTrainerConfig

FAILED = 1
"""Exit status where the poses are wrong."""

RESULTS = ("orbit.mp4", "cameras.png", "distribution.png", "transforms.json")
"""Files that the report names, if they were written."""


@dataclass
class Demo:
    """Render a small scene, train on its images without their poses, evaluate, and film the result."""

    output_dir: Path = Path("gnerf-demo-output")
    """Folder for the scene, the run and the results."""
    method: str = "gnerf-ns-tiny"
    """Name of the method that trains."""
    max_num_iterations: Optional[int] = None
    """Training steps; None: the method's own number."""
    seed: int = 42
    """Random seed of training."""
    film_frames: int = 60
    """Frames of the film; 0: no film."""
    film_side: int = 128
    """Side of the film, in pixels."""
    scene: ProceduralSceneConfig = field(default_factory=ProceduralSceneConfig)
    """The scene and the cameras that see it."""

    def main(self) -> bool:
        """Run the demo; return True if nothing speaks against the poses that were found.

        Raises:
            InputError: no such method is installed, or the scene cannot be rendered or evaluated.
        """
        began = time.monotonic()
        config = trainer_config(self.method)
        self.scene.check()
        folder = self.output_dir.resolve()
        config.data = config.pipeline.datamanager.data = folder / "scene"
        config.output_dir, config.experiment_name = folder / "runs", "demo"
        config.machine.seed = self.seed
        config.max_num_iterations = self.max_num_iterations
        config.set_timestamp()
        with progress_display() as progress, without_lpips():
            task = progress.add_task("Rendering images", total=self.scene.num_train + self.scene.num_test)
            render_procedural_scene(config.data, self.scene, lambda done, total: progress.update(task, completed=done))
            trainer = train(config, progress)
            figures = evaluate(trainer, progress)
            if self.film_frames:
                self._write_film(trainer, folder / "orbit.mp4", progress)
        trainer.write_poses(folder)
        seconds = time.monotonic() - began
        CONSOLE.print(
            "\n".join(report(config, figures, folder, seconds)), markup=False, highlight=False, soft_wrap=True
        )
        return not (trainer.has_failed or figures["mirrored"])

    def _write_film(self, trainer: "GNeRFTrainer", path: Path, progress: "Progress") -> None:
        task = progress.add_task("Filming an orbit", total=self.film_frames)
        fov_rad = math.radians(self.scene.fov_deg)
        poses = trainer.pipeline.cameras.up_direction.from_z_up(orbit_poses(self.film_frames, fov_rad))
        frames = render_frames(
            trainer.pipeline.model, poses, fov_rad, self.film_side, on_frame=lambda: progress.advance(task)
        )
        write_film(path, frames)


def trainer_config(method: str) -> "GNeRFTrainerConfig":
    """A copy of an installed method's configuration that trains without a viewer and without printing a table.

    Raises:
        InputError: no such method is installed.
    """
    # As nerfstudio does it: nothing in the package imports its method configurations.
    installed = {point.name: point for point in entry_points(group="nerfstudio.method_configs")}
    if method not in installed:
        raise InputError(f"No method is called {method!r}; installed are {', '.join(sorted(installed))}.")
    config = copy.deepcopy(installed[method].load().config)
    config.vis = "tensorboard"
    config.logging.local_writer.enable = False
    return config


def train(config: Any, progress: "Progress") -> "GNeRFTrainer":
    """Train as `ns-train` does, with a line in the progress display."""
    config.save_config()
    random.seed(config.machine.seed)
    np.random.seed(config.machine.seed)  # noqa: NPY002 (nerfstudio draws from the global generators)
    torch.manual_seed(config.machine.seed)
    trainer: Any = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    schedule, num_images = trainer.pipeline.schedule, len(trainer.pipeline.cameras)
    costs = [step_cost(schedule.at(step), num_images) for step in range(trainer.config.max_num_iterations)]
    task = progress.add_task("Training", total=sum(costs))
    trainer.callbacks.append(
        TrainingCallback(
            [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], lambda step: progress.advance(task, costs[step])
        )
    )
    trainer.train()
    return trainer


def evaluate(trainer: "GNeRFTrainer", progress: "Progress") -> Dict[str, float]:
    """Metrics of `ns-eval`, by name."""
    task = progress.add_task("Evaluating", total=None)
    trainer.pipeline.eval()
    figures = trainer.pipeline.get_average_eval_image_metrics()
    progress.update(task, total=1, completed=1)
    return figures


def report(config: "GNeRFTrainerConfig", figures: Dict[str, float], folder: Path, seconds: float) -> List[str]:
    """Lines with the results, their files, and commands that show more.

    Args:
        config: configuration of the run.
        figures: metrics from `evaluate`.
        folder: folder of the `RESULTS`.
        seconds: duration of the demo.
    """
    run = config.get_base_dir()
    load = f"--load-config {shlex.quote(str(run / 'config.yml'))}"
    mirrored = "; the scene is mirrored" if figures["mirrored"] else ""
    lines = [
        "",
        f"Done in {seconds / 60.0:.1f} minutes.",
        f"  poses: {figures['rotation_error_deg_median']:.2f} degrees median error, "
        f"{figures['rotation_error_deg_max']:.2f} at most, "
        f"{100.0 * figures['rotation_under_5deg']:.0f} % under 5 degrees{mirrored}",
        f"  held-out images: PSNR {figures['psnr']:.1f} dB with their poses estimated, "
        f"{figures['psnr_aligned']:.1f} dB at the true poses",
        "",
        *(f"  {path}" for path in map(folder.joinpath, RESULTS) if path.exists()),
        "",
        "See more:",
        f"  ns-viewer {load}",
        f"  ns-render interpolate {load} --output-path {shlex.quote(str(folder / 'interpolate.mp4'))}",
        f"  ns-export pointcloud {load} --output-dir {shlex.quote(str(folder / 'pointcloud'))} --normal-method open3d",
        f"  gnerf-export-poses {load} --format colmap --output {shlex.quote(str(folder / 'colmap'))}",
    ]
    advice = export_advice()
    return lines if advice is None else [*lines, f"  ({advice})"]


def entrypoint() -> None:
    """Console command."""
    if not tyro.cli(Demo, description=__doc__).main():
        sys.exit(FAILED)
