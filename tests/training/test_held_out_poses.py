import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, image_set_of, model_of, random_poses

from gnerf_ns.cameras.learned_cameras import PoseTable
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.pose_search.pose_search import PoseMatcher, PoseSearch, PoseSearchConfig
from gnerf_ns.pose_search.refinement import LocalizationConfig, RefinementConfig
from gnerf_ns.training.evaluation import HeldOutConfig, estimate_held_out_poses

COUNT = 5


@pytest.mark.parametrize("regressed", ["no network", "a wrong network", "a good network"])
def test_poses_are_found_from_nothing(regressed: str):
    torch.manual_seed(0)
    model = model_of(Blobs(num_samples=16))
    truth = random_poses(COUNT, seed=6)
    image_set = image_set_of(model, truth)
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
    # With a good network even a hopeless search does no harm.
    bank_size = 5 if regressed == "a good network" else 400
    search = PoseSearch(
        PoseSearchConfig(bank_size=bank_size), model, PoseMatcher(prior, RADIUS), PoseCodec("look_at", RADIUS)
    )
    table = PoseTable(COUNT, PoseCodec("look_at", RADIUS))
    first = RefinementConfig(steps=40, rays_per_hypothesis=64, learning_rate=1e-2, first_image_side=16)
    last = RefinementConfig(steps=120, rays_per_hypothesis=100, learning_rate=5e-3)
    networks = {
        "no network": None,
        "a wrong network": lambda image_set: random_poses(COUNT, seed=7),
        "a good network": lambda image_set: truth + 0.05,
    }
    config = HeldOutConfig(
        num_hypotheses=3,
        localization=LocalizationConfig(survivors=1, first=first, second=RefinementConfig(steps=0), last=last),
    )
    estimate_held_out_poses(config, model, image_set, table, search, networks[regressed])
    errors = torch.rad2deg(roma.rotmat_geodesic_distance(table()[:, :, :3], truth[:, :, :3]))
    assert errors.max() < 1.0
