import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Optional

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, cameras, image_set_of, model_of, random_poses
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.pipelines.base_pipeline import Pipeline
from PIL import Image
from torch import Tensor, nn

import gnerf_ns.localize.localizer as localizer
from gnerf_ns.data.grown_dataparser import WorldFrame
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.localize.localizer import (
    LocalizerConfig,
    localize,
    localize_in_scene,
    perturb_poses,
    reference_error,
)
from gnerf_ns.localize.scene import RunLens, TrainedScene, ViewingShell
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.refinement import LocalizationConfig, RefinementConfig
from gnerf_ns.utils.errors import InputError

SIDE = 24
TRUTH = random_poses(10, seed=11)[[1, 5, 7]]
COUNT = len(TRUTH)
QUICK = LocalizerConfig(
    num_hypotheses=6,
    num_candidates=64,
    bank_size=150,
    refinement=LocalizationConfig(
        survivors=2,
        first=RefinementConfig(
            steps=20, rays_per_hypothesis=32, learning_rate=3e-2, final_learning_rate=5e-3, first_image_side=16
        ),
        second=RefinementConfig(steps=30, rays_per_hypothesis=64, learning_rate=2e-2, final_learning_rate=2e-3),
        last=RefinementConfig(steps=50, rays_per_hypothesis=128, learning_rate=1e-2),
    ),
)
NO_STEPS, FEW_STEPS = (RefinementConfig(steps=steps, rays_per_hypothesis=32, learning_rate=1e-2) for steps in (0, 10))
UNREFINED = replace(QUICK, refinement=LocalizationConfig(first=NO_STEPS, second=NO_STEPS, last=NO_STEPS))
"""Hypotheses are compared, but stay where they are."""
BRIEF = replace(QUICK, refinement=LocalizationConfig(survivors=2, first=FEW_STEPS, second=FEW_STEPS, last=FEW_STEPS))
"""The best one gets nearer, but not all the way there."""


@pytest.fixture(scope="module")
def scene() -> TrainedScene:
    """Blobs, and sixty images of them."""
    torch.manual_seed(0)
    model = model_of(Blobs(num_samples=12))
    poses = random_poses(60, seed=10)
    return TrainedScene(
        renderer=ImageRenderer(model),
        training=image_set_of(model, poses, SIDE, SIDE),
        camera_to_worlds=poses,
        viewing_shell=ViewingShell.of(poses),
        lens=RunLens(40.0),
        image_side=SIDE,
        world=WorldFrame.same(),
        regress_poses=None,
    )


@pytest.fixture(scope="module")
def image_set(scene: TrainedScene) -> ImageSet:
    return image_set_of(scene.renderer.model, TRUTH, SIDE, SIDE)  # type: ignore[arg-type]


def errors_deg(poses: Tensor) -> Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(poses[..., :3], TRUTH[..., :3]))


def far_away(scene: TrainedScene) -> Tensor:
    """Poses from which only the empty, white background is seen."""
    poses = TRUTH.clone()
    poses[..., 3] *= -1.0
    return poses


@pytest.mark.parametrize("init", ["retrieval", "prior", "given", "inversion"])
def test_images_are_found(scene: TrainedScene, image_set: ImageSet, init: Any):
    torch.manual_seed(1)
    given: Optional[Tensor] = None
    if init == "given":
        given = perturb_poses(TRUTH, torch.zeros(3), 2, 25.0, 0.05)[:, 1]
        assert errors_deg(given).max() > 10
    elif init == "inversion":
        scene = replace(
            scene, regress_poses=lambda image_set: perturb_poses(TRUTH, torch.zeros(3), 2, 10.0, 0.05)[:, 1]
        )
    done: List[int] = []
    found = localize_in_scene(scene, image_set, replace(QUICK, init=init), given, done.append)
    assert sum(done) == COUNT and len(found) == COUNT
    poses = torch.stack([localization.camera_to_world for localization in found])
    assert errors_deg(poses).max() < 0.5
    assert (poses[..., 3] - TRUTH[..., 3]).norm(dim=-1).max() < 0.05 * RADIUS
    for localization in found:
        assert localization.converged and localization.explained_variance > 0.9 and localization.error < 0.1
        assert localization.num_hypotheses == 6 and 1 <= localization.num_agreeing <= 2
        assert torch.equal(localization.path[-1], localization.camera_to_world) and localization.seconds > 0
        assert localization.num_rays >= 20 * 6 * 32 + 30 * 2 * 64 + 50 * 128


def test_an_image_of_something_else_is_not_believed(scene: TrainedScene, image_set: ImageSet):
    torch.manual_seed(1)
    noise = replace(image_set, images=type(image_set.images)(torch.randint(256, (COUNT, SIDE, SIDE, 3)).byte()))
    assert not any(localization.converged for localization in localize_in_scene(scene, noise, UNREFINED))


@pytest.mark.parametrize("brightness", [255, 128, 0])
def test_an_image_of_one_color_is_not_believed(scene: TrainedScene, image_set: ImageSet, brightness: int):
    """White is what the field shows where it is empty, and fits there to the last digit."""
    blank = replace(image_set, images=type(image_set.images)(torch.full((COUNT, SIDE, SIDE, 3), brightness).byte()))
    found = localize_in_scene(scene, blank, replace(UNREFINED, init="given", given_spread_deg=0.0), far_away(scene))
    assert brightness < 255 or all(localization.error < 1e-6 for localization in found)
    assert not any(localization.converged for localization in found)
    assert all(localization.explained_variance == 0.0 for localization in found)


