"""True poses serve evaluation only: with other ones, or with none, training is the same to the last bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from tiny_run import build_pipeline, pipeline_config, state_of, train_steps

STEPS = range(12)


def with_other_poses(folder: Path, target: Path, value: float) -> Path:
    """A copy whose transform matrices are all the same nonsense."""
    shutil.copytree(folder, target)
    for path in target.glob("transforms_*.json"):
        meta = json.loads(path.read_text())
        for frame in meta["frames"]:
            frame["transform_matrix"] = [[value] * 4] * 4
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
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    truth = pipeline.datamanager.train_ground_truth
    assert truth is not None and torch.isfinite(truth).all()
    return train_steps(pipeline, STEPS), state_of(pipeline)


def assert_same(pipeline, expected) -> None:
    losses, state = expected
    assert train_steps(pipeline, STEPS) == losses
    for name, value in state_of(pipeline).items():
        assert torch.equal(value, state[name]), name


def test_truth_set_aside_is_not_looked_at(tiny_scene: Path, expected):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    manager = pipeline.datamanager
    assert manager.train_ground_truth is not None and manager.eval_ground_truth is not None
    manager.train_ground_truth = torch.full_like(manager.train_ground_truth, float("nan"))
    manager.eval_ground_truth = torch.full_like(manager.eval_ground_truth, float("nan"))
    assert_same(pipeline, expected)


def test_other_poses_in_the_files_make_no_difference(tiny_scene: Path, tmp_path: Path, expected):
    folder = with_other_poses(tiny_scene, tmp_path / "nonsense", 3.0)
    assert_same(build_pipeline(pipeline_config(folder)), expected)


def test_a_stock_parser_s_poses_make_no_difference(tiny_scene: Path, tmp_path: Path, expected):
    folder = with_other_poses(tiny_scene, tmp_path / "nan", float("nan"))
    config = pipeline_config(folder)
    config.datamanager.dataparser = BlenderDataParserConfig(alpha_color=None)  # type: ignore[attr-defined]
    pipeline = build_pipeline(config)
    truth = pipeline.datamanager.train_ground_truth
    assert truth is not None and torch.isnan(truth).all()
    losses = train_steps(pipeline, STEPS)
    assert losses == expected[0]


def test_publishing_poses_makes_no_difference(tiny_scene: Path, expected):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    nonsense = torch.full((7, 3, 4), float("nan"))

    def publish(step: int) -> None:
        pipeline.datamanager.publish_poses(nonsense, nonsense[:2])

    assert train_steps(pipeline, STEPS, publish) == expected[0]
