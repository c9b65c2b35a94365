"""What the report of a run shows: images, renderings, poses and what is said of them, from its pipeline."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import Split
from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.data.dataparser import LENS_ORIGIN_KEY
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.export.colmap_model import image_names
from gnerf_ns.export.surface_points import surface_points
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.report.contents import (
    CloudPoints,
    Headline,
    PoseFigures,
    ReportContents,
    ReportedImage,
    ShownCommand,
    ShownCurve,
)
from gnerf_ns.report.page import PHOTO_SIDE, RENDERING_SIDE
from gnerf_ns.runs.curves import Curves
from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.pose_status import ORIGIN_WORDS, PoseStatus, sentences
from gnerf_ns.training.run_summary import (
    Input,
    background_words,
    color_contrast,
    commands_after,
    start_lines,
    truth_sentence,
)
from gnerf_ns.training.trust import worst_first
from gnerf_ns.utils.console import tracked

CPU_RAYS = 600_000
"""All renderings of a report that a training writes have so many pixels, or about: a few percent of its time. On a CPU,
a hundred square images are rendered at 77 pixels."""
MIN_SIDE = 48
"""Longer side of renderings that still show something, in pixels, however many there are."""

NEAR_SHARE = 0.9
"""Share of the surface points that are near: in unbounded scenes, others are so far away that cameras would be dots."""
NEAR_MARGIN = 1.3
"""So much farther than these, from the middle of all, is still near."""


class _Shown(NamedTuple):
    """The images of a split."""

    split: Split
    image_set: ImageSet
    camera_to_worlds: Float[Tensor, "n 3 4"]
    """In the field's frame."""
    statuses: Sequence[PoseStatus]


def report_contents(pipeline: GNeRFPipeline, run: Path, title: str, max_rays: Optional[int]) -> ReportContents:
    """All that is known of a run whose poses have been judged.

    Args:
        pipeline: of the run.
        run: its folder.
        title: its name.
        max_rays: renderings are shrunk until all of them have about so many pixels; None for no limit.
    """
    datamanager, cameras, trust = pipeline.datamanager, pipeline.cameras, pipeline.trust
    splits = [_Shown("train", pipeline.scene.image_set, cameras.poses("train"), trust.statuses["train"])]
    if cameras.has_eval_poses and "eval" in trust.statuses:
        splits.append(_Shown("eval", pipeline.held_out_images(), cameras.poses("eval"), trust.statuses["eval"]))
    files = [*datamanager.train_dataset.image_filenames, *datamanager.eval_dataset.image_filenames]
    names = image_names(files)
    side = rendering_side(splits[0].image_set, sum(len(each.statuses) for each in splits), max_rays)
    places = [(shown, index) for shown in splits for index in range(len(shown.statuses))]
    statuses = [shown.statuses[index] for shown, index in places]
    renderer = ImageRenderer(pipeline.model)
    images = []
    for place in tracked(worst_first(statuses), "drawing the report"):
        shown, index = places[place]
        images.append(_reported(pipeline, renderer, shown, index, names[place], side))
    return ReportContents(
        title=title,
        images=images,
        headline=None if trust.verdict is None else Headline(trust.verdict.level, trust.verdict.sentence),
        remarks=remarks_on(pipeline),
        not_known=_not_known(statuses),
        facts=_facts(pipeline),
        points=_points(pipeline),
        curves=shown_curves(
            Curves.of_run(run), color_contrast(pipeline.scene.image_set, pipeline.model.evaluation_background)
        ),
        commands=[ShownCommand(purpose, line) for purpose, line in commands_after(Path()).items()],
        commands_place=f"the run’s folder, {Path(*last_parts(run, 3))}",
    )


def last_parts(folder: Path, count: int) -> Tuple[str, ...]:
    """The last parts of a folder's path, without the root: no report says what is above."""
    folder = folder.resolve()
    return folder.relative_to(folder.anchor).parts[-count:]


