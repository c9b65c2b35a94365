"""Mip-NeRF 360's radiance: one frustum by hand, whole gradients, and who learns from whom."""

from __future__ import annotations

import math
from typing import Any, Dict, Tuple

import numpy as np
import pytest
import torch
from analytic_scene import random_poses
from nerfstudio.cameras.rays import Frustums, RayBundle

from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.data.dataparser import unit_scene_box
from gnerf_ns.fields import mip360_radiance
from gnerf_ns.fields.mip360_radiance import Mip360Radiance, Mip360RadianceConfig
from gnerf_ns.models.gnerf import interlevel_loss

TINY: Dict[str, Any] = {
    "num_layers": 3,
    "layer_width": 16,
    "num_layers_proposal": 2,
    "layer_width_proposal": 8,
    "bottleneck_width": 8,
    "layer_width_color": 8,
    "num_frequencies": 4,
    "subdivisions": 1,
    "num_proposal_samples": (8, 6),
    "num_nerf_samples": 5,
    "num_uniform_samples": 7,
    "phase_a_frequencies": 2.0,
}


def radiance_of(is_unbounded: bool = True, **options: Any) -> Mip360Radiance:
    torch.manual_seed(0)
    config = Mip360RadianceConfig(**{**TINY, **options})
    return config.setup(scene_box=unit_scene_box(), num_train_data=4, is_unbounded=is_unbounded)


def central_rays(
    poses: torch.Tensor | None = None, area: float = 1e-4, near: float = 0.2, far: float = 1e6
) -> RayBundle:
    directions = torch.nn.functional.normalize(torch.tensor([[[0.0, 0.0, -1.0], [0.1, 0.05, -1.0]]]), dim=-1)
    poses = random_poses(4) if poses is None else poses
    directions = directions.expand(len(poses), -1, -1).to(poses)
    rays = rays_from_poses(poses, directions, torch.arange(len(poses)), torch.full((len(poses), 2), area).to(poses))
    rays.nears, rays.fars = (torch.full_like(rays.origins[:, :1], plane) for plane in (near, far))
    return rays


def encoded_by_hand(
    origin: np.ndarray, direction: np.ndarray, start: float, end: float, area: float, axes: np.ndarray, octaves: int
) -> np.ndarray:
    """Mip-NeRF's eq. 7 and 8, Mip-NeRF 360's eq. 10 with its Jacobian, and Mip-NeRF's eq. 14, in float64."""
    middle, half, radius = (start + end) / 2, (end - start) / 2, math.sqrt(area / 3)
    below = 3 * middle**2 + half**2
    along = middle + 2 * middle * half**2 / below
    variance_along = half**2 / 3 - 4 * half**4 * (12 * middle**2 - half**2) / (15 * below**2)
    variance_across = radius**2 * (middle**2 / 4 + 5 * half**2 / 12 - 4 * half**4 / (15 * below))
    outer = np.outer(direction, direction)
    mean, covariance = origin + along * direction, variance_along * outer + variance_across * (np.eye(3) - outer)
    length = np.linalg.norm(mean)
    if length > 1:
        unit = np.outer(mean, mean) / length**2
        jacobian = (2 / length - 1 / length**2) * (np.eye(3) - unit) + unit / length**2
        mean, covariance = (2 - 1 / length) * mean / length, jacobian @ covariance @ jacobian.T
    features = []
    for octave in range(octaves):
        angles = 2.0**octave * axes @ mean
        heights = np.exp(-0.5 * 4.0**octave * np.einsum("di,ij,dj->d", axes, covariance, axes))
        features += [heights * np.sin(angles), heights * np.cos(angles)]
    return np.concatenate(features)


