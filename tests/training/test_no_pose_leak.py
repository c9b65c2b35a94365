"""True poses serve evaluation only: with other ones, or with none, training is the same to the last bit."""

import json
import math
import shutil
from pathlib import Path
from typing import List

import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from tiny_run import SCHEDULE, build_pipeline, pipeline_config, state_of, train_steps

from gnerf_ns.training.pipeline import GNeRFPipelineConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig

EVERYTHING = {"leave_out_rounds": 1}
"""What few images have between the phases, too."""

STEPS = range(8)
"""At 3 all images are looked up, at 5 those left out in turn, and at 7 misfits."""


ELSEWHERE = [[1.0, 0.0, 0.0, 3.0], [0.0, 0.0, -1.0, 4.0], [0.0, 1.0, 0.0, 5.0], [0.0, 0.0, 0.0, 1.0]]


def everything_config(folder: Path) -> GNeRFPipelineConfig:
    """All that replaces poses, in one run: look-up, leave-out, misfits."""
    config = pipeline_config(folder, schedule=PhaseScheduleConfig(**{**SCHEDULE, **EVERYTHING}))
    config.misfits.cost_ratio = 0.0
    return config


def with_other_poses(folder: Path, target: Path, matrix: List[List[float]]) -> Path:
    """A copy whose transform matrices are all the same."""
    shutil.copytree(folder, target)
    for path in target.glob("transforms_*.json"):
        meta = json.loads(path.read_text())
        for frame in meta["frames"]:
            frame["transform_matrix"] = matrix
        path.write_text(json.dumps(meta))
    return target


@pytest.fixture(autouse=True)
def one_thread():
    """Parallel sums have no fixed order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def expected(tiny_scene: Path):
    torch.set_num_threads(1)
    pipeline = build_pipeline(everything_config(tiny_scene))
    truth = pipeline.datamanager.train_ground_truth
    assert truth is not None and torch.isfinite(truth).all()
    plans = [pipeline.schedule.at(step) for step in STEPS]
    assert plans[3].searches_all_poses and plans[5].leave_out_rounds == 1 and plans[7].searches_misfit_poses
    return train_steps(pipeline, STEPS), state_of(pipeline)


def assert_same(pipeline, expected) -> None:
    losses, state = expected
    assert train_steps(pipeline, STEPS) == losses
    for name, value in state_of(pipeline).items():
        assert torch.equal(value, state[name]), name


def test_truth_set_aside_is_not_looked_at(tiny_scene: Path, expected):
    pipeline = build_pipeline(everything_config(tiny_scene))
    manager = pipeline.datamanager
    assert manager.train_ground_truth is not None and manager.eval_ground_truth is not None
    manager.train_ground_truth = torch.full_like(manager.train_ground_truth, float("nan"))
    manager.eval_ground_truth = torch.full_like(manager.eval_ground_truth, float("nan"))
    assert_same(pipeline, expected)


def test_other_poses_in_the_files_make_no_difference(tiny_scene: Path, tmp_path: Path, expected):
    folder = with_other_poses(tiny_scene, tmp_path / "elsewhere", ELSEWHERE)
    assert_same(build_pipeline(everything_config(folder)), expected)


def test_a_stock_parser_s_poses_make_no_difference(tiny_scene: Path, tmp_path: Path, expected):
    folder = with_other_poses(tiny_scene, tmp_path / "nan", [[math.nan] * 4] * 4)
    config = everything_config(folder)
    config.datamanager.dataparser = BlenderDataParserConfig(alpha_color=None)  # type: ignore[attr-defined]
    pipeline = build_pipeline(config)
    truth = pipeline.datamanager.train_ground_truth
    assert truth is not None and torch.isnan(truth).all()
    losses = train_steps(pipeline, STEPS)
    assert losses == expected[0]


def test_publishing_poses_makes_no_difference(tiny_scene: Path, expected):
    pipeline = build_pipeline(everything_config(tiny_scene))
    manager = pipeline.datamanager
    nonsense = [dataset.given_cameras[...] for dataset in (manager.train_dataset, manager.eval_dataset)]
    for cameras in nonsense:
        cameras.camera_to_worlds = torch.full_like(cameras.camera_to_worlds, math.nan)

    def publish(step: int) -> None:
        manager.publish_cameras(*nonsense)

    assert train_steps(pipeline, STEPS, publish) == expected[0]
