"""Which of nerfstudio's own options the help of our methods shows, and in which order.

A field that is hidden is still one: a config.yml may set it, and those of older runs load.

tyro shows a group of options for each configuration within another, in the order of fields, and the outermost first.
What people use most is to be on the first screen; so those groups have no headlines, and few options each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Dict, Literal, Optional, TypeVar

import tyro
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

T = TypeVar("T")

NoHeadline = Annotated[T, tyro.conf.arg(help="")]
"""A configuration whose options are shown without what it is."""


@dataclass
class OneDeviceConfig(MachineConfig):
    """Which devices a run uses: one, unless it is told otherwise."""

    seed: int = 42
    """Another one may help a run that failed."""
    # Sizes follow it (gnerf_ns/training/recipe.py).
    device_type: tyro.conf.Suppress[Literal["cpu", "cuda", "mps"]] = "cuda"
    num_devices: tyro.conf.Suppress[int] = 1
    num_machines: tyro.conf.Suppress[int] = 1
    machine_rank: tyro.conf.Suppress[int] = 0
    dist_url: tyro.conf.Suppress[str] = "auto"


@dataclass
class TrainingViewerConfig(ViewerConfig):
    """The viewer of a training: where it is found, and how long it stays."""

    relative_log_filename: tyro.conf.Suppress[str] = "viewer_log_filename.txt"
    websocket_port_default: tyro.conf.Suppress[int] = 7007
    num_rays_per_chunk: tyro.conf.Suppress[int] = 1 << 13
    max_num_display_images: tyro.conf.Suppress[int] = 512
    quit_on_train_completion: bool = True
    """Whether the command ends when training is done; else the viewer stays."""
    image_format: tyro.conf.Suppress[Literal["jpeg", "png"]] = "jpeg"
    jpeg_quality: tyro.conf.Suppress[int] = 75
    camera_frustum_scale: tyro.conf.Suppress[float] = 0.1
    default_composite_depth: tyro.conf.Suppress[bool] = True


@dataclass
class FirstOptions:
    """Names of those that the help shows first: a dataclass has the fields of the last of its bases first."""

    data: Optional[Path] = None
    load_dir: Optional[Path] = None
    output_dir: Path = Path("outputs")
    experiment_name: Optional[str] = None
    timestamp: str = "{timestamp}"
    vis: str = "wandb"
    max_num_iterations: int = 0
    load_config: Optional[Path] = None
    machine: MachineConfig = field(default_factory=MachineConfig)
    pipeline: VanillaPipelineConfig = field(default_factory=VanillaPipelineConfig)


@dataclass
class RunOptions(TrainerConfig, FirstOptions):
    """`TrainerConfig` without what has no effect in our methods, or is settled by them."""

    data: Optional[Path] = None
    """Folder of images, a video, or a transforms.json."""
    load_dir: Optional[Path] = None
    """Go on from the checkpoints in this folder: RUN/nerfstudio_models."""
    output_dir: Path = Path("outputs")
    """Runs are in EXPERIMENT/METHOD/TIMESTAMP in this folder."""
    experiment_name: Optional[str] = None
    """None for the name of the data's folder."""
    timestamp: str = "{timestamp}"
    """The run's name; by default, the second in which it starts."""
    vis: Literal[  # pyright: ignore[reportIncompatibleVariableOverride]
        "viewer", "tensorboard", "viewer+tensorboard", "wandb", "viewer+wandb", "comet", "viewer+comet"
    ] = "wandb"
    """What to watch the training by."""
    machine: NoHeadline[MachineConfig] = field(default_factory=OneDeviceConfig)
    viewer: ViewerConfig = field(default_factory=TrainingViewerConfig)
    """The viewer of a training."""
    load_config: Optional[Path] = None
    """Train what a config.yml says; other options are not looked at."""
    method_name: tyro.conf.Suppress[Optional[str]] = None
    project_name: tyro.conf.Suppress[Optional[str]] = "nerfstudio-project"
    prompt: tyro.conf.Suppress[Optional[str]] = None
    relative_model_dir: tyro.conf.Suppress[Path] = Path("nerfstudio_models")
    load_scheduler: tyro.conf.Suppress[bool] = True
    load_step: tyro.conf.Suppress[Optional[int]] = None
    load_checkpoint: tyro.conf.Suppress[Optional[Path]] = None
    logging: tyro.conf.Suppress[LoggingConfig] = field(default_factory=LoggingConfig)
    steps_per_save: int = 1000
    """Between two checkpoints; each takes the place of the one before."""
    steps_per_eval_batch: tyro.conf.Suppress[int] = 500
    steps_per_eval_image: tyro.conf.Suppress[int] = 500
    steps_per_eval_all_images: tyro.conf.Suppress[int] = 25_000
    mixed_precision: tyro.conf.Suppress[bool] = False
    save_only_latest_checkpoint: tyro.conf.Suppress[bool] = True
    use_grad_scaler: tyro.conf.Suppress[bool] = False
    log_gradients: tyro.conf.Suppress[bool] = False
    gradient_accumulation_steps: tyro.conf.Suppress[Dict[str, int]] = field(default_factory=dict)
    start_paused: tyro.conf.Suppress[bool] = False


@dataclass
class ModelOptions(ModelConfig):
    """`ModelConfig` without what has no effect in our models."""

    enable_collider: tyro.conf.Suppress[bool] = False
    collider_params: tyro.conf.Suppress[Optional[Dict[str, float]]] = None
    loss_coefficients: tyro.conf.Suppress[Dict[str, float]] = field(default_factory=dict)
    prompt: tyro.conf.Suppress[Optional[str]] = None