def network_by_hand(
    radiance: Mip360Radiance, encoded: np.ndarray, direction: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Density and color, layer by layer."""
    weights = {name: value.detach().numpy() for name, value in radiance.network.named_parameters()}

    def layer(name: str, values: np.ndarray) -> np.ndarray:
        return weights[f"{name}.weight"] @ values + weights[f"{name}.bias"]

    values = encoded
    for index in range(TINY["num_layers"]):
        values = np.maximum(layer(f"trunk.layers.{index}", values), 0)
    density = np.log1p(np.exp(layer("density_head", values) - 1))
    angles = np.outer(direction, 2.0 ** np.arange(4)).ravel()
    towards = np.concatenate([np.sin(angles), np.cos(angles), direction])
    hidden = np.maximum(layer("color_head.layers.0", np.concatenate([layer("bottleneck", values), towards])), 0)
    color = 1 / (1 + np.exp(-layer("color_head.layers.1", hidden)))
    return density, color * 1.002 - 0.001


@pytest.mark.parametrize(("start", "end"), [(0.3, 0.5), (2.9, 3.4), (50.0, 400.0)])
def test_one_frustum_through_everything(start: float, end: float):
    radiance = radiance_of(num_frequencies=8).double()
    origin, direction = np.array([0.4, -0.9, 0.2]), np.array([2.0, -1.0, 2.0]) / 3
    by_torch = {name: torch.tensor(value)[None] for name, value in (("origins", origin), ("directions", direction))}
    frustum = Frustums(
        **by_torch,
        starts=torch.tensor([[start]]).double(),
        ends=torch.tensor([[end]]).double(),
        pixel_area=torch.tensor([[1e-4]]).double(),
    )
    seen = []
    radiance.network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    means, covariances = mip360_radiance._gaussians(frustum)
    towards = torch.tensor(direction)[None, None]
    density, color = radiance._evaluate(radiance.network, means[None], covariances[None], towards)
    axes = radiance.network.encoding.directions.double().numpy()
    expected = encoded_by_hand(origin, direction, start, end, 1e-4, axes, 8)
    np.testing.assert_allclose(seen[0][0, 0].numpy(), expected, atol=1e-6)
    expected_density, expected_color = network_by_hand(radiance, expected, direction)
    np.testing.assert_allclose(density[0, 0].detach().numpy(), expected_density, atol=1e-6)
    np.testing.assert_allclose(color[0, 0].detach().numpy(), expected_color, atol=1e-6)


def test_published_sizes():
    radiance = Mip360RadianceConfig().setup(scene_box=unit_scene_box(), num_train_data=4, is_unbounded=True)
    sizes = {name: tuple(weight.shape) for name, weight in radiance.named_parameters() if weight.ndim == 2}
    assert radiance.network.encoding.get_out_dim() == 2 * 12 * 21
    trunk = [shape for name, shape in sizes.items() if name.startswith("network.trunk")]
    assert trunk == [(1024, 504), *[(1024, 1024)] * 4, (1024, 504 + 1024), *[(1024, 1024)] * 2]
    proposal = [shape for name, shape in sizes.items() if name.startswith("proposal_network.trunk")]
    assert proposal == [(256, 504), *[(256, 256)] * 3]
    assert sizes["network.bottleneck.weight"] == (256, 1024)
    colors = [shape for name, shape in sizes.items() if name.startswith("network.color_head")]
    assert colors == [(128, 256 + 3 + 2 * 3 * 4), (3, 128)]
    assert radiance.config.num_proposal_samples == (64, 64) and radiance.config.num_nerf_samples == 32
    for name, weight in radiance.named_parameters():
        bound = math.sqrt(6.0 / weight.shape[-1]) if weight.ndim == 2 else 0.0  # He's
        assert 0.95 * bound <= float(weight.detach().abs().max()) <= bound, name


def test_directions_are_encoded_without_pi():
    direction = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]), dim=0)
    encoded = radiance_of().network.direction_encoding(direction)
    angles = direction[:, None] * 2.0 ** torch.arange(4)
    expected = torch.cat([torch.sin(angles).flatten(), torch.cos(angles).flatten(), direction])
    torch.testing.assert_close(encoded, expected)


def test_distances_are_uniform_in_disparity_and_every_ray_ends_somewhere():
    radiance = radiance_of().eval()
    along = radiance(central_rays())
    samples = along.proposal_samples[0]
    starts, ends = samples.frustums.starts[..., 0], samples.frustums.ends[..., 0]
    torch.testing.assert_close(starts[:, 0], torch.full((8,), 0.2))
    assert float(ends[:, -1].min()) > 1e5
    widths = 1 / starts - 1 / ends
    torch.testing.assert_close(widths, widths[:, :1].expand_as(widths), rtol=1e-3, atol=0)
    for weights in (along.weights, *along.proposal_weights):
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(8, 1))
    assert [weights.shape[1] for weights in (*along.proposal_weights, along.weights)] == [8, 6, 5]


def test_in_the_ball_distances_are_uniform_and_rays_may_pass():
    along = radiance_of(is_unbounded=False).eval()(central_rays(near=1.0, far=3.0))
    starts = along.proposal_samples[0].frustums.starts[..., 0]
    torch.testing.assert_close(starts, torch.linspace(1.0, 3.0, 9)[:-1].expand(8, -1))
    assert float(along.weights.detach().sum(dim=1).max()) < 1.0


def test_phase_a_asks_no_proposal_network():
    radiance = radiance_of()
    radiance.set_schedule(phase_a=True, phase_b_progress=0.0, active_levels=0.0, density_noise=0.5)
    along = radiance(central_rays())
    assert along.weights.shape[1] == 7 and not along.proposal_weights
    assert radiance.network.density_noise == 0.5 and radiance.network.view_dependence == 0.0


def test_frequencies_fade_in_in_both_networks():
    radiance = radiance_of()
    for active_levels, silent in ((0.0, 2), (0.5, 1), (1.0, 0)):
        radiance.set_schedule(False, 0.0, active_levels, 0.0)
        for network in (radiance.network, radiance.proposal_network):
            encoded = network.encoding(torch.rand(3), 1e-4 * torch.eye(3)).view(4, -1)
            assert int((encoded == 0).all(dim=1).sum()) == silent


def test_gradients_of_cameras_are_whole():
    """Those of finite differences, at fixed samples: through means and through the cones' width and direction."""
    radiance = radiance_of().double().eval()
    poses = random_poses(2).double()
    edges = torch.linspace(0.1, 0.9, 7).double().expand(4, -1)

    def colors(poses: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
        rays = central_rays(poses)
        # Unit directions and free origins: what `rays_from_poses` takes off along the rays is left in here.
        rays.origins = poses[:, :, 3].repeat_interleave(2, dim=0)
        rays.pixel_area = area.expand(4, 1)
        samples = radiance._samples(rays, edges)
        means, covariances = mip360_radiance._gaussians(samples.frustums)
        density, rgb = radiance._evaluate(radiance.network, means, covariances, samples.frustums.directions)
        return torch.cat([density, rgb], dim=-1)

    area = torch.tensor([[0.3]]).double()
    assert torch.autograd.gradcheck(colors, (poses.requires_grad_(), area.requires_grad_()))


def test_the_proposal_network_learns_from_the_other_and_moves_no_camera():
    radiance, poses = radiance_of(), random_poses(4).requires_grad_()
    along = radiance(central_rays(poses))
    loss = interlevel_loss(along)
    assert float(loss) > 0
    loss.backward()
    assert poses.grad is None or not poses.grad.any()
    assert all(parameter.grad is None for parameter in radiance.network.parameters())
    assert any(
        bool(parameter.grad.any()) for parameter in radiance.proposal_network.parameters() if parameter.grad is not None
    )
    radiance.zero_grad()
    radiance(central_rays(poses)).rgb.sum().backward()
    assert all(parameter.grad is None for parameter in radiance.proposal_network.parameters())
    assert poses.grad is not None and poses.grad.any()


def test_wide_networks_are_computed_in_chunks_with_the_same_gradients(monkeypatch: pytest.MonkeyPatch):
    radiance = radiance_of().eval()
    results = []
    calls, evaluate = [], radiance._evaluate
    monkeypatch.setattr(radiance, "_evaluate", lambda *inputs: calls.append(len(inputs[1])) or evaluate(*inputs))
    for budget in (2**30, radiance.network.bytes_per_sample * 3 * 5):
        monkeypatch.setattr(mip360_radiance, "BYTES_IN_MEMORY", budget)
        radiance.zero_grad()
        calls.clear()
        along = radiance(central_rays())
        assert (max(calls) == 8) == (budget == 2**30) and max(calls) <= 8
        (along.rgb.sum() + along.weights[:, 0].sum()).backward()
        results.append((along.rgb, [parameter.grad for parameter in radiance.network.parameters()]))
    (rgb, gradients), (rgb_in_chunks, gradients_in_chunks) = results
    torch.testing.assert_close(rgb, rgb_in_chunks)
    torch.testing.assert_close(gradients, gradients_in_chunks)


def test_samples_are_random_in_training_alone():
    radiance, rays = radiance_of(), central_rays()
    starts = [radiance(rays).ray_samples.frustums.starts for _ in range(2)]
    assert not torch.equal(*starts)
    radiance.eval()
    starts = [radiance(rays).ray_samples.frustums.starts for _ in range(2)]
    assert torch.equal(*starts)


def test_sampling_begins_uniform_and_ends_at_what_is_there():
    """A wall that only the proposal network knows of."""
    radiance = radiance_of(is_unbounded=False, num_proposal_samples=(64,), num_nerf_samples=16).eval()
    rays = central_rays(near=1.0, far=3.0)

    def wall(network: Any, means: torch.Tensor, covariances: torch.Tensor, directions: Any) -> Any:
        distance = (means - rays.origins[:, None]).norm(dim=-1, keepdim=True)
        return 100.0 * (distance > 2.0), torch.zeros_like(means)

    radiance._in_chunks = wall  # type: ignore[method-assign]
    middles = []
    for progress in (0.0, 1.0):
        radiance.set_schedule(False, progress, 1.0, 0.0)
        frustums = radiance(rays).ray_samples.frustums
        middles.append((frustums.starts + frustums.ends)[..., 0].mul(0.5))
    assert float(middles[0].min()) < 1.2 and float(middles[0].max()) > 2.8, "spread over the whole ray"
    assert float((middles[-1] - 2.0).abs().median()) < 0.05, "at the wall's face"
    radiance.set_schedule(False, 0.3, 1.0, 0.0)
    assert radiance._anneal == pytest.approx(10 * 0.3 / (9 * 0.3 + 1)), "eq. 18"


def test_half_precision_around_it_leaves_positions_alone():
    radiance, seen = radiance_of(), []
    radiance.network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    means, covariances = 3.0 * torch.randn(20, 3), 1e-6 * torch.eye(3).expand(20, 3, 3)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            radiance._density_and_features(radiance.network, means, covariances)
    torch.testing.assert_close(seen[0], seen[1])


def test_density_of_points_is_differentiable_and_positive():
    positions = torch.randn(6, 2, 3, requires_grad=True)
    density = radiance_of().density(positions)
    assert density.shape == (6, 2, 1) and bool((density > 0).all())
    density.sum().backward()
    assert positions.grad is not None and positions.grad.isfinite().all()


def test_a_smaller_pixel_lets_shorter_waves_through():
    radiance, seen = radiance_of(num_frequencies=9), []
    radiance.network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for area in (1e-2, 1e-6):
        radiance.eval()(central_rays(area=area))
    coarse, fine = (encoded.view(-1, 9, 12).square().mean(dim=(0, 2)) for encoded in seen)
    assert (fine >= coarse - 1e-6).all() and float(fine[7] / coarse[7]) > 5
