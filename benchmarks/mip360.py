"""Mip-NeRF 360's field beside the hash field: aliasing, photographs with a room, floaters, and what a step costs.

    python benchmarks/mip360.py --data FOLDER_OF_SETS --output FOLDER --parts antialiasing photos floaters cost

One run each, one after the other, at poses that are given and kept, except for the rows without poses, which are
`ns-train` and `ns-eval` as a user runs them. Photographs are small copies of which every eighth is held out
(`photos_against_nerfacto.py`). CPU-seconds are those of training steps alone, without poses those of all.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Literal, Optional, Tuple

import torch
import tyro
from jaxtyping import Float
from photos_against_nerfacto import write_small
from PIL import Image
from torch import Tensor
from torch.nn import functional
from training import machine, table_head, table_row, train_and_evaluate

from gnerf_ns.data.image_set import composite
from gnerf_ns.data.images import area_resize
from gnerf_ns.demo.command import trainer_config

HASH, SMALL, PUBLISHED = "gnerf-ns", "gnerf-ns-mip360-small", "gnerf-ns-mip360"
SIDES = (200, 100, 50, 25)
"""Pixels along a rendering's side; training images have the first."""
Part = Literal["antialiasing", "photos", "floaters", "cost"]
Change = Callable[[Any], None]


@dataclass
class Arguments:
    """What to measure."""

    data: Path
    """Folder of sets: lego200, and those of `photos`."""
    output: Path
    """Where copies, runs and pictures go."""
    parts: Tuple[Part, ...] = ("antialiasing", "photos", "floaters", "cost")
    """Which tables."""
    photos: Tuple[str, ...] = ("fox270", "phone_plush")
    """Sets of photographs."""
    floaters: Tuple[str, ...] = ("llff_fern", "fox270")
    """Sets to train on with distortion loss and without."""
    side: int = 240
    """Longer side of the photographs' copies, in pixels."""
    seed: int = 0
    """Of all runs."""
    published_rays: int = 512
    """Rays of each of the 20 steps of the published size; one step has the published 16,384."""
    options: Tuple[str, ...] = field(default_factory=tuple)
    """Further ones of the small method without poses."""


