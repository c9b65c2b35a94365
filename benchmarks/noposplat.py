"""What trained networks show of held-out made scenes, and where they place the second camera, against simple ways.

python benchmarks/noposplat.py --weights SEED0/network.safetensors SEED1/network.safetensors SEED2/network.safetensors
python benchmarks/noposplat.py --weights network.safetensors --data FOLDER

`FOLDER` holds scenes of one's own (a folder with a transforms.json each; `ns-train gnerf-ns` leaves one in
`estimated_poses/` of a run) or chunks. Of each scene one pair of context views is drawn, always the same. Errors are
then differences from the poses of these files, which are mostly estimates themselves.

Images are of held-out targets between the two context views, at their true poses in the frame of the first camera, the
two being 1 apart, and nothing is optimized on them; where `--alignment-steps` are given, rows are added for which the
pose of each target is optimized on its image first, as in NoPoSplat's tables. Figures are means over scenes and over
files of weights (one a training seed, say). "Without second view" gives the first image and its lens in place of the
second too, and "without lens token" leaves out what the network is told of lenses. "True points" is what a network with
perfect geometry would show: Gaussians at the points that the pixels of made scenes show, in the pixels' colors. Poses
are those of the second context view: medians of the larger of the errors of rotation and of the direction of
translation.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.data.images import ImageSize
from gnerf_ns.models.image_metrics import ImageMetrics
from gnerf_ns.noposplat.checkpoints import load_network
from gnerf_ns.noposplat.evaluation import (
    PoseFinder,
    SceneFigures,
    aligned,
    image_figures,
    poses_from_points,
    refined_poses,
    scene_figures,
)
from gnerf_ns.noposplat.network import NoPoSplatNetwork
from gnerf_ns.noposplat.pose_metrics import AUC_THRESHOLDS_DEG, pose_auc, relative_pose_errors
from gnerf_ns.noposplat.view_cameras import pinhole_views, rendered
from gnerf_ns.scenes.evaluation_sets import (
    OVERLAP_CLASSES,
    OverlapClass,
    drawn_evaluation_set,
    made_evaluation_set,
    overlap_class,
)
from gnerf_ns.scenes.made_scenes import MadeKind, MadeScenes
from gnerf_ns.scenes.scene_data import SceneFolders, find_scenes
from gnerf_ns.scenes.view_sampling import ChosenViews, Example, ExampleConfig, Views, make_example, stacked
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.spherical_harmonics import harmonic_basis
from gnerf_ns.utils.errors import InputError

WRONG_LENS = (0.8, 1.2)
"""Factors of focal lengths that are wrong by 20 %."""

SIFT_CONTRAST, RATIO, MAX_EPIPOLAR_PIXELS = 0.01, 0.8, 1.0
"""Of SIFT: fainter features than by default, as images are small; Lowe's ratio test; and RANSAC's threshold, in pixels
of the image."""

POINT_WIDTH, POINT_OPACITY = 0.4, 0.7
"""Standard deviation, in pixels of the view that saw it, and opacity of a Gaussian at a true point: of widths from 0.4
to 0.8 and opacities 0.7 and 0.95, what shows targets best."""

NUM_TARGETS, DRAWN = 3, 12
"""Images of a scene of files that are compared, at most, and how many are drawn for it: some are drawn twice, or are
those that the network sees."""

METRICS = ImageMetrics()


@dataclass(frozen=True)
class HeldOut:
    """One scene, a batch of one."""

    overlap: Optional[OverlapClass]
    example: Example


@dataclass
class Rows:
    """Figures by what was done."""

    images: Dict[str, List[SceneFigures]] = field(default_factory=dict)
    poses: Dict[str, List[SceneFigures]] = field(default_factory=dict)


# Simple ways


def nearer_view(example: Example) -> Float[Tensor, "targets 3 height width"]:
    """For each target, the context image whose camera is nearer to its own."""
    context, target = example.context, example.target
    distances = torch.cdist(target.camera_to_worlds[0, :, :, 3], context.camera_to_worlds[0, :, :, 3])
    return context.images[0, distances.argmin(dim=1)]


def mean_color(example: Example) -> Float[Tensor, "targets 3 height width"]:
    """That of the context images."""
    color = example.context.images[0].mean(dim=(0, 2, 3))
    return color[:, None, None].expand(example.target.images[0].shape)


def at_true_points(example: Example) -> Gaussians:
    """One Gaussian for each pixel, where what it shows is, as wide as the pixel and of its color."""
    context, points = example.context, example.points
    assert points is not None
    positions = context.camera_to_worlds[:, :, None, None, :, 3]
    focal = context.intrinsics[:, :, None, None, 0, 0] * points.shape[3]
    widths = POINT_WIDTH * torch.linalg.vector_norm(points - positions, dim=-1) / focal
    means = points.flatten(1, 3)
    colors = context.images.movedim(2, -1).flatten(1, 3)
    unturned = means.new_tensor([1.0, 0.0, 0.0, 0.0])
    return Gaussians(
        means=means,
        scales=widths.flatten(1)[..., None].expand_as(means),
        quaternions=unturned.expand(*means.shape[:2], 4),
        opacities=torch.full_like(means[..., 0], POINT_OPACITY),
        harmonics=((colors - 0.5) / harmonic_basis(means[0, :1], 0)[0, 0])[..., None],
    )


def essential_pose(context: Views) -> Float[Tensor, "3 4"]:
    """Camera_to_world of the second of two views by SIFT and an essential matrix (Nistér's five points, RANSAC).

    Args:
        context: of one example; the first camera is the world.

    Returns:
        The pose, whose translation is of length 1; NaN where there are too few matches.
    """
    sift: Any = cv2.SIFT.create(contrastThreshold=SIFT_CONTRAST)
    gray = [
        cv2.cvtColor((255 * image.permute(1, 2, 0)).round().byte().numpy(), cv2.COLOR_RGB2GRAY)
        for image in context.images
    ]
    found = [sift.detectAndCompute(image, None) for image in gray]
    nothing = torch.full((3, 4), math.nan)
    if any(descriptors is None or len(descriptors) < 2 for _, descriptors in found):
        return nothing
    pairs = cv2.BFMatcher().knnMatch(found[0][1], found[1][1], k=2)
    matches = [best for best, second in pairs if best.distance < RATIO * second.distance]
    if len(matches) < 5:
        return nothing
    points = []
    for (keypoints, _), view, index in zip(found, pinhole_views(context), ("queryIdx", "trainIdx"), strict=True):
        pixels = np.array([keypoints[getattr(match, index)].pt for match in matches]) + 0.5
        points.append((pixels - view.center.numpy()) / view.focal.numpy())
    threshold = MAX_EPIPOLAR_PIXELS / float(pinhole_views(context)[0].focal.mean())
    first, second = points
    matrix, agreeing = cv2.findEssentialMat(
        first, second, np.eye(3), method=cv2.RANSAC, prob=0.999, threshold=threshold
    )
    if matrix is None or matrix.shape != (3, 3):
        return nothing
    _, rotation, translation, _ = cv2.recoverPose(matrix, first, second, np.eye(3), mask=agreeing)
    return torch.from_numpy(np.concatenate([rotation.T, -rotation.T @ translation], axis=1)).float()


# The network


def with_lens(example: Example, factor: float) -> Example:
    """Focal lengths of the context views multiplied, for network and poses alike."""
    intrinsics = example.context.intrinsics.clone()
    intrinsics[..., [0, 1], [0, 1]] *= factor
    return replace(example, context=replace(example.context, intrinsics=intrinsics))


def without_second_view(example: Example) -> Example:
    """The first image and its lens, twice."""
    context = example.context
    images, intrinsics = (value[:, [0, 0]] for value in (context.images, context.intrinsics))
    return replace(example, context=replace(context, images=images, intrinsics=intrinsics))


def without_lens_token(network: NoPoSplatNetwork) -> NoPoSplatNetwork:
    """The same weights, but for the encoder of lenses; the given network is not to be used any more."""
    network.backbone.config = replace(network.config, intrinsics="none")  # type: ignore[arg-type]
    return network


def evaluate(path: Path, scenes: Sequence[HeldOut], refinement_steps: int, alignment_steps: int, rows: Rows) -> None:
    """Add figures of one file of weights."""
    network = load_network(path)
    variants: List[Tuple[str, NoPoSplatNetwork, Callable[[Example], Example], Optional[PoseFinder]]] = [
        ("network", network, lambda example: example, poses_from_points),
        ("without second view", network, without_second_view, None),
        *(
            (f"focal lengths {factor - 1.0:+.0%}", network, partial(with_lens, factor=factor), poses_from_points)
            for factor in WRONG_LENS
        ),
    ]
    if network.config.intrinsics == "token":
        unaware = without_lens_token(load_network(path))
        variants.insert(2, ("without lens token", unaware, lambda example: example, poses_from_points))
    if refinement_steps:
        variants.append(
            ("+ refinement", network, lambda example: example, partial(refined_poses, steps=refinement_steps))
        )
    for name, used, change, find_poses in variants:
        for scene in scenes:
            figures = scene_figures(used, change(scene.example), scene.overlap, METRICS, find_poses)
            if name != "+ refinement":
                rows.images.setdefault(name, []).append(figures)
            if find_poses is not None:
                row = "PnP" if name == "network" else f"PnP {name}" if name == "+ refinement" else f"PnP, {name}"
                rows.poses.setdefault(row, []).append(figures)
    if alignment_steps:
        show = partial(aligned, steps=alignment_steps)
        for name, change in (("network", lambda example: example), ("without second view", without_second_view)):
            for scene in scenes:
                figures = scene_figures(network, change(scene.example), scene.overlap, METRICS, show=show)
                rows.images.setdefault(f"{name}, aligned", []).append(figures)


def compare(scenes: Sequence[HeldOut], rows: Rows) -> None:
    """Add figures of the simple ways."""
    for scene in scenes:
        example, overlap = scene.example, scene.overlap
        for name, shown in (
            ("nearer view copied", nearer_view(example)),
            ("mean color", mean_color(example)),
            *(
                (("true points", rendered(at_true_points(example), example.target)[0].clamp(0.0, 1.0)),)
                if example.points is not None
                else ()
            ),
        ):
            figures = image_figures(shown, example.target.images[0], METRICS)
            rows.images.setdefault(name, []).append(SceneFigures(overlap, figures))
        context = Views(*(value[0] for value in vars(example.context).values()))
        to_the_right = torch.cat([torch.eye(3), torch.tensor([[1.0], [0.0], [0.0]])], dim=1)
        for name, pose in (
            ("not turned, to the right", to_the_right),
            ("SIFT + essential matrix", essential_pose(context)),
        ):
            error = relative_pose_errors(pose[None], context.camera_to_worlds[1:]).pose_deg
            rows.poses.setdefault(name, []).append(SceneFigures(overlap, {}, float(error)))


# Tables


def print_tables(rows: Rows, classes: Sequence[OverlapClass]) -> None:
    """As markdown, of all scenes and by class of overlap."""
    copied = {index: figures.images["psnr"] for index, figures in enumerate(rows.images["nearer view copied"])}
    print("\n| images: PSNR, SSIM |", " | ".join(["all", *classes, "better than copied"]), "|")
    print("| --- |" + " --- |" * (len(classes) + 2))
    for name, figures in rows.images.items():
        cells = [_mean_images(figures)] + [
            _mean_images([one for one in figures if one.overlap == each]) for each in classes
        ]
        wins = [one.images["psnr"] > copied[index % len(copied)] for index, one in enumerate(figures)]
        print(f"| {name} |", " | ".join([*cells, f"{sum(wins) / len(wins):.0%}"]), "|")
    limits = ", ".join(f"{limit:g}°" for limit in AUC_THRESHOLDS_DEG)
    print("\n| poses: median of max(R, t) |", " | ".join(["all", *classes, f"AUC@{limits}"]), "|")
    print("| --- |" + " --- |" * (len(classes) + 2))
    for name, figures in rows.poses.items():
        errors = torch.tensor([one.pose_error_deg or 0.0 for one in figures])
        chosen = [torch.tensor([one.overlap == each for one in figures]) for each in classes]
        cells = [_median(errors), *(_median(errors[each]) for each in chosen)]
        areas = ", ".join(f"{area:.2f}" for area in pose_auc(errors).values())
        print(f"| {name} |", " | ".join([*cells, areas]), "|")


def _mean_images(figures: Sequence[SceneFigures]) -> str:
    if not figures:
        return ""
    psnr, ssim = (sum(one.images[name] for one in figures) / len(figures) for name in ("psnr", "ssim"))
    return f"{psnr:.2f} dB, {ssim:.3f}"


def _median(errors: Tensor) -> str:
    return f"{float(errors.quantile(0.5)):.1f}°" if len(errors) else ""


# Scenes


def made(kind: MadeKind, num_scenes: int, size: ImageSize) -> List[HeldOut]:
    """Held-out ones of a kind, with overlaps of all classes."""
    group = MadeScenes(range(num_scenes), kind, size)
    return [
        HeldOut(
            overlap_class(views.overlap), stacked([make_example(group.scene(key), views.views, size, with_points=True)])
        )
        for key, views in made_evaluation_set(group).items()
    ]


def of_files(data: Path, num_scenes: int, size: ImageSize) -> List[HeldOut]:
    """Those of a folder: held-out ones where it is divided, else all of them.

    Scenes without an image between the two that the network sees are left out.
    """
    groups = find_scenes(data, "test")
    if not (data / "test").is_dir():
        known = {key for group in groups for key in group.keys}
        undivided = [group for group in find_scenes(data, "train") if isinstance(group, SceneFolders)]
        groups += [group for group in undivided if not known.intersection(group.keys)]
    of_key = {key: group for group in groups for key in group.keys}
    scenes = []
    for key, views in drawn_evaluation_set(groups, ExampleConfig(size=size, num_targets=DRAWN), num_scenes).items():
        between = sorted(set(views.target) - set(views.context))[:NUM_TARGETS]
        if between:
            example = make_example(of_key[key].scene(key), ChosenViews(views.context, tuple(between)), size)
            scenes.append(HeldOut(overlap_class(views.overlap), stacked([example])))
    if not scenes:
        raise InputError(
            f"{data} has no scene with two images that overlap as those do that networks are trained on, and a third "
            "one between them; give more, or more images of each."
        )
    return scenes


def main(
    weights: Tuple[Path, ...],
    kind: MadeKind = "balls-and-boxes",
    data: Optional[Path] = None,
    num_scenes: int = 100,
    refinement_steps: int = 0,
    alignment_steps: int = 0,
) -> None:
    """Print both tables.

    Args:
        weights: files that trainings have left (network.safetensors).
        kind: what made scenes hold; networks are usually trained on the first kind.
        data: a folder of scenes (with a transforms.json each), or of chunks, instead of made ones.
        num_scenes: held-out scenes, from seed 0 on; of files, no more than so many.
        refinement_steps: of poses, on images; 200 are the command's own. 0 leaves the row out, which takes most of the
            time by far.
        alignment_steps: of the targets' poses, on their images; 0 leaves the rows out, which take long, too.
    """
    torch.set_num_threads(1)
    began = time.process_time()
    side = load_network(weights[0]).config.image_side
    size = ImageSize(side, side)
    scenes = made(kind, num_scenes, size) if data is None else of_files(data, num_scenes, size)
    rows = Rows()
    for path in weights:
        evaluate(path, scenes, refinement_steps, alignment_steps, rows)
    compare(scenes, rows)
    classes: List[OverlapClass] = [each for each in OVERLAP_CLASSES if any(scene.overlap == each for scene in scenes)]
    if data is None:
        counts = ", ".join(f"{sum(scene.overlap == each for scene in scenes)} {each}" for each in classes)
        title = f"{len(scenes)} held-out scenes of {kind} at {side} pixels; overlaps: {counts}"
    else:
        title = (
            f"{len(scenes)} scenes of {data} at {side} pixels, against the poses of its files, which may be estimates"
        )
    print(f"{title}; {len(weights)} networks")
    print_tables(rows, classes)
    print(
        f"\n{time.process_time() - began:.0f} CPU seconds; poses were refined in {refinement_steps} steps, targets "
        f"aligned in {alignment_steps}"
    )


if __name__ == "__main__":
    tyro.cli(main)