def test_doubtful_images_are_looked_up_again_from_all_around(scene: TrainedScene, image_set: ImageSet):
    torch.manual_seed(1)
    alone = replace(BRIEF, init="given", given_spread_deg=1.0, retry_error_ratio=None)
    lost = localize_in_scene(scene, image_set, alone, far_away(scene))
    assert not any(localization.converged for localization in lost)
    found = localize_in_scene(scene, image_set, replace(alone, retry_error_ratio=1.5), far_away(scene))
    poses = torch.stack([localization.camera_to_world for localization in found])
    assert errors_deg(poses).max() < 20.0
    assert all(each.num_rays == 2 * before.num_rays > 0 for each, before in zip(found, lost, strict=True))


def test_the_reference_is_the_training_images_own_error(scene: TrainedScene):
    assert reference_error(scene, SIDE) < 1e-4
    elsewhere = replace(scene, camera_to_worlds=scene.camera_to_worlds.roll(1, dims=0))
    assert reference_error(elsewhere, SIDE) > 1e-2


@pytest.mark.parametrize("asked_for", [True, False])
def test_freed_memory_is_kept_where_that_is_asked_for(
    scene: TrainedScene, image_set: ImageSet, monkeypatch, asked_for: bool
):
    kept: List[bool] = []
    monkeypatch.setattr(localizer, "keep_freed_memory", lambda: kept.append(True))
    quick = replace(UNREFINED, num_hypotheses=1, bank_size=4, init="prior", retry_error_ratio=None)
    localize_in_scene(scene, image_set, replace(quick, keep_freed_memory=asked_for))
    assert bool(kept) is asked_for


def test_a_run_that_shows_its_own_images_badly_is_named(scene: TrainedScene, image_set: ImageSet, capsys):
    quick = replace(UNREFINED, num_hypotheses=1, bank_size=4, init="prior")
    localize_in_scene(scene, image_set, quick)
    assert "dB only" not in capsys.readouterr().out
    elsewhere = replace(scene, camera_to_worlds=scene.camera_to_worlds.roll(1, dims=0))
    localize_in_scene(elsewhere, image_set, quick)
    assert "dB only" in capsys.readouterr().out


@pytest.mark.parametrize("init, words", [("inversion", "no inversion network"), ("given", "No poses came with")])
def test_what_is_not_there_cannot_be_begun_from(scene: TrainedScene, image_set: ImageSet, init: Any, words: str):
    with pytest.raises(InputError, match=words):
        localize_in_scene(scene, image_set, replace(QUICK, init=init))


def test_the_function_for_a_pipeline(scene: TrainedScene, image_set: ImageSet, monkeypatch):
    class Loaded(Pipeline):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    monkeypatch.setattr(localizer, "TrainedScene", SimpleNamespace(of=lambda pipeline: scene))
    quick, given = replace(UNREFINED, init="given", retry_error_ratio=None), TRUTH.flip(0)
    torch.manual_seed(1)
    found = localize(Loaded(), image_set.images.pixels, cameras(COUNT, SIDE, SIDE), quick, given)
    torch.manual_seed(1)
    expected = localize_in_scene(scene, image_set, quick, given)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.camera_to_world, other.camera_to_world) and one.error == other.error


def test_a_training_image_gets_its_own_pose_of_the_file(scene: TrainedScene, tmp_path: Path):
    """In the frame of transforms.json: not the field's, which is half as large, and not COLMAP's, which is turned."""
    frames = []
    for index, pose in enumerate(scene.camera_to_worlds[:6]):
        image = tmp_path / f"{index}.png"
        Image.fromarray(scene.training.images.pixels[index].numpy()).save(image)
        matrix = torch.eye(4)
        matrix[:3] = pose * torch.tensor([1.0, 1.0, 1.0, 2.0])
        frames.append({"file_path": image.name, "transform_matrix": matrix.tolist()})
    focal = SIDE / 2 / math.tan(math.radians(20.0))
    meta: Dict[str, Any] = {"fl_x": focal, "fl_y": focal, "cx": SIDE / 2, "cy": SIDE / 2, "w": SIDE, "h": SIDE}
    meta["frames"] = frames
    meta["applied_transform"] = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5], [1.0, 0.0, 0.0, 0.0]]
    (tmp_path / "transforms.json").write_text(json.dumps({**meta, "applied_scale": 3.0}))
    as_it_is: Any = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    parser: Any = NerfstudioDataParserConfig(data=tmp_path, eval_mode="all", scale_factor=0.5, **as_it_is).setup()
    outputs = parser.get_dataparser_outputs("train")
    torch.testing.assert_close(outputs.cameras.camera_to_worlds, scene.camera_to_worlds[:6])  # where the field is

    torch.manual_seed(1)
    near = perturb_poses(scene.camera_to_worlds[3:4], torch.zeros(3), 2, 4.0, 0.0)[:, 1]
    quick = replace(QUICK, init="given", given_spread_deg=5.0, num_hypotheses=2)
    (found,) = localize_in_scene(scene, scene.training[torch.tensor([3])], quick, near)
    pose = WorldFrame.of(parser, outputs).to_data(found.camera_to_world[None])[0]
    expected = torch.tensor(frames[3]["transform_matrix"])[:3]
    assert float(roma.rotmat_geodesic_distance(pose[:, :3], expected[:, :3]).rad2deg()) < 1.0
    assert (pose[:, 3] - expected[:, 3]).norm() < 0.05 * 2.0 * RADIUS
