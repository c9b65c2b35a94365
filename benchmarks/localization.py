"""Localize new images in trained runs of any method: success rate, accuracy and time.

    python benchmarks/localization.py --data LEGO --load-configs RUN/config.yml OTHER/config.yml

iNeRF's protocol starts from poses rotated by up to 40 degrees and shifted by up to 0.2 units of the data's frame (5
starts for each image); the other rows start without a pose. Runs that have a frame of their own (ours) are compared
with the true poses after the similarity that fits their training cameras best.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, List, Literal, Optional, Tuple

import roma
import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from training import machine, table_head, table_row

from gnerf_ns.cameras.alignment import fit_similarity
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.localize.localizer import LocalizerConfig, localize_in_scene, perturb_poses
from gnerf_ns.localize.new_images import read_new_images
from gnerf_ns.localize.scene import TrainedScene, load_run
from gnerf_ns.pose_search.pixel_sampling import RaySelection
from gnerf_ns.pose_search.refinement import Localization

COLUMNS = ["method", "started from", "pixels", "seed", "images", "under 5° and 5 %", "under 2°", "median °", "max °"]
COLUMNS += ["said to converge", "s an image", "CPU s", "rays"]

PROTOCOL_DEG, PROTOCOL_SHIFT = 40.0, 0.2
"""iNeRF's (section 4.1), in degrees and in units of the data's frame."""

Init = Literal["given", "retrieval", "prior", "inversion"]


@dataclass
class Arguments:
    """What to measure."""

    data: Path
    """Folder in the Blender layout; its test images are localized."""
    load_configs: Tuple[Path, ...]
    """config.yml of each run."""
    inits: Tuple[Init, ...] = ("given", "retrieval", "prior")
    """Where hypotheses come from; `inversion` needs runs that have an inversion network."""
    ray_selections: Tuple[RaySelection, ...] = ("interest",)
    """Which pixels are compared."""
    seeds: Tuple[int, ...] = (0,)
    """Seeds of the random numbers."""
    starts: int = 5
    """Starting poses of each image, under iNeRF's protocol."""
    max_images: int = 25
    """Test images, evenly spread over all of them."""
    image_side: int = 100
    """Longest side that they are brought to, in pixels."""
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)
    """How, except for the two options above."""


def main(arguments: Arguments) -> None:
    """Print a markdown table."""
    warnings.filterwarnings("ignore")
    rows: List[str] = []
    for path in arguments.load_configs:
        _, pipeline = load_run(path)
        scene = TrainedScene.of(pipeline)
        image_set, truth, unit = test_images(arguments, pipeline, scene)
        for init in arguments.inits:
            for selection in arguments.ray_selections:
                for seed in arguments.seeds:
                    rows.append(measure(arguments, path, scene, image_set, truth, unit, init, selection, seed))
                    print(rows[-1], flush=True)
    print(f"\n{machine()}\n\n{table_head(COLUMNS)}")
    print("\n".join(rows))


def test_images(
    arguments: Arguments, pipeline: Any, scene: TrainedScene
) -> Tuple[ImageSet, Float[Tensor, "n 3 4"], float]:
    """Images, their true poses in the field's frame, and the length there of one unit of the data's frame."""
    listed = arguments.data / "transforms_test.json"
    images = read_new_images(listed, scene.lens, arguments.image_side, scene.renderer.device)
    ((_, image_set),) = images.groups
    assert images.given_poses is not None
    true_training: Optional[Tensor] = getattr(pipeline.datamanager, "train_ground_truth", None)
    if true_training is None:
        truth, unit = scene.world.to_field(images.given_poses), scene.world.scale
    else:
        similarity = fit_similarity(true_training.cpu(), scene.camera_to_worlds.detach().cpu())
        truth, unit = similarity.apply(images.given_poses), float(similarity.scale)
    truth = truth.to(scene.renderer.device)
    count = min(arguments.max_images, len(image_set))
    chosen = torch.linspace(0, len(image_set) - 1, count).round().long().to(scene.renderer.device)
    return image_set[chosen], truth[chosen], unit


def measure(
    arguments: Arguments,
    path: Path,
    scene: TrainedScene,
    image_set: ImageSet,
    truth: Float[Tensor, "n 3 4"],
    unit: float,
    init: Init,
    selection: RaySelection,
    seed: int,
) -> str:
    """One row."""
    torch.manual_seed(seed)
    refinement = replace(arguments.localizer.refinement, ray_selection=selection)
    config = replace(arguments.localizer, init=init, refinement=refinement)
    given: Optional[Tensor] = None
    if init == "given":
        each = torch.arange(len(truth), device=truth.device).repeat_interleave(arguments.starts)
        image_set, truth = image_set[each], truth[each]
        # Shifts are in camera distances.
        center = scene.viewing_shell.center
        distance = float((truth[..., 3] - center).norm(dim=-1).median())
        given = perturb_poses(truth, center, 2, PROTOCOL_DEG, PROTOCOL_SHIFT * unit / distance)[:, 1]
    wall, cpu = time.monotonic(), time.process_time()
    found = localize_in_scene(scene, image_set, config, given)
    wall_s, cpu_s = (time.monotonic() - wall) / len(found), (time.process_time() - cpu) / len(found)
    turns, shifts = errors(scene, found, truth)
    right = (turns < 5.0) & (shifts < 0.05)
    for missed in (~right).nonzero().flatten().tolist():
        one = found[missed]
        print(
            f"missed: image {missed}, {turns[missed]:.1f}° and {shifts[missed]:.1%} off, color error "
            f"{one.error:.3f}, {one.num_agreeing} agree, {'said to converge' if one.converged else 'doubted'}"
        )
    cells = [path.parent.parent.name, init, selection, str(seed), str(len(found))]
    cells += [f"{right.float().mean():.1%}", f"{(turns < 2.0).float().mean():.1%}"]
    cells += [f"{turns.median():.2f}", f"{turns.max():.2f}"]
    cells += [f"{sum(each.converged for each in found)}", f"{wall_s:.1f}", f"{cpu_s:.1f}"]
    return table_row([*cells, f"{sum(each.num_rays for each in found) / len(found):.0f}"])


def errors(
    scene: TrainedScene, found: List[Localization], truth: Float[Tensor, "n 3 4"]
) -> Tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Rotation errors in degrees, and position errors as shares of the scene's radius."""
    poses = torch.stack([localization.camera_to_world for localization in found])
    turns = torch.rad2deg(roma.rotmat_geodesic_distance(poses[..., :3], truth[..., :3]))
    return turns, (poses[..., 3] - truth[..., 3]).norm(dim=-1) / scene.viewing_shell.radius


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
