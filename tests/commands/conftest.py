"""One finished run for all of nerfstudio's commands."""

import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from analytic_scene import TINY_RADIANCE
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.eval_utils import eval_setup
from tiny_run import build_trainer, trainer_config

from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.trainer import GNeRFTrainerConfig


class FinishedRun(NamedTuple):
    """What training left behind, and the same loaded again."""

    config_path: Path
    pipeline: GNeRFPipeline

    def cameras(self, split: Literal["train", "eval"] = "train") -> Cameras:
        """Estimated cameras."""
        data = self.pipeline.datamanager
        dataset = data.train_dataset if split == "train" else data.eval_dataset
        return self.pipeline.cameras.estimated(split, dataset.given_cameras)


@pytest.fixture(scope="session")
def finished_run(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Twelve steps on a field that starts dense: a ball of fog, opaque enough to be exported."""
    return _finished(trainer_config(tiny_scene, tmp_path_factory.mktemp("finished_run")))


@pytest.fixture(scope="session")
def run_of_training_images(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The same without held-out images."""
    folder = tmp_path_factory.mktemp("run_of_training_images")
    shutil.copytree(tiny_scene, folder / "scene", ignore=shutil.ignore_patterns("*_test.json", "*_val.json"))
    config = trainer_config(folder / "scene", folder)
    datamanager: Any = config.pipeline.datamanager
    datamanager.dataparser = UnposedDataParserConfig(eval_interval=0)
    return _finished(config)


def _finished(config: GNeRFTrainerConfig) -> FinishedRun:
    config.method_name = "gnerf-ns-tiny"  # the commands look it up
    config.pipeline.model.radiance = HashRadianceConfig(**{**TINY_RADIANCE, "average_init_density": 50.0})  # type: ignore
    build_trainer(config).train()
    config_path = config.get_base_dir() / "config.yml"
    return FinishedRun(config_path, eval_setup(config_path, test_mode="inference")[1])  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def same_default_device_and_generator():
    """Commands draw from the global generator; leave it as it was."""
    with torch.random.fork_rng():
        yield