def remarks_on(pipeline: GNeRFPipeline) -> List[str]:
    """What is said of a judged run besides its verdict."""
    trust = pipeline.trust
    datamanager = pipeline.datamanager
    files, others = datamanager.train_dataset.image_filenames, datamanager.eval_dataset.image_filenames
    said = [*sentences(trust.statuses["train"], files, trust.statuses.get("eval", ()), others), *trust.remarks]
    errors = pipeline.evaluation.pose_errors()
    if errors is not None:
        said.append(truth_sentence(errors, is_truth=pipeline.config.poses == "unknown"))
    return [sentence for sentence in said if trust.verdict is None or sentence != trust.verdict.sentence]


def title_of(config: Any) -> str:
    """What a run is called.

    Args:
        config: its `TrainerConfig`.
    """
    return f"{config.experiment_name}, {config.method_name}, {config.timestamp}"


def rendering_side(image_set: ImageSet, count: int, max_rays: Optional[int]) -> int:
    """Longer side of renderings, in pixels.

    Args:
        image_set: images of their shape.
        count: how many are rendered.
        max_rays: about so many pixels may all of them have; None for no limit.
    """
    if max_rays is None:
        return RENDERING_SIDE
    height, width = image_set.images.height, image_set.images.width
    area = height * width / max(height, width) ** 2
    return min(RENDERING_SIDE, max(MIN_SIDE, int((max_rays / (max(1, count) * area)) ** 0.5)))


def input_of(pipeline: GNeRFPipeline) -> Input:
    """What the run began with."""
    train, images = pipeline.datamanager.train_dataset, pipeline.datamanager.train_images
    datamanager = cast(UnposedDataManagerConfig, pipeline.config.datamanager)
    sizes = Counter(train.file_sizes)
    return Input(
        data=str(datamanager.data or datamanager.dataparser.data),
        num_images=len(train),
        num_held_out=len(pipeline.datamanager.eval_dataset),
        file_size=sizes.most_common(1)[0][0],
        image_side=max(train.image_format.size),
        has_gpu=pipeline.device.type == "cuda" if pipeline.test_mode == "val" else None,
        lens=_lens_words(pipeline),
        background=background_words(bool(train.mask_filenames), images.has_alpha, images.show_surroundings),
    )


def _lens_words(pipeline: GNeRFPipeline) -> str:
    origin = str(pipeline.datamanager.train_dataset.metadata[LENS_ORIGIN_KEY])
    begun = pipeline.config.begins_with
    if begun is not None and begun.lenses:
        origin = f"local matches, which began with {origin}"
    return f"{origin}, refined in training" if pipeline.cameras.focal_scales.is_learned else origin


def _facts(pipeline: GNeRFPipeline) -> List[str]:
    begun_with = input_of(pipeline)
    data, lens = Path(begun_with.data), begun_with.lens
    for folder in (data, data.parent):  # of a transforms.json
        lens = lens.replace(f"{folder}{os.sep}", "")
    begun_with = begun_with._replace(data=Path(os.path.abspath(data)).name, lens=lens)
    facts = [line.text for line in start_lines(begun_with, 1, [])]
    scales = pipeline.cameras.focal_scales
    if scales.is_learned:
        facts.append(f"The focal length came out {float(scales.typical):.3f} times as long as it was at first.")
    begun = "at poses from local matches" if pipeline.config.begins_with is not None else "without any poses"
    if pipeline.config.poses != "unknown":
        begun = "at poses that were given"
    facts.append(f"Training began {begun}.")
    return facts


def _not_known(statuses: Sequence[PoseStatus]) -> List[str]:
    if all(not np.isfinite(status.rotation_sigma_deg) for status in statuses):
        return ["how exact the poses are."]
    return []


# Images


