"""`gnerf-report`: a page with all images of a trained run of any method, and how far their poses can be trusted."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.export.colmap_model import image_names
from gnerf_ns.export.folders import POSES_FOLDER
from gnerf_ns.fields.hash_encoding import use_compiled_hash_grids
from gnerf_ns.localize.scene import load_run, refined_poses
from gnerf_ns.pose_search.image_renderer import RGB_OUTPUTS
from gnerf_ns.report.contents import PoseFigures, ReportContents, ReportedImage, ShownCommand
from gnerf_ns.report.page import PHOTO_SIDE, RENDERING_SIDE, REPORT, check_place, write_report
from gnerf_ns.report.pictures import fitted_size, resized
from gnerf_ns.runs.curves import Curves
from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.run_report import last_parts, report_contents, shown_curves, title_of
from gnerf_ns.training.run_summary import commands_after
from gnerf_ns.utils.checkpoints import find_checkpoint, step_of
from gnerf_ns.utils.console import progress_display
from gnerf_ns.utils.errors import InputError

COMMANDS_OF_ALL = ("ns-viewer", "ns-render")
"""Of the commands that go on from a run of ours, those that serve any method's."""


@dataclass
class Report:
    """Write a page with all images of a run beside their renderings, and what is known of their poses."""

    load_config: Path
    """config.yml of a trained run, of gnerf-ns or any nerfstudio method."""
    output: Optional[Path] = None
    """The page to write; an older one is replaced. None: report.html in the run's folder, with gnerf-ns in
    estimated_poses/."""

    def main(self) -> None:
        """Run.

        Raises:
            InputError: the run cannot be loaded, or the page cannot be written.
        """
        output = self.output
        if output is not None:
            if output.suffix not in (".html", ".htm"):
                raise InputError(f"--output {output} does not end in .html; name the page to write.")
            check_place(output)
        config, pipeline = load_run(self.load_config)
        run = self.load_config.resolve().parent
        is_ours = isinstance(pipeline, GNeRFPipeline)
        if output is None:
            output = (run / POSES_FOLDER if is_ours else run) / REPORT
            check_place(output)
        if isinstance(pipeline, GNeRFPipeline):
            CONSOLE.print("Judging the poses, and drawing the images: a minute or two on a CPU.")
            pipeline.judge(step_of(find_checkpoint(run / config.relative_model_dir)))
            contents = report_contents(pipeline, run, title_of(config), max_rays=None)
        else:
            contents = contents_of_any(pipeline, run, title_of(config))
        write_report(output, contents)
        CONSOLE.print(f"{len(contents.images)} images: {output}", markup=False, highlight=False, soft_wrap=True)


def contents_of_any(pipeline: Any, run: Path, title: str) -> ReportContents:
    """What there is to show of a run of any nerfstudio method, which says nothing of its poses.

    Images are shown in the order of how little of them is explained by the renderings.

    Args:
        pipeline: loaded.
        run: its folder.
        title: its name.

    Raises:
        InputError: its datamanager holds no training images.
    """
    datamanager, model = pipeline.datamanager, pipeline.model
    train, held_out = getattr(datamanager, "train_dataset", None), getattr(datamanager, "eval_dataset", None)
    if train is None or len(train) == 0:
        raise InputError(
            f"{type(datamanager).__name__} holds no training images, of which a report could be made; use a method "
            "whose datamanager has a train_dataset."
        )
    use_compiled_hash_grids(model)
    places = [(train, index) for index in range(len(train))]
    if held_out is not None:  # some dataparsers hold out images that are trained on, too
        known = set(train.image_filenames)
        places += [(held_out, index) for index, file in enumerate(held_out.image_filenames) if file not in known]
    names = image_names([dataset.image_filenames[index] for dataset, index in places])
    cameras = {id(train): copy.deepcopy(train.cameras)}
    cameras[id(train)].camera_to_worlds = refined_poses(model, train.cameras.camera_to_worlds.to(model.device)).cpu()
    images = []
    with progress_display() as progress:
        task = progress.add_task("Drawing the report", total=len(places))
        for (dataset, index), name in zip(places, names, strict=True):
            own = cameras.get(id(dataset), dataset.cameras)[index : index + 1]
            images.append(_reported(model, dataset, index, own, name, is_held_out=dataset is not train))
            progress.advance(task)
    named = Path(*last_parts(run, 4))
    commands = {purpose: line for purpose, line in commands_after(named).items() if line.startswith(COMMANDS_OF_ALL)}
    return ReportContents(
        title=title,
        images=sorted(images, key=_how_much_is_explained),
        order="the least explained first",
        not_known=[
            "how far the poses can be trusted: they are as they were given to this method, or as it corrected them "
            "itself. Runs of gnerf-ns tell.",
            "where the surface is.",
        ],
        facts=[
            f"{len(train)} images to train on, {len(places) - len(train)} held out.",
            f"Model: {type(model).__name__}.",
        ],
        curves=shown_curves(Curves.of_run(run), None),
        commands=[ShownCommand(purpose, line) for purpose, line in commands.items()],
        commands_place=f"the folder that it was trained in, which holds {named}",
    )


def _how_much_is_explained(image: ReportedImage) -> float:
    return image.figures.explained if np.isfinite(image.figures.explained) else -np.inf


def _reported(model: Model, dataset: Any, index: int, camera: Cameras, name: str, is_held_out: bool) -> ReportedImage:
    pixels = dataset.get_image_float32(index)[..., :3].clamp(0.0, 1.0)
    whole = (pixels * 255.0).round().byte().cpu().numpy()
    rendering = _rendered(model, camera)
    explained = np.nan if rendering is None else explained_share(whole, rendering)
    return ReportedImage(
        name=name,
        camera_to_world=camera.camera_to_worlds[0].detach().float().cpu(),
        photo=resized(whole, *fitted_size(whole.shape[1], whole.shape[0], PHOTO_SIDE)),
        rendering=rendering,
        is_held_out=is_held_out,
        figures=PoseFigures(explained=float(explained)),
    )


def _rendered(model: Model, camera: Cameras) -> Optional[UInt8[np.ndarray, "height width 3"]]:
    """What the model shows of a camera, small; None for a model that shows no colors."""
    camera = copy.deepcopy(camera).to(model.device)
    camera.rescale_output_resolution(min(1.0, RENDERING_SIDE / int(max(camera.width.max(), camera.height.max()))))
    with torch.no_grad():
        outputs: Dict[str, Tensor] = model.get_outputs_for_camera(camera)
    colors = [outputs[name] for name in RGB_OUTPUTS if name in outputs]
    return (colors[0].clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy() if colors else None


def explained_share(
    photo: UInt8[np.ndarray, "height width 3"], rendering: UInt8[np.ndarray, "height_ width_ 3"]
) -> float:
    """Share of a photo's contrast that a rendering explains: 1 for all, NaN for a photo without contrast."""
    target = resized(photo, rendering.shape[1], rendering.shape[0]).astype(np.float64)
    contrast = np.square(target - target.mean(axis=(0, 1))).mean()
    return float(1.0 - np.square(target - rendering).mean() / contrast) if contrast > 0.0 else float("nan")


def entrypoint() -> None:
    """Console command."""
    tyro.cli(Report, description=__doc__).main()
