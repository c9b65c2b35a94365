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
from gnerf_ns.localize.scene import TrainedScene, ViewingShell
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.refinement import LocalizationConfig, RefinementConfig
from gnerf_ns.utils.errors import InputError

COUNT = 3
TRUTH = random_poses(COUNT, seed=11)
QUICK = LocalizerConfig(
    num_hypotheses=6,
    num_candidates=48,
    bank_size=200,
    refinement=LocalizationConfig(
        survivors=2,
        first=RefinementConfig(steps=30, rays_per_hypothesis=32, learning_rate=2e-2, first_image_side=16),
        second=RefinementConfig(steps=80, rays_per_hypothesis=64, learning_rate=1e-2),
        last=RefinementConfig(steps=150, rays_per_hypothesis=128, learning_rate=5e-3),
    ),
)

NO_STEPS = RefinementConfig(steps=0)


@pytest.fixture(scope="module")
def scene() -> TrainedScene:
    """Blobs, and sixty images of them."""
    torch.manual_seed(0)
    model = model_of(Blobs(num_samples=16))
    poses = random_poses(60, seed=10)
    return TrainedScene(
        field=ImageRenderer(model),
        training=image_set_of(model, poses),
        camera_to_worlds=poses,
        viewing_shell=ViewingShell.of(poses),
        fov_deg=40.0,
        focal_scale=1.0,
        image_side=32,
        world=WorldFrame.same(),
        regress_poses=None,
    )


@pytest.fixture(scope="module")
def image_set(scene: TrainedScene) -> ImageSet:
    return image_set_of(scene.field.model, TRUTH)  # type: ignore[arg-type]


def errors_deg(poses: Tensor) -> Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(poses[..., :3], TRUTH[..., :3]))


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
        assert localization.num_rays >= 30 * 6 * 32 + 80 * 2 * 64 + 150 * 128


def test_a_image_of_something_else_is_not_believed(scene: TrainedScene, image_set: ImageSet):
    torch.manual_seed(1)
    noise = replace(image_set, images=type(image_set.images)(torch.randint(256, (COUNT, 32, 32, 3)).byte()))
    assert not any(localization.converged for localization in localize_in_scene(scene, noise, QUICK))


@pytest.mark.parametrize("brightness", [255, 128, 0])
def test_a_image_of_one_color_is_not_believed(scene: TrainedScene, image_set: ImageSet, brightness: int):
    """White is what the field shows where it is empty, and would fit to the last digit."""
    torch.manual_seed(1)
    blank = replace(image_set, images=type(image_set.images)(torch.full((COUNT, 32, 32, 3), brightness).byte()))
    found = localize_in_scene(scene, blank, QUICK)
    assert not any(localization.converged for localization in found)
    assert all(localization.explained_variance == 0.0 for localization in found)


def test_doubtful_images_are_looked_up_again_from_all_around(scene: TrainedScene, image_set: ImageSet):
    torch.manual_seed(1)
    elsewhere = torch.stack([random_poses(1, seed=5)[0]] * COUNT)
    alone = replace(QUICK, init="given", given_spread_deg=1.0, retry_error_ratio=None)
    lost = localize_in_scene(scene, image_set, alone, elsewhere)
    assert any(not localization.converged for localization in lost)
    found = localize_in_scene(scene, image_set, replace(alone, retry_error_ratio=1.5), elsewhere)
    poses = torch.stack([localization.camera_to_world for localization in found])
    assert errors_deg(poses).max() < 1.0
    assert max(each.num_rays for each in found) == 2 * max(each.num_rays for each in lost)


def test_the_reference_is_the_training_images_own_error(scene: TrainedScene):
    assert reference_error(scene, 32) < 1e-4
    elsewhere = replace(scene, camera_to_worlds=scene.camera_to_worlds.roll(1, dims=0))
    assert reference_error(elsewhere, 32) > 1e-2


@pytest.mark.parametrize("asked_for", [True, False])
def test_freed_memory_is_kept_where_that_is_asked_for(
    scene: TrainedScene, image_set: ImageSet, monkeypatch, asked_for: bool
):
    kept: List[bool] = []
    monkeypatch.setattr(localizer, "keep_freed_memory", lambda: kept.append(True))
    no_steps = LocalizationConfig(first=NO_STEPS, second=NO_STEPS, last=NO_STEPS)
    quick = LocalizerConfig(num_hypotheses=1, bank_size=4, init="prior", refinement=no_steps, retry_error_ratio=None)
    localize_in_scene(scene, image_set, replace(quick, keep_freed_memory=asked_for))
    assert bool(kept) is asked_for


def test_a_run_that_shows_its_own_images_badly_is_named(scene: TrainedScene, image_set: ImageSet, capsys):
    refinement = LocalizationConfig(first=RefinementConfig(steps=1), second=RefinementConfig(steps=1), survivors=1)
    quick = LocalizerConfig(num_hypotheses=1, bank_size=4, init="prior", refinement=refinement)
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
    torch.manual_seed(1)
    found = localize(Loaded(), image_set.images.pixels, cameras(COUNT), replace(QUICK, init="prior"))
    assert errors_deg(torch.stack([localization.camera_to_world for localization in found])).max() < 0.5


def test_a_training_image_gets_its_own_pose_of_the_file(scene: TrainedScene, tmp_path: Path):
    """In the frame of transforms.json: not the field's, which is half as large, and not COLMAP's, which is turned."""
    frames = []
    for index, pose in enumerate(scene.camera_to_worlds[:6]):
        image = tmp_path / f"{index}.png"
        Image.fromarray(scene.training.images.pixels[index].numpy()).save(image)
        matrix = torch.eye(4)
        matrix[:3] = pose * torch.tensor([1.0, 1.0, 1.0, 2.0])
        frames.append({"file_path": image.name, "transform_matrix": matrix.tolist()})
    focal = 16 / math.tan(math.radians(20.0))
    meta: Dict[str, Any] = {"fl_x": focal, "fl_y": focal, "cx": 16, "cy": 16, "w": 32, "h": 32, "frames": frames}
    meta["applied_transform"] = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5], [1.0, 0.0, 0.0, 0.0]]
    (tmp_path / "transforms.json").write_text(json.dumps({**meta, "applied_scale": 3.0}))
    as_it_is: Any = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    parser: Any = NerfstudioDataParserConfig(data=tmp_path, eval_mode="all", scale_factor=0.5, **as_it_is).setup()
    outputs = parser.get_dataparser_outputs("train")
    torch.testing.assert_close(outputs.cameras.camera_to_worlds, scene.camera_to_worlds[:6])  # where the field is

    torch.manual_seed(1)
    (found,) = localize_in_scene(scene, scene.training[torch.tensor([3])], replace(QUICK, init="prior"))
    pose = WorldFrame.of(parser, outputs).to_data(found.camera_to_world[None])[0]
    expected = torch.tensor(frames[3]["transform_matrix"])[:3]
    assert float(roma.rotmat_geodesic_distance(pose[:, :3], expected[:, :3]).rad2deg()) < 1.0
    assert (pose[:, 3] - expected[:, 3]).norm() < 0.05 * 2.0 * RADIUS
