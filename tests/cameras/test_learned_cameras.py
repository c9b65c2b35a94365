"""Learned cameras: poses, focal lengths and the up direction, apart and in a run; rays and cameras made of them."""

import json
import math
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import roma
import torch
from analytic_scene import RADIUS, cameras
from nerfstudio.cameras.cameras import Cameras, CameraType
from tiny_run import build_pipeline, build_trainer, pipeline_config, train_steps, trainer_config

from gnerf_ns.cameras.learned_cameras import FocalMode, FocalScales, LearnedCameras
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseMode, PoseTable
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses
from gnerf_ns.pose_search.pose_search import PoseProposals

MODES = ("look_at", "free")


def learned(count: int = 3, pose_mode: PoseMode = "look_at", focal_mode: FocalMode = "fixed", up: bool = False) -> Any:
    """Cameras of 40 degrees, two of them held out."""
    return LearnedCameras(cameras(count), cameras(2), pose_mode, focal_mode, learns_up_direction=up)


def set_focal_scales(learned_cameras: LearnedCameras, *scales: float) -> None:
    with torch.no_grad():
        learned_cameras.focal_scales.logarithms.copy_(torch.tensor(scales).log())


# Poses


@pytest.mark.parametrize(("mode", "code_dim"), [("look_at", 3), ("free", 9)])
def test_what_a_checkpoint_holds_and_what_is_trained(mode: PoseMode, code_dim: int) -> None:
    learned_cameras = learned(4, mode)
    assert {name: tuple(value.shape) for name, value in learned_cameras.state_dict().items()} == {
        "codes": (4, code_dim),
        "held": (4,),
        "eval_codes": (2, code_dim),
        "eval_step": (),
        "focal_scales.logarithms": (1,),
        "up_direction.tilt": (2,),
    }
    assert [name for name, _ in learned_cameras.named_parameters()] == ["codes"]
    assert (len(learned_cameras), learned_cameras.codec.dim) == (4, code_dim)
    # In units of the radius.
    torch.testing.assert_close(learned_cameras.codes[:, :3].norm(dim=-1), torch.ones(4))


@pytest.mark.parametrize("mode", MODES)
def test_cameras_start_at_the_radius_away_from_the_poles(mode: PoseMode) -> None:
    poses = learned(3, mode)()
    torch.testing.assert_close(poses, look_at(poses[..., 3]))
    torch.testing.assert_close(poses[..., 3].norm(dim=-1), torch.full((3,), RADIUS))
    assert poses[..., 3][:, :2].norm(dim=-1).min() > 0.5 * RADIUS


def test_assign_writes_only_the_given_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    poses = PosePriorConfig("dtu", roll_deg=(-30.0, 30.0)).resolve().sample(2, RADIUS, "cpu", generator)
    learned_cameras = learned(5, "free")
    before = learned_cameras().detach().clone()
    learned_cameras.assign(torch.tensor([3, 1]), poses)
    torch.testing.assert_close(learned_cameras(torch.tensor([3, 1])), poses)
    torch.testing.assert_close(learned_cameras()[[0, 2, 4]], before[[0, 2, 4]], atol=0.0, rtol=0.0)
    assert learned_cameras.codes.requires_grad


def test_look_at_mode_keeps_the_position_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    poses = PosePriorConfig("dtu", roll_deg=(-30.0, 30.0)).resolve().sample(3, RADIUS, "cpu", generator)
    learned_cameras = learned(3)
    learned_cameras.assign(torch.arange(3), poses.double())
    torch.testing.assert_close(learned_cameras(), look_at(poses[..., 3]))


def test_held_out_poses_are_kept_apart_with_the_step_they_were_estimated_at() -> None:
    learned_cameras = learned(3)
    before = learned_cameras().detach().clone()
    assert not learned_cameras.has_eval_poses
    poses = look_at(RADIUS * torch.eye(3)[:2])
    learned_cameras.assign_eval(poses, 0)
    assert learned_cameras.has_eval_poses and int(learned_cameras.eval_step) == 0
    torch.testing.assert_close(learned_cameras.poses("eval"), poses)
    torch.testing.assert_close(learned_cameras.poses("train"), before, atol=0.0, rtol=0.0)
    assert not learned_cameras.poses("train").requires_grad


