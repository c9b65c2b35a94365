import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, model_of, photographs_of, random_poses

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.held_out import HeldOutConfig, estimate_held_out_poses
from gnerf_ns.localization.photometric_refinement import RefinementConfig
from gnerf_ns.localization.pose_matcher import PoseMatcher
from gnerf_ns.localization.pose_search import PoseSearch, PoseSearchConfig
from gnerf_ns.localization.refinement_rounds import LocalizationConfig

COUNT = 5


@pytest.mark.parametrize("regressed", ["no network", "a wrong network", "a good network"])
def test_poses_are_found_from_nothing(regressed: str):
    torch.manual_seed(0)
    model = model_of(Blobs(num_samples=16))
    truth = random_poses(COUNT, seed=6)
    photographs = photographs_of(model, truth)
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
        "a wrong network": lambda photographs: random_poses(COUNT, seed=7),
        "a good network": lambda photographs: truth + 0.05,
    }
    config = HeldOutConfig(
        num_hypotheses=3,
        localization=LocalizationConfig(survivors=1, first=first, second=RefinementConfig(steps=0), last=last),
    )
    estimate_held_out_poses(config, model, photographs, table, search, networks[regressed])
    errors = torch.rad2deg(roma.rotmat_geodesic_distance(table()[:, :, :3], truth[:, :, :3]))
    assert errors.max() < 1.0