def main(arguments: Arguments) -> None:
    """Print the tables."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; seed {arguments.seed}, {torch.get_num_threads()} threads", flush=True)
    tables: Dict[Part, Callable[[Arguments], None]] = {
        "antialiasing": antialiasing,
        "photos": photos,
        "floaters": floaters,
        "cost": cost,
    }
    for part in arguments.parts:
        tables[part](arguments)


def antialiasing(arguments: Arguments) -> None:
    """PSNR of renderings smaller than what was trained on, against area-averaged images."""
    print(f"\n{table_head(['method', *(f'{side} px' for side in SIDES), 'falls by', 'CPU s'])}", flush=True)
    for method in (HASH, SMALL):
        trainer, cpu_s = trained(method, arguments.data / "lego200", arguments.seed, at_full_size)
        qualities = [psnr(trainer.pipeline, side / SIDES[0]) for side in SIDES]
        cells = [f"{quality:.2f}" for quality in (*qualities, qualities[0] - qualities[-1])]
        print(table_row([method, *cells, f"{cpu_s:.0f}"]), flush=True)


def photos(arguments: Arguments) -> None:
    """At given poses with as many rays, and as much time, as the hash field; and without poses."""
    columns = ["set", "method", "poses", "steps", "rays", "psnr", "median °", "max °", "CPU s"]
    print(f"\n{table_head(columns)}", flush=True)
    for name in arguments.photos:
        data = copies(arguments, name)
        theirs, hash_s = trained(HASH, data, arguments.seed)
        steps, rays = theirs.pipeline.schedule.phase_b_steps, theirs.pipeline.config.photometric.rays_per_step
        as_many = round(steps * rays / trainer_config(SMALL).pipeline.photometric.rays_per_step)  # type: ignore
        runs = [(HASH, theirs, hash_s)]
        ours, small_s = trained(SMALL, data, arguments.seed, steps_of(as_many))
        runs.append((SMALL, ours, small_s))
        runs.append((SMALL, *trained(SMALL, data, arguments.seed, steps_of(round(as_many * hash_s / small_s)))))
        for method, trainer, cpu_s in runs:
            pipeline = trainer.pipeline
            steps = pipeline.schedule.phase_b_steps
            cells = [str(steps), f"{steps * pipeline.config.photometric.rays_per_step / 1e6:.1f} M"]
            print(
                table_row([name, method, "given", *cells, f"{psnr(pipeline):.2f}", "", "", f"{cpu_s:.0f}"]), flush=True
            )
        for method in (HASH, SMALL):
            options = arguments.options if method == SMALL else ()
            run = train_and_evaluate(data, method, arguments.seed, arguments.output, f"{name}-unposed", options)
            errors = [f"{run.metrics[f'rotation_error_deg_{key}']:.2f}" for key in ("median", "max")]
            cells = [f"{run.metrics['psnr']:.2f}", *errors, f"{run.cost.cpu_s:.0f} in all"]
            print(table_row([name, method, "none", "", "", *cells]), flush=True)


def floaters(arguments: Arguments) -> None:
    """What stands before the scene with distortion loss and without, and pictures of both.

    It stands before the scene if it is nearer than half of the depth that the hash field shows.
    """
    columns = ["set", "distortion loss", "psnr", "weight before the scene", "rays with a tenth of it there"]
    print(f"\n{table_head(columns)}", flush=True)
    for name in arguments.floaters:
        pictures = []
        reference, _ = trained(HASH, copies(arguments, name), arguments.seed, steps_of(500))
        for weight in (trainer_config(SMALL).pipeline.model.distortion_loss_mult, 0.0):  # type: ignore
            trainer, _ = trained(SMALL, copies(arguments, name), arguments.seed, distortion_of(weight))
            near = weight_in_front(trainer.pipeline, reference.pipeline)
            cells = [f"{psnr(trainer.pipeline):.2f}", f"{near.mean():.4f}", f"{(near > 0.1).float().mean():.4f}"]
            print(table_row([name, f"{weight:g}", *cells]), flush=True)
            pictures.append(colors_and_depth(trainer.pipeline))
        side_by_side(pictures, arguments.output / f"floaters-{name}.png")


def cost(arguments: Arguments) -> None:
    """A step of the published size, and that it learns; in a process of its own, for the memory it takes."""
    process = multiprocessing.get_context("spawn").Process(target=published_steps, args=(arguments,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"The published size ended with exit status {process.exitcode}.")


def published_steps(arguments: Arguments) -> None:
    """Print the losses of 20 steps with fewer rays, and what a whole step takes."""
    data = copies(arguments, arguments.photos[0])
    trainer = built(PUBLISHED, data, arguments.seed, rays_of(arguments.published_rays))
    losses = []
    for step in range(20):
        _, loss_dict, _ = trainer.train_iteration(step)
        losses.append(float(loss_dict["photometric_loss"]))
    print(f"\n20 steps of {arguments.published_rays} rays: loss", ", ".join(f"{loss:.3f}" for loss in losses))
    trainer = built(PUBLISHED, data, arguments.seed)
    wall, cpu = time.monotonic(), time.process_time()
    trainer.train_iteration(0)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rays = trainer.pipeline.config.photometric.rays_per_step
    print(
        f"One step of {rays} rays: {time.monotonic() - wall:.0f} s, {time.process_time() - cpu:.0f} CPU s, "
        f"{gib:.1f} GiB at most",
        flush=True,
    )


# Training


def steps_of(count: int) -> Change:
    """Change a configuration's number of steps."""

    def change(config: Any) -> None:
        config.pipeline.schedule.phase_b_steps = count

    return change


def at_full_size(config: Any) -> None:
    """Have a configuration train on images as large as they are from the beginning."""
    config.pipeline.schedule.phase_b_image_side = (SIDES[0], SIDES[0])
    config.pipeline.datamanager.max_image_side = SIDES[0]


def rays_of(count: int) -> Change:
    """Change a configuration's number of rays a step."""

    def change(config: Any) -> None:
        config.pipeline.photometric.rays_per_step = count

    return change


def distortion_of(weight: float) -> Change:
    """Change the weight of a configuration's distortion loss."""

    def change(config: Any) -> None:
        config.pipeline.model.distortion_loss_mult = weight

    return change


def copies(arguments: Arguments, name: str) -> Path:
    """Small copies of a set's photographs."""
    data = arguments.output / "images" / name
    if not data.exists():
        write_small(arguments.data / name, data, arguments.side)
    return data


