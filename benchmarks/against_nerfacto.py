"""Against nerfacto with the true poses: what not knowing the poses costs in image quality.

    python benchmarks/against_nerfacto.py --data LEGO --side 200

Both train on the same pictures, for the same number of rays of photographs (ours needs phase A's besides), on the same
machine. nerfacto has the options that its documentation gives for synthetic pictures, no appearance embedding (it is
blank in evaluation), and the sizes of our field, which a CPU can bear (`--full-size`: its own). Its hash grids are our
compiled ones where there is no GPU: the same values, several times as fast. Its times are without start-up. `psnr` is
the mean over the held-out pictures: nerfacto's at their true poses, ours at estimated ones (`psnr`) and at the true
ones moved into our frame (`psnr_aligned`).
"""

from __future__ import annotations

import copy
import json
import math
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np
import torch
import torchmetrics.image.lpip
import tyro
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.field_components import mlp
from nerfstudio.fields import density_fields
from PIL import Image
from training import machine, table_head, table_row, train_and_evaluate

from gnerf_ns.field_components.compiled_hash_encoding import CompiledHashEncoding
from gnerf_ns.scripts.demo import trainer_config

COLUMNS = ["what", "poses", "psnr", "psnr_aligned", "ssim", "median °", "max °", "train s", "train CPU s"]


@dataclass
class Arguments:
    """What to compare on."""

    data: Path
    """Folder in the Blender layout, all three splits."""
    side: int = 200
    """Size of the files' pictures, in pixels."""
    phase_b_steps: int = 4000
    """Steps of our phase B; nerfacto gets as many rays."""
    full_size: bool = False
    """Give nerfacto the field and the samples of its defaults, not ours."""
    seed: int = 0
    """Of both."""
    output: Optional[Path] = None
    """Where the runs go; a temporary folder by default."""


class NoLPIPS(torch.nn.Module):
    """In place of a metric whose weights nerfacto would download; it is not reported."""

    def __init__(self, **options: Any) -> None:
        super().__init__()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.zeros(())


def main(arguments: Arguments) -> None:
    """Train both and print a markdown table."""
    layout = json.loads((arguments.data / "transforms_train.json").read_text())
    size = Image.open(arguments.data / f"{layout['frames'][0]['file_path']}.png").size
    if size != (arguments.side, arguments.side):
        raise SystemExit(f"The files are {size[0]}x{size[1]}; make smaller ones with degraded_pictures.py.")
    output = arguments.output or Path(tempfile.mkdtemp(prefix="gnerf-ns-"))
    output.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; seed {arguments.seed}; runs in {output}\n\n{table_head(COLUMNS)}", flush=True)
    options = ["--pipeline.datamanager.max-image-side", str(arguments.side)]
    options += ["--pipeline.schedule.phase-b-image-side", "24", str(arguments.side)]
    options += ["--pipeline.schedule.phase-b-steps", str(arguments.phase_b_steps)]
    training = train_and_evaluate(arguments.data, "gnerf-ns", arguments.seed, output, "pose-free", options)
    ours, cost = training.metrics, training.cost
    cells = ["gnerf-ns", "none", f"{ours['psnr']:.2f}", f"{ours['psnr_aligned']:.2f}", f"{ours['ssim']:.3f}"]
    cells += [f"{ours['rotation_error_deg_median']:.2f}", f"{ours['rotation_error_deg_max']:.2f}"]
    print(table_row([*cells, f"{cost.wall_s:.0f}", f"{cost.cpu_s:.0f}"]), flush=True)

    num_rays = arguments.phase_b_steps * our_pipeline().photometric.rays_per_step
    theirs, wall_s, cpu_s = nerfacto(arguments, num_rays, output)
    cells = ["nerfacto", "true", f"{theirs['psnr']:.2f}", "", f"{theirs['ssim']:.3f}", "", ""]
    print(table_row([*cells, f"{wall_s:.0f}", f"{cpu_s:.0f}"]), flush=True)


def our_pipeline() -> Any:
    """Of gnerf-ns, as it is on this machine."""
    return trainer_config("gnerf-ns").pipeline


def nerfacto(arguments: Arguments, num_rays: int, output: Path) -> Tuple[Dict[str, float], float, float]:
    """Train nerfacto on the true poses; its metrics, wall and CPU time in seconds."""
    data, seed = arguments.data, arguments.seed
    mlp.HashEncoding = density_fields.HashEncoding = CompiledHashEncoding  # type: ignore[misc]
    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = NoLPIPS  # type: ignore[misc,assignment]
    config: Any = copy.deepcopy(method_configs["nerfacto"])
    config.data, config.output_dir, config.experiment_name = data, output, "nerfacto"
    config.timestamp, config.vis, config.machine.seed = "run", "tensorboard", seed
    on_gpu = torch.cuda.is_available()
    config.machine.device_type, config.mixed_precision = "cuda" if on_gpu else "cpu", on_gpu
    rays_per_step = 4096
    config.max_num_iterations = math.ceil(num_rays / rays_per_step)
    # Its rates decay over many more steps.
    for optimizer in config.optimizers.values():
        optimizer["scheduler"].max_steps = config.max_num_iterations
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 10**9
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=BlenderDataParserConfig(data=data), train_num_rays_per_batch=rays_per_step
    )
    model = config.pipeline.model
    model.background_color, model.proposal_initial_sampler = "white", "uniform"
    model.near_plane, model.far_plane = 2.0, 6.0
    model.camera_optimizer.mode, model.use_average_appearance_embedding = "off", False
    model.distortion_loss_mult, model.disable_scene_contraction = 0.0, True
    model.use_appearance_embedding = False
    if not arguments.full_size:
        as_large_as_ours(model)
    wall, cpu = time.monotonic(), time.process_time()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (nerfstudio draws from the global generators)
    torch.manual_seed(seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup(test_mode="test")
    trainer.train()
    wall_s, cpu_s = time.monotonic() - wall, time.process_time() - cpu
    return trainer.pipeline.get_average_eval_image_metrics(), wall_s, cpu_s


def as_large_as_ours(model: Any) -> None:
    """Change a nerfacto's configuration to the sizes of our field."""
    radiance = our_pipeline().model.radiance
    model.num_levels, model.max_res = radiance.num_levels, radiance.max_resolution
    model.log2_hashmap_size = radiance.log2_hashmap_size
    model.hidden_dim, model.hidden_dim_color = radiance.hidden_dim, radiance.hidden_dim_color
    model.num_proposal_iterations = 1
    model.num_proposal_samples_per_ray = (radiance.num_proposal_samples,)
    model.num_nerf_samples_per_ray = radiance.num_nerf_samples


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
