import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, model_of, photographs_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.photometric_refinement import RefinementConfig, refine_poses
from gnerf_ns.models.gnerf import GNeRFModel

COUNT = 6


def errors_deg(poses: Tensor) -> Tensor:
    truth = random_poses(COUNT, seed=5)
    return torch.rad2deg(roma.rotmat_geodesic_distance(poses[:, :, :3], truth[:, :, :3])).detach()


@pytest.fixture(scope="module")
def model() -> GNeRFModel:
    return model_of(Blobs(num_samples=16))


@pytest.fixture(scope="module")
def photographs(model: GNeRFModel) -> Photographs:
    return photographs_of(model, random_poses(COUNT, seed=5))


def disturbed_table(mode) -> PoseTable:
    """Poses about 6 degrees off."""
    generator = torch.Generator().manual_seed(0)
    table = PoseTable(COUNT, PoseCodec(mode, RADIUS))
    poses = random_poses(COUNT, seed=5)
    turns = roma.rotvec_to_rotmat(0.06 * torch.randn(COUNT, 3, generator=generator))
    table.assign(torch.arange(COUNT), turns @ poses)
    return table


CONFIG = RefinementConfig(steps=150, rays_per_step=1024, learning_rate=1e-2, first_image_side=16)


def test_poses_near_the_truth_reach_it(model: GNeRFModel, photographs: Photographs):
    torch.manual_seed(0)
    table = disturbed_table("look_at")
    assert errors_deg(table()).mean() > 3
    refine_poses(CONFIG, model, photographs, table)
    after = errors_deg(table())
    assert after.max() < 0.5 and after.median() < 0.25
    positions = table()[:, :, 3].detach()
    assert (positions - random_poses(COUNT, seed=5)[:, :, 3]).norm(dim=-1).max() < 0.03 * RADIUS


def test_free_poses_near_the_truth_reach_it(model: GNeRFModel, photographs: Photographs):
    torch.manual_seed(0)
    table = disturbed_table("free")
    assert errors_deg(table()).mean() > 3
    refine_poses(CONFIG, model, photographs, table)
    after = errors_deg(table())
    assert after.max() < 1.0 and after.median() < 0.25
    positions = table()[:, :, 3].detach()
    assert (positions - random_poses(COUNT, seed=5)[:, :, 3]).norm(dim=-1).max() < 0.03 * RADIUS


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model: GNeRFModel, photographs: Photographs, training: bool):
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = disturbed_table("look_at")
    refine_poses(RefinementConfig(steps=2), model, photographs, table)
    assert model.training is training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.radiance.parameters())


def test_the_model_is_left_as_it_was_even_when_interrupted(model: GNeRFModel, photographs: Photographs, monkeypatch):
    model.train()

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "get_photometric_loss", interrupt)
        with pytest.raises(KeyboardInterrupt):
            refine_poses(RefinementConfig(steps=2), model, photographs, disturbed_table("look_at"))
    assert model.training and all(parameter.requires_grad for parameter in model.radiance.parameters())


def test_no_steps_change_nothing(model: GNeRFModel, photographs: Photographs):
    table = disturbed_table("look_at")
    before = table.codes.detach().clone()
    refine_poses(RefinementConfig(steps=0), model, photographs, table)
    assert torch.equal(table.codes, before)