def built(method: str, data: Path, seed: int, change: Optional[Change] = None) -> Any:
    """A trainer that keeps given poses."""
    config: Any = trainer_config(method)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir = Path(tempfile.mkdtemp(prefix="gnerf-ns-"))
    config.pipeline.poses, config.machine.seed = "fixed", seed
    if change is not None:
        change(config)
    torch.manual_seed(seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.pipeline.train()
    return trainer


def trained(method: str, data: Path, seed: int, change: Optional[Change] = None) -> Tuple[Any, float]:
    """The same after all of its steps, and the CPU-seconds that these took."""
    trainer = built(method, data, seed, change)
    cpu = time.process_time()
    for step in range(trainer.pipeline.schedule.total_steps):
        trainer.train_iteration(step)
    cpu_s = time.process_time() - cpu
    trainer.pipeline.eval()
    return trainer, cpu_s


# What comes out


def held_out(pipeline: Any) -> Iterator[Tuple[Any, Dict[str, Any]]]:
    """Cameras of the held-out images at their given poses, in the field's frame, and the images."""
    errors = pipeline.evaluation.pose_errors()
    poses = errors.similarity.inverse().apply(pipeline.datamanager.eval_ground_truth)
    for index, (camera, batch) in enumerate(pipeline.datamanager.fixed_indices_eval_dataloader):
        camera.camera_to_worlds = poses[index][None].to(camera.camera_to_worlds)
        yield camera, batch


@torch.no_grad()
def psnr(pipeline: Any, scale: float = 1.0) -> float:
    """Mean over held-out images rendered that many times as large, against area-averaged ones, in dB."""
    values = []
    for camera, batch in held_out(pipeline):
        camera.rescale_output_resolution(scale)
        rendered = pipeline.model.get_outputs_for_camera(camera)["rgb"].clamp(0.0, 1.0)
        pixels = batch["image"]
        if pixels.shape[-1] == 4:
            pixels = torch.cat([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], dim=-1)
        truth = composite(pixels, pipeline.model.evaluation_background.to(pixels), channel_dim=-1)
        truth = area_resize(truth.permute(2, 0, 1)[None], *rendered.shape[:2])[0].permute(1, 2, 0)
        values.append(-10.0 * torch.log10(functional.mse_loss(rendered, truth)))
    return float(torch.stack(values).mean())


@torch.no_grad()
def weight_in_front(pipeline: Any, reference: Any, num_rays: int = 4096) -> Float[Tensor, "rays"]:
    """Of random rays of held-out images: how much of what they show is nearer than half of a reference's depth."""
    shares, generator = [], torch.Generator().manual_seed(0)
    for camera, _ in held_out(pipeline):
        bundle = camera.generate_rays(camera_indices=0, keep_shape=True).flatten()
        bundle = bundle[torch.randperm(len(bundle), generator=generator)[:num_rays]]
        depth = reference.model.render(bundle)["depth"]
        near, far = pipeline.model.config.unbounded_planes
        bundle.nears, bundle.fars = (torch.full_like(bundle.origins[:, :1], plane) for plane in (near, far))
        radiance = pipeline.model.radiance(bundle)
        is_near = radiance.ray_samples.frustums.ends[..., 0] < 0.5 * depth
        shares.append((radiance.weights[..., 0] * is_near).sum(dim=1))
    return torch.cat(shares)


@torch.no_grad()
def colors_and_depth(pipeline: Any, count: int = 2) -> List[Float[Tensor, "height width 3"]]:
    """Renderings of the first held-out images, and their disparities."""
    shown = []
    for camera, _ in islice(held_out(pipeline), count):
        outputs = pipeline.model.get_outputs_for_camera(camera)
        disparity = (0.3 / outputs["depth"]).clamp(0.0, 1.0).expand(-1, -1, 3)
        shown += [outputs["rgb"].clamp(0.0, 1.0), disparity]
    return shown


def side_by_side(rows: List[List[Float[Tensor, "height width 3"]]], path: Path) -> None:
    """One row of pictures below another."""
    whole = torch.cat([torch.cat(row, dim=1) for row in rows])
    Image.fromarray((whole * 255).round().byte().cpu().numpy()).save(path)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
