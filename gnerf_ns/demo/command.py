"""A film of a trained model, seen from a camera that circles it once."""

import copy
import math
import random
import shlex
import time
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from torch import Tensor

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import object_filling_radius
from gnerf_ns.demo.scene import ProceduralSceneConfig, render_procedural_scene
from gnerf_ns.training.schedule import StepPlan
from gnerf_ns.utils.console import progress_display
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.system_libraries import export_advice

FRAMES_PER_SECOND = 20
ELEVATION_DEG = 28.0


def orbit_poses(
    frames: int, fov_rad: float, elevation_deg: float = ELEVATION_DEG, margin: float = 1.0
) -> Float[Tensor, "frames 3 4"]:
    """Poses evenly spaced on a circle around +z that look at the origin; the last frame is one step before the first.

    Args:
        frames: how many.
        fov_rad: field of view, in radians; sets the distance at which the unit sphere fills the image.
        elevation_deg: height above the xy plane, in degrees.
        margin: factor on that distance.
    """
    azimuth = torch.arange(frames) * (2.0 * math.pi / frames)
    elevation = torch.tensor(math.radians(elevation_deg)).expand(frames)
    directions = [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()]
    return look_at(margin * object_filling_radius(fov_rad) * torch.stack(directions, dim=-1))


def render_frames(
    model: Model,
    poses: Float[Tensor, "frames 3 4"],
    fov_rad: float,
    side: int,
    on_frame: Callable[[], None] = lambda: None,
) -> UInt8[np.ndarray, "frames side side 3"]:
    """Square images of a trained model.

    Args:
        model: any nerfstudio model with an `rgb` output.
        poses: camera_to_world matrices.
        fov_rad: field of view, in radians.
        side: pixels on each side.
        on_frame: called after each image.
    """
    focal, center = side / 2.0 / math.tan(fov_rad / 2.0), side / 2.0
    cameras = Cameras(poses, focal, focal, center, center, side, side).to(model.device)
    frames = []
    for number in range(len(poses)):
        rgb = model.get_outputs_for_camera(cameras[number : number + 1])["rgb"]
        frames.append((rgb.clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy())
        on_frame()
    return np.stack(frames)


def write_film(path: Path, frames: UInt8[np.ndarray, "frames height width 3"]) -> None:
    """Writes an mp4 that every browser plays."""
    import mediapy

    path.parent.mkdir(parents=True, exist_ok=True)
    mediapy.write_video(path, frames, fps=FRAMES_PER_SECOND, codec="h264", crf=18)


if TYPE_CHECKING:
    from rich.progress import Progress

    from gnerf_ns.training.trainer import GNeRFTrainer, GNeRFTrainerConfig

PHASE_A_STEP_COST = 2.25
POSE_SEARCH_COST = 60.0
POSE_TRIALS_COST = 1000.0
"""How long a step of phase A, a search for poses and a round of trying others take, in steps of phase B, on a CPU: the
first is half of what was measured with gnerf-ns-tiny when a step had twice as many poses, the second was measured with
it, the third with gnerf-ns and twelve images. Elsewhere they only shape the first guess of the remaining time: the
measured speed soon outweighs them."""

RESULTS = ("orbit.mp4", "cameras.png", "distribution.png", "transforms.json")
"""Files that are worth a look afterwards."""


@dataclass
class Demo:
    """Renders a small scene of our own, trains on its bare images, and shows what came of it."""

    output_dir: Path = Path("gnerf-demo-output")
    """Folder that everything is written into."""
    method: str = "gnerf-ns-tiny"
    """Which method trains."""
    max_num_iterations: Optional[int] = None
    """Training steps; the method's own number if None."""
    seed: int = 42
    """Of training."""
    film_frames: int = 60
    """Images in the film of the result; 0 writes none."""
    film_side: int = 128
    """Pixels on each side of the film."""
    scene: ProceduralSceneConfig = field(default_factory=ProceduralSceneConfig)
    """What is real, and from where."""

    def main(self) -> None:
        """Runs all of it."""
        from nerfstudio.utils.rich_utils import CONSOLE

        began = time.monotonic()
        config = trainer_config(self.method)
        folder = self.output_dir.resolve()
        images = folder / "images"
        config.data = config.pipeline.datamanager.data = images
        config.output_dir, config.experiment_name = folder / "runs", "demo"
        config.machine.seed = self.seed
        config.max_num_iterations = self.max_num_iterations
        config.set_timestamp()
        with progress_display() as progress:
            task = progress.add_task("Rendering images", total=self.scene.num_train + self.scene.num_test)
            render_procedural_scene(images, self.scene, lambda done, total: progress.update(task, completed=done))
            trainer = train(config, progress)
            figures = evaluate(trainer, progress)
            self._write_film(trainer, folder / "orbit.mp4", progress)
        trainer.write_poses(folder)
        seconds = time.monotonic() - began
        CONSOLE.print(
            "\n".join(report(config, figures, folder, seconds)), markup=False, highlight=False, soft_wrap=True
        )

    def _write_film(self, trainer: "GNeRFTrainer", path: Path, progress: "Progress") -> None:
        if not self.film_frames:
            return
        from gnerf_ns.demo.command import orbit_poses, render_frames, write_film

        task = progress.add_task("Filming an orbit", total=self.film_frames)
        fov_rad = math.radians(self.scene.fov_deg)
        frames = render_frames(
            trainer.pipeline.model,
            trainer.pipeline.up_direction.from_z_up(orbit_poses(self.film_frames, fov_rad)),
            fov_rad,
            self.film_side,
            on_frame=lambda: progress.advance(task),
        )
        write_film(path, frames)


def trainer_config(method: str) -> "GNeRFTrainerConfig":
    """A copy of an installed method's configuration, set to train quietly and to return when done.

    Raises:
        InputError: no such method is installed.
    """
    # Looked up where nerfstudio looks: scripts know methods by name only.
    installed = {point.name: point for point in entry_points(group="nerfstudio.method_configs")}
    if method not in installed:
        raise InputError(f"No method is called {method!r}; installed are {', '.join(sorted(installed))}.")
    config = copy.deepcopy(installed[method].load().config)
    config.vis = "tensorboard"
    config.logging.local_writer.enable = False
    return config


def step_cost(plan: StepPlan) -> float:
    """How long a training step is expected to take, in steps of phase B."""
    searches = plan.searches_all_poses or plan.searches_misfit_poses or plan.ends_leave_out_round
    before = (POSE_SEARCH_COST if searches else 0.0) + POSE_TRIALS_COST * plan.pose_trial_rounds
    return before + (PHASE_A_STEP_COST if plan.phase == "A" else 1.0)


def train(config: Any, progress: "Progress") -> "GNeRFTrainer":
    """What `ns-train` does, with a line in the progress display."""
    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation

    config.save_config()
    random.seed(config.machine.seed)
    np.random.seed(config.machine.seed)  # noqa: NPY002 (nerfstudio draws from the global generators)
    torch.manual_seed(config.machine.seed)
    trainer: Any = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    costs = [step_cost(trainer.pipeline.schedule.at(step)) for step in range(trainer.config.max_num_iterations)]
    task = progress.add_task("Training", total=sum(costs))
    trainer.callbacks.append(
        TrainingCallback(
            [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], lambda step: progress.advance(task, costs[step])
        )
    )
    trainer.train()
    return trainer


def evaluate(trainer: "GNeRFTrainer", progress: "Progress") -> Dict[str, float]:
    """The figures that `ns-eval` gives."""
    task = progress.add_task("Evaluating", total=None)
    trainer.pipeline.eval()
    figures = trainer.pipeline.get_average_eval_image_metrics()
    progress.update(task, total=1, completed=1)
    return figures


def report(config: "GNeRFTrainerConfig", figures: Dict[str, float], folder: Path, seconds: float) -> List[str]:
    """Lines that say what came out, where it lies, and how to look further."""
    run = config.get_base_dir()
    load = f"--load-config {shlex.quote(str(run / 'config.yml'))}"
    mirrored = "; the scene came out mirrored" if figures["mirrored"] else ""
    lines = [
        "",
        f"Done in {seconds / 60.0:.1f} minutes.",
        f"  poses: {figures['rotation_error_deg_median']:.2f} degrees median error, "
        f"{figures['rotation_error_deg_max']:.2f} at worst, "
        f"{100.0 * figures['rotation_under_5deg']:.0f} % under 5 degrees{mirrored}",
        f"  held-out images: PSNR {figures['psnr']:.1f} dB with their poses estimated, "
        f"{figures['psnr_aligned']:.1f} dB at the true poses",
        "",
        *(f"  {path}" for path in map(folder.joinpath, RESULTS) if path.exists()),
        "",
        "Look further:",
        f"  ns-viewer {load}",
        f"  ns-render interpolate {load} --output-path {shlex.quote(str(folder / 'interpolate.mp4'))}",
        f"  ns-export pointcloud {load} --output-dir {shlex.quote(str(folder / 'pointcloud'))} --normal-method open3d",
    ]
    advice = export_advice()
    return lines if advice is None else [*lines, f"  ({advice})"]


def entrypoint() -> None:
    """Console command."""
    tyro.cli(Demo, description=__doc__).main()