def _reported(
    pipeline: GNeRFPipeline, renderer: ImageRenderer, shown: _Shown, index: int, name: str, side: int
) -> ReportedImage:
    status, pose = shown.statuses[index], shown.camera_to_worlds[index]
    own = torch.tensor([index], device=pipeline.device)

    def rendered(camera_to_world: Float[Tensor, "3 4"]) -> UInt8[np.ndarray, "height width 3"]:
        height, width = shown.image_set.size_at(side)
        poses = camera_to_world[None].to(shown.camera_to_worlds)
        colors = renderer.render_images(poses, shown.image_set.directions, own, height, width)
        return _picture(colors, shown.image_set, index)

    height, width = shown.image_set.size_at(PHOTO_SIDE)
    alone = shown.image_set[own]  # or all others would be brought to this size, too
    photo = alone.resized(height, width, pipeline.model.evaluation_background)
    return ReportedImage(
        name=name,
        camera_to_world=pipeline.cameras.up_direction.to_z_up(pose[None])[0].detach().float().cpu(),
        photo=_picture(photo, shown.image_set, index),
        rendering=rendered(pose),
        alternative=rendered(status.alternative) if status.is_flagged and status.alternative is not None else None,
        is_held_out=shown.split == "eval",
        figures=PoseFigures(
            rotation_sigma_deg=status.rotation_sigma_deg,
            translation_sigma_relative=status.translation_sigma_relative,
            alternative_probability=status.alternative_probability,
            explained=status.explained,
            pose_from=ORIGIN_WORDS[status.origin],
            is_flagged=status.is_flagged,
        ),
    )


def _picture(
    colors: Float[Tensor, "1 3 height width"], image_set: ImageSet, index: int
) -> UInt8[np.ndarray, "height_ width_ 3"]:
    """Bytes, without what is padding of the image."""
    picture = (colors[0].clamp(0.0, 1.0) * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()
    extents = image_set.images.extents
    if extents is None:
        return picture
    rows, columns = (
        _middle(length, float(share)) for length, share in zip(picture.shape, extents[index].flip(0), strict=False)
    )
    return picture[rows, columns]


def _middle(length: int, share: float) -> slice:
    margin = min((length - 1) // 2, round(0.5 * length * (1.0 - share)))
    return slice(margin, length - margin)


# Surface and curves


def _points(pipeline: GNeRFPipeline) -> Optional[CloudPoints]:
    poses = pipeline.cameras.poses("train")
    points = surface_points(pipeline.model, pipeline.scene.image_set, poses)
    upright = pipeline.cameras.up_direction().detach().cpu()
    kept = near(points.positions, poses[..., 3].detach().cpu())
    return CloudPoints(points.positions[kept] @ upright, points.colors[kept]) if bool(kept.any()) else None


def near(positions: Float[Tensor, "points 3"], cameras: Float[Tensor, "n 3"]) -> Bool[Tensor, "points"]:
    """Which points are to be shown with the cameras.

    Args:
        positions: of the points, in scene units.
        cameras: where these stand.
    """
    if len(positions) == 0:
        return torch.zeros(0, dtype=torch.bool)
    middle = positions.median(dim=0).values
    distances = torch.linalg.vector_norm(positions - middle, dim=-1)
    reach = torch.linalg.vector_norm(cameras.to(positions) - middle, dim=-1).max()
    return distances <= torch.maximum(NEAR_MARGIN * distances.quantile(NEAR_SHARE), reach)


def shown_curves(curves: Curves, contrast: Optional[float]) -> List[ShownCurve]:
    """Loss, PSNR and the share of the images' colors that is explained; what was never measured is left out.

    Args:
        curves: as they were kept.
        contrast: mean squared difference of colors from the mean of their image; None where it is not known.
    """
    shown = [ShownCurve("Loss", curves.steps, curves.loss, is_logarithmic=all(value > 0 for value in curves.loss))]
    shown.append(ShownCurve("PSNR of training images, in dB", curves.steps, curves.psnr))
    if contrast is not None:
        explained = 1.0 - 10.0 ** (-np.array(curves.psnr) / 10.0) / max(contrast, 1e-6)
        percent = (100.0 * explained.clip(min=0.0)).tolist()
        shown.append(ShownCurve("Share of the images that is explained, in %", curves.steps, percent))
    return [curve for curve in shown if any(np.isfinite(value) for value in curve.values)]