def test_a_camera_driven_over_the_pole_stays_finite_and_arrives() -> None:
    learned_cameras = learned(1)
    # The straight way from the start leads over the pole.
    target = look_at(torch.tensor([[-0.9 * RADIUS, 0.0, 0.43 * RADIUS]]))
    optimizer = torch.optim.Adam(learned_cameras.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (learned_cameras() - target).square().mean().backward()
        assert learned_cameras.codes.grad.isfinite().all()
        optimizer.step()
    torch.testing.assert_close(learned_cameras().detach(), target, atol=5e-3, rtol=0.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_camera_on_the_pole_can_leave_it(mode: PoseMode) -> None:
    learned_cameras = learned(1, mode)
    learned_cameras.assign(torch.tensor([0]), look_at(torch.tensor([[0.0, 0.0, RADIUS]])))
    target = look_at(torch.tensor([[0.5 * RADIUS, 0.5 * RADIUS, 0.7 * RADIUS]]))
    optimizer = torch.optim.Adam(learned_cameras.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (learned_cameras() - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(learned_cameras().detach(), target, atol=5e-3, rtol=0.0)


def test_padding_is_no_part_of_the_view_that_the_object_fills() -> None:
    """Portrait images half as wide as high, padded to squares: what fills them is half as wide."""
    padded, images = cameras(3, 32, 32), cameras(3, 32, 32)
    images.width, images.cx = images.width // 2, images.cx / 2
    learned_cameras = LearnedCameras(padded, cameras(0), unpadded=images)
    assert learned_cameras.canvas_radius == pytest.approx(RADIUS, rel=1e-5)
    assert learned_cameras.radius == learned_cameras.codec.radius == pytest.approx(2 * RADIUS, rel=1e-5)
    assert learned(3).radius == learned(3).canvas_radius == pytest.approx(RADIUS, rel=1e-5)


# Focal lengths


@pytest.mark.parametrize(("mode", "count"), [("fixed", 0), ("shared", 1), ("per_image", 4)])
def test_focal_scales_by_mode(mode: FocalMode, count: int) -> None:
    scales = FocalScales(4, mode)
    assert sum(parameter.numel() for parameter in scales.parameters()) == count
    assert scales.is_learned is (count > 0)
    torch.testing.assert_close(scales(), torch.ones(4))
    assert scales(torch.tensor([2, 0, 2])).shape == (3,)


def test_training_images_get_their_own_scale_and_others_the_median() -> None:
    scales = FocalScales(3, "per_image")
    with torch.no_grad():
        scales.logarithms.copy_(torch.tensor([1.1, 0.9, 1.3]).log())
    torch.testing.assert_close(scales(torch.tensor([2, 1])), torch.tensor([1.3, 0.9]))
    torch.testing.assert_close(scales.for_others(torch.arange(2)), torch.tensor([1.1, 1.1]))


def test_directions_are_those_of_cameras_with_longer_focal_lengths() -> None:
    given = cameras(2)
    given.fx, given.fy = given.fx * torch.tensor([[1.0], [1.5]]), given.fy * torch.tensor([[1.1], [1.6]])
    learned_cameras = LearnedCameras(given, cameras(0), focal_mode="per_image")
    set_focal_scales(learned_cameras, 1.25, 0.8)
    longer = given[...]
    longer.fx, longer.fy = (focal * torch.tensor([[1.25], [0.8]]) for focal in (given.fx, given.fy))
    indices, coords = torch.tensor([1, 0, 1]), 1.8 * torch.rand(3, 5, 2) - 0.9
    expected = CameraDirections(longer).at(indices, coords)
    torch.testing.assert_close(learned_cameras.train_lenses.at(indices, coords), expected)
    chosen = learned_cameras.train_lenses[torch.tensor([1, 1, 0])]
    torch.testing.assert_close(chosen.at(torch.tensor([0, 2, 1]), coords), expected)


@pytest.mark.parametrize(
    "distortion",
    [None, (-0.25, 0.05, 0.0, 0.0, 0.01, -0.02), (0.12, -0.03, 0.002, 0.0, 0.0, 0.0)],
    ids=["without distortion", "barrel and tangential", "pincushion"],
)
@pytest.mark.parametrize("camera_type", [CameraType.PERSPECTIVE, CameraType.FISHEYE])
@pytest.mark.parametrize("focal_mode", ["shared", "per_image"])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_the_rays_that_are_trained_are_those_of_the_cameras_that_are_exported(
    split: Literal["train", "eval"], focal_mode: FocalMode, camera_type: CameraType, distortion: Any
) -> None:
    def given_cameras(count: int) -> Cameras:
        given = cameras(count, 40, 30)
        given.cx, given.cy = given.cx + 1.5, given.cy - 0.75
        given.camera_type = torch.full_like(given.camera_type, camera_type.value)
        given.distortion_params = None if distortion is None else torch.tensor([distortion] * count)
        return given

    learned_cameras = LearnedCameras(given_cameras(3), given_cameras(2), "free", focal_mode)
    set_focal_scales(learned_cameras, *((1.2,) if focal_mode == "shared" else (0.9, 1.2, 1.3)))
    generator = torch.Generator().manual_seed(0)
    prior = PosePriorConfig("dtu", roll_deg=(-30.0, 30.0)).resolve()
    learned_cameras.assign(torch.arange(3), prior.sample(3, RADIUS, "cpu", generator))
    learned_cameras.assign_eval(prior.sample(2, RADIUS, "cpu", generator), 0)

    count, lenses = (3, learned_cameras.train_lenses) if split == "train" else (2, learned_cameras.eval_lenses)
    poses = learned_cameras() if split == "train" else learned_cameras.poses("eval")
    indices = torch.arange(count)
    coords = torch.tensor([[-0.97, -0.95], [0.9, 0.3], [0.1, -0.4], [0.96, 0.96]]).expand(count, -1, -1)
    trained = rays_from_poses(poses, lenses.at(indices, coords), indices)

    exported = learned_cameras.estimated(split, given_cameras(count))
    pixels = (coords + 1.0) / 2.0 * torch.tensor([40.0, 30.0])
    rays = exported.generate_rays(
        indices.repeat_interleave(4)[:, None], coords=pixels.flip(-1).flatten(0, 1), disable_distortion=False
    )
    torch.testing.assert_close(trained.origins.detach(), rays.origins, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(trained.directions.detach(), rays.directions, atol=1e-5, rtol=0.0)


def test_gradient_of_rays_in_focal_length_and_pose() -> None:
    indices, coords = torch.tensor([0, 1]), (1.8 * torch.rand(2, 3, 2) - 0.9).double()
    codes = torch.tensor([[0.6, 0.5, 0.7], [-0.3, 0.8, 0.2]], dtype=torch.float64, requires_grad=True)

    def rays(logarithms: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        learned_cameras = learned(2, focal_mode="per_image").double()
        del learned_cameras.focal_scales.logarithms, learned_cameras.codes
        learned_cameras.focal_scales.logarithms, learned_cameras.codes = logarithms, codes
        directions = learned_cameras.train_lenses.at(indices, coords)
        bundle = rays_from_poses(learned_cameras(indices), directions, indices)
        # As lines (Pluecker coordinates): what a ray does along itself has no gradient.
        return torch.cat([torch.linalg.cross(bundle.origins, bundle.directions), bundle.directions], dim=-1)

    start = torch.tensor([0.1, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rays, (start, codes), eps=1e-6, atol=1e-6)


def test_pixels_cover_less_through_a_longer_lens_and_tell_of_it() -> None:
    learned_cameras, everyone = learned(2, focal_mode="per_image"), torch.arange(2)
    ahead = torch.tensor([[[0.0, 0.0, -1.0]]]).expand(2, -1, -1)
    before = learned_cameras.train_lenses.pixel_areas(everyone, ahead, 15, 20).detach()
    set_focal_scales(learned_cameras, 1.0, 1.5)
    areas = learned_cameras.train_lenses.pixel_areas(everyone, ahead, 15, 20)[:, 0]
    torch.testing.assert_close(areas.detach(), before[:, 0] / torch.tensor([1.0, 2.25]))
    (gradient,) = torch.autograd.grad(areas.sum(), learned_cameras.focal_scales.logarithms)
    torch.testing.assert_close(gradient, -2.0 * areas.detach())


@pytest.mark.parametrize("mode", MODES)
def test_a_longer_lens_takes_the_camera_back_and_leaves_the_image_its_size(mode: PoseMode) -> None:
    learned_cameras = learned(2, mode, "shared")
    before = learned_cameras().detach()
    set_focal_scales(learned_cameras, 1.3)
    torch.testing.assert_close(learned_cameras()[..., 3], 1.3 * before[..., 3])
    torch.testing.assert_close(learned_cameras()[..., :3], before[..., :3])
    assert learned_cameras.radius == pytest.approx(1.3 * RADIUS, rel=1e-5)
    # What is assigned is what comes back, whatever the focal length is by then.
    poses = look_at(torch.tensor([[1.0, 2.0, 1.0], [0.0, -2.0, 2.0]]))
    learned_cameras.assign(torch.arange(2), poses)
    torch.testing.assert_close(learned_cameras(), poses)


def test_proposed_cameras_stand_farther_back_behind_a_longer_lens() -> None:
    learned_cameras = learned(3, focal_mode="shared")
    proposals = PoseProposals(PosePriorConfig().resolve(), lambda: learned_cameras.radius)
    set_focal_scales(learned_cameras, 1.2)
    distances = torch.linalg.vector_norm(proposals.sample(10, torch.device("cpu"))[..., 3], dim=-1)
    torch.testing.assert_close(distances, torch.full((10,), 1.2 * RADIUS))


# The up direction


def test_what_is_up_learns_from_training_poses_alone() -> None:
    """Poses that are searched or estimated with the field frozen are level with it, and do not move it."""
    learned_cameras = learned(3, up=True)
    with torch.no_grad():
        learned_cameras.up_direction.tilt.copy_(torch.tensor([0.1, 0.0]))
    table = PoseTable(learned_cameras().detach(), learned_cameras.codec)
    assert [name for name, _ in table.named_parameters()] == ["codes"]
    for poses, is_moved in ((table, False), (learned_cameras, True)):
        poses()[..., :3].square().mul(torch.arange(9.0).view(3, 3)).sum().backward()
        assert (learned_cameras.up_direction.tilt.grad is not None) == is_moved


def test_descent_finds_what_is_up_where_positions_lean() -> None:
    """A scene that came out leaning by 12 degrees: where cameras stand is known, and what they see."""
    tilt = torch.deg2rad(torch.tensor([12.0 * 0.8, 12.0 * 0.6]))
    learned_cameras = learned(12, up=True)
    generator = torch.Generator().manual_seed(3)
    positions = RADIUS * torch.nn.functional.normalize(torch.randn(12, 3, generator=generator), dim=-1)
    with torch.no_grad():
        learned_cameras.up_direction.tilt.copy_(tilt)
        poses = learned_cameras.up_direction.from_z_up(look_at(positions))
        learned_cameras.up_direction.tilt.zero_()
    learned_cameras.assign(torch.arange(12), poses)

    def largest_error_deg() -> float:
        turns = roma.rotmat_geodesic_distance(learned_cameras.poses("train")[..., :3], poses[..., :3])
        return float(turns.rad2deg().max())

    assert largest_error_deg() > 10.0
    optimizer = torch.optim.Adam(learned_cameras.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (learned_cameras() - poses).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(learned_cameras.up_direction.tilt.detach(), tilt, atol=1e-3, rtol=0.0)
    assert largest_error_deg() < 0.2


def test_an_attempt_begins_upright_with_the_given_focal_lengths() -> None:
    learned_cameras = learned(3, focal_mode="per_image", up=True)
    poses = look_at(torch.tensor([[1.0, 2.0, 1.0]] * 3))
    learned_cameras.assign(torch.arange(3), poses)
    codes = learned_cameras.codes.detach().clone()
    set_focal_scales(learned_cameras, 1.1, 1.2, 1.3)
    with torch.no_grad():
        learned_cameras.up_direction.tilt.fill_(0.3)
    learned_cameras.reset_parameters()
    assert not learned_cameras.focal_scales.logarithms.any() and not learned_cameras.up_direction.tilt.any()
    assert torch.equal(learned_cameras.codes, codes), "they are looked up at the end of phase A"


# In a run


@pytest.fixture
def bare_folder(tiny_scene: Path, tmp_path: Path) -> Path:
    """The images without any file beside them."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny_scene / "images", folder)
    return folder


def test_focal_lengths_are_learned_unless_they_were_given(tiny_scene: Path, bare_folder: Path):
    calibrated = build_pipeline(pipeline_config(tiny_scene))
    assert calibrated.cameras.focal_scales.mode == "fixed" and "focal_lengths" not in calibrated.get_param_groups()
    guessed = build_pipeline(pipeline_config(bare_folder))
    assert guessed.cameras.focal_scales.mode == "shared" and len(guessed.get_param_groups()["focal_lengths"]) == 1
    insisted = build_pipeline(pipeline_config(tiny_scene, focal_length="per_image"))
    assert insisted.cameras.focal_scales.logarithms.shape == (7,)


@pytest.mark.parametrize(
    ("options", "is_learned"),
    [
        ({}, True),
        ({"learn_up_direction": False}, False),
        ({"pose_mode": "free"}, False),
        ({"pose_prior": PosePriorConfig(roll_deg=(-10.0, 10.0))}, False),
    ],
)
def test_the_up_direction_is_learned_where_cameras_are_level(tiny_scene: Path, options: Any, is_learned: bool):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", **options))
    assert pipeline.cameras.up_direction.is_learned is is_learned
    assert ("up_direction" in pipeline.get_param_groups()) is is_learned


def test_only_steps_of_b_move_focal_lengths_and_the_up_direction(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", focal_length="shared"))
    moved = (pipeline.cameras.focal_scales.logarithms, pipeline.cameras.up_direction.tilt)
    train_steps(pipeline, range(4))
    assert not any(parameter.any() for parameter in moved)
    for steps in (range(4, 5), range(5, 8)):  # the B step of AB, and B
        before = [parameter.detach().clone() for parameter in moved]
        train_steps(pipeline, steps)
        assert not any(torch.equal(parameter, then) for parameter, then in zip(moved, before, strict=True))


def test_every_command_sees_learned_focal_lengths(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, focal_length="per_image"))
    manager = pipeline.datamanager
    given_train, given_eval = manager.train_dataset.cameras.fx.clone(), manager.eval_dataset.cameras.fy.clone()
    scales = torch.linspace(0.8, 1.4, 7)
    set_focal_scales(pipeline.cameras, *scales.tolist())
    for _ in range(2):  # publishing twice does not lengthen twice
        pipeline.estimate_eval_poses(5)
        pipeline.publish_cameras()
    estimated = pipeline.cameras.estimated("train", manager.train_dataset.given_cameras)
    torch.testing.assert_close(estimated.fx, given_train * scales[:, None])
    torch.testing.assert_close(manager.train_dataset.cameras.fx, given_train * scales[:, None])
    torch.testing.assert_close(manager.train_ray_generator.cameras.fx, given_train * scales[:, None])
    torch.testing.assert_close(manager.fixed_indices_eval_dataloader.cameras.fy, 1.1 * given_eval)
    another = pipeline.config.datamanager.setup(test_mode="test")
    torch.testing.assert_close(another.eval_dataset.cameras.fy, 1.1 * given_eval)


@pytest.mark.parametrize("phase_a", ["transport", "adversarial"])
def test_what_phase_a_renders_leans_with_what_is_up(tiny_scene: Path, phase_a: Any):
    pipeline = build_pipeline(pipeline_config(tiny_scene, phase_a))
    tilt = pipeline.cameras.up_direction.tilt
    with torch.no_grad():
        tilt.copy_(torch.tensor([0.3, 0.1]))
    plan = pipeline.schedule.at(1)
    objective = pipeline.transport or pipeline.adversarial
    assert objective is not None
    torch.manual_seed(0)
    leaning = objective.request(plan).ray_bundle
    with torch.no_grad():
        tilt.zero_()
    torch.manual_seed(0)
    level = objective.request(plan).ray_bundle
    turn = roma.rotvec_to_rotmat(torch.tensor([0.3, 0.1, 0.0]))
    torch.testing.assert_close(leaning.origins, level.origins @ turn.mT, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(leaning.directions, level.directions @ turn.mT, atol=1e-5, rtol=0.0)


def test_searching_for_poses_does_not_move_what_is_up(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    pipeline.config.misfits.cost_ratio = pipeline.config.misfits.outlier_cost_ratio = 0.0
    pipeline.pose_updates._misfits.better_poses(pipeline.scene, 16)
    pipeline.estimate_eval_poses(5)
    assert pipeline.cameras.up_direction.tilt.grad is None


def test_training_held_out_and_searched_poses_are_all_level(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    with torch.no_grad():
        pipeline.cameras.up_direction.tilt.copy_(torch.tensor([0.2, -0.1]))
    pipeline.estimate_eval_poses(5)
    bank = pipeline.pose_search.top_poses(pipeline.scene.image_set, 3)[0].flatten(0, 1)
    up = pipeline.cameras.up_direction()[:, 2].detach()
    for poses in (pipeline.cameras.poses("train"), pipeline.cameras.poses("eval"), bank):
        assert float((poses[:, :, 0] @ up).abs().max()) < 1e-5


def test_a_copied_attempt_has_what_is_up(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    attempt, tilt = pipeline.restarts._attempt, torch.tensor([0.3, 0.1])
    with torch.no_grad():
        pipeline.cameras.up_direction.tilt.copy_(tilt)
    copied = attempt.copied()
    attempt.initialize(0)
    assert not pipeline.cameras.up_direction.tilt.any()
    attempt.put_back(copied)
    assert torch.equal(pipeline.cameras.up_direction.tilt, tilt)


def test_learned_focal_lengths_are_written_beside_the_poses_and_survive_a_checkpoint(bare_folder: Path, tmp_path: Path):
    config = trainer_config(bare_folder, tmp_path / "runs", "transport")
    trainer = build_trainer(config)
    trainer.train()
    scale = float(trainer.pipeline.cameras.focal_scales.typical)
    assert not math.isclose(scale, 1.0)
    written = json.loads((config.get_base_dir() / "estimated_poses" / "transforms.json").read_text())
    given = trainer.pipeline.datamanager.train_dataset.file_cameras.fx
    for frame in written["frames"]:
        assert frame["fl_x"] == pytest.approx(scale * float(given[0]), rel=1e-5)
    again = build_pipeline(config.pipeline)  # type: ignore[arg-type]
    checkpoint = sorted(config.get_checkpoint_dir().glob("*.ckpt"))[-1]
    again.load_pipeline(torch.load(checkpoint, weights_only=True)["pipeline"], 11)
    assert float(again.cameras.focal_scales.typical) == scale
