"""Overlap of views by their depths, its classes, and files that say which views are evaluated."""

import json
from pathlib import Path

import pytest
import torch

from gnerf_ns.data.images import ImageSize
from gnerf_ns.scenes.evaluation_sets import (
    EvaluationViews,
    depth_overlap,
    drawn_evaluation_set,
    made_evaluation_set,
    overlap_class,
    read_evaluation_set,
    share_seen,
    write_evaluation_set,
)
from gnerf_ns.scenes.made_scenes import NUM_TRAINING_FRAMES, MadeScenes
from gnerf_ns.scenes.scene_data import SceneCameras
from gnerf_ns.scenes.view_choice import GapRule
from gnerf_ns.scenes.view_sampling import ExampleConfig
from gnerf_ns.utils.errors import InputError

SMALL = ImageSize(24, 24)


def before_a_wall(shift: float, forward: float = 0.0) -> SceneCameras:
    """Two cameras that look along z with a field of view of 90 degrees."""
    poses = torch.eye(4, dtype=torch.float64)[:3].repeat(2, 1, 1)
    poses[1, 0, 3], poses[1, 2, 3] = shift, forward
    matrix = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    return SceneCameras(matrix.repeat(2, 1, 1), poses)


@pytest.mark.parametrize(("shift", "overlap"), [(0.0, 1.0), (1.0, 0.75), (-2.0, 0.5), (4.5, 0.0)])
def test_overlap_before_a_wall(shift: float, overlap: float):
    # At distance 2 the picture is 4 wide.
    depths = torch.full((2, 32, 40), 2.0, dtype=torch.float64)
    assert depth_overlap(depths, before_a_wall(shift)) == pytest.approx(overlap)


def test_the_smaller_share_counts():
    # From half as far away, a quarter of the wall is seen.
    depths = torch.stack([torch.full((32, 32), 2.0), torch.full((32, 32), 1.0)]).double()
    cameras = before_a_wall(0.0, forward=1.0)
    assert float(share_seen(depths, cameras)) == pytest.approx(0.25)
    assert depth_overlap(depths, cameras) == pytest.approx(0.25)
    back = SceneCameras(*(column.flip(0) for column in cameras))
    assert float(share_seen(depths.flip(0), back)) == 1.0


def test_what_is_hidden_is_not_seen():
    depths = torch.full((2, 32, 32), 2.0, dtype=torch.float64)
    depths[1, :, :16] = 0.5  # something stands before the left half of the second view
    assert float(share_seen(depths, before_a_wall(0.0))) == pytest.approx(0.5)


def test_a_camera_that_looks_away_sees_nothing():
    cameras = before_a_wall(0.0)
    cameras.camera_to_worlds[1, :, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    assert depth_overlap(torch.full((2, 8, 8), 2.0, dtype=torch.float64), cameras) == 0.0


@pytest.mark.parametrize(
    ("overlap", "name"),
    [
        (None, None),
        (0.04, None),
        (0.05, "small"),
        (0.3, "small"),
        (0.31, "medium"),
        (0.55, "medium"),
        (0.8, "large"),
        (0.81, None),
    ],
)
def test_classes(overlap: float, name: str):
    assert overlap_class(overlap) == name


def test_a_file_of_the_official_kind(tmp_path: Path):
    path = tmp_path / "index.json"
    path.write_text(
        json.dumps(
            {
                "5aca87f95a9412c6": {"context": [58, 133], "target": [60, 99, 127], "overlap": 0.42},
                "left out": None,
                "no overlap": {"context": [0, 9, 20], "target": [4], "overlap": -1},
            }
        )
    )
    chosen = read_evaluation_set(path)
    assert chosen == {
        "5aca87f95a9412c6": EvaluationViews((58, 133), (60, 99, 127), 0.42),
        "no overlap": EvaluationViews((0, 9, 20), (4,), None),
    }
    write_evaluation_set(path, chosen)
    assert read_evaluation_set(path) == chosen


@pytest.mark.parametrize("text", ["", "[]", '{"a": {"context": [0, 1]}}', '{"a": {"context": 1, "target": [2]}}'])
def test_another_file_is_refused(tmp_path: Path, text: str):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(InputError, match=r"index\.json"):
        read_evaluation_set(tmp_path / "index.json")


@pytest.mark.parametrize("kind", ["balls-and-boxes", "other-solids"])
def test_made_scenes_have_pairs_of_all_classes(kind):
    scenes = MadeScenes(range(9), kind, SMALL)
    chosen = made_evaluation_set(scenes)
    assert list(chosen) == scenes.keys and chosen == made_evaluation_set(scenes)
    assert {overlap_class(views.overlap) for views in chosen.values()} == {"small", "medium", "large"}
    for key, views in chosen.items():
        first, last = views.context
        assert len(set(views.target)) == 3 and all(first < frame < last for frame in views.target)
        scene = scenes.scene(key)
        cameras = SceneCameras(*(column[[first, last]] for column in scene.cameras))
        assert depth_overlap(torch.stack([scene.depth(first), scene.depth(last)]), cameras) == views.overlap


def test_views_are_drawn_where_there_is_no_file():
    scenes = MadeScenes(range(5), "balls-and-boxes", SMALL, NUM_TRAINING_FRAMES)
    config = ExampleConfig(SMALL, num_targets=3)
    chosen = drawn_evaluation_set([scenes], config, 3)
    assert len(chosen) == 3 and chosen == drawn_evaluation_set([scenes], config, 3)
    assert all(2 <= views.context[1] - views.context[0] <= 8 for views in chosen.values())
    assert all(views.target and not set(views.target) & set(views.context) for views in chosen.values())
    assert all(len(set(views.target)) == len(views.target) <= 3 for views in chosen.values())
    without_third_frame = MadeScenes(range(5), "balls-and-boxes", SMALL, 3)
    adjacent = ExampleConfig(SMALL, rules={"made": GapRule((1, 1), (1, 1))})
    assert drawn_evaluation_set([without_third_frame], adjacent, 3) == {}
    too_large = ExampleConfig(ImageSize(25, 24))
    assert drawn_evaluation_set([scenes], too_large, 3) == {}
