from types import SimpleNamespace
from typing import Any

import pytest
import torch
from analytic_scene import TINY_RADIANCE, random_poses
from nerfstudio.cameras.rays import RayBundle
from torch import nn

from gnerf_ns.cameras.rays import intersect_sphere, rays_from_poses
from gnerf_ns.data.dataparser import unit_scene_box
from gnerf_ns.fields import hash_radiance
from gnerf_ns.fields.hash_radiance import (
    HashRadiance,
    HashRadianceConfig,
    redraw_tcnn_weights,
    resolve_implementation,
)
from gnerf_ns.models.gnerf import GNeRFModelConfig


@pytest.fixture
def radiance() -> HashRadiance:
    torch.manual_seed(0)
    return HashRadianceConfig(**TINY_RADIANCE).setup(scene_box=unit_scene_box(), num_train_data=4)


@pytest.fixture
def rays() -> RayBundle:
    poses = random_poses(5)
    bundle = rays_from_poses(poses, torch.tensor([[[0.0, 0.0, -1.0], [0.1, 0.0, -0.995]]] * 5), torch.arange(5))
    bundle.nears, bundle.fars, hits = intersect_sphere(bundle, 1.0)
    assert hits.all()
    return bundle


def test_phase_a_samples_uniformly_and_leaves_the_proposal_network_alone(radiance: HashRadiance, rays: RayBundle):
    radiance.set_schedule(phase_a=True, phase_b_progress=0.0, active_levels=0.0, density_noise=0.0)
    along = radiance(rays)
    assert along.rgb.shape == (10, 8, 3) and along.weights.shape == (10, 8, 1)
    assert not along.proposal_weights and not along.proposal_samples
    along.rgb.sum().backward()
    assert all(parameter.grad is None for parameter in radiance.proposal_network.parameters())
    assert rays.nears is not None and rays.fars is not None
    starts, ends = along.ray_samples.frustums.starts, along.ray_samples.frustums.ends
    assert (starts >= rays.nears[:, None] - 1e-4).all() and (ends <= rays.fars[:, None] + 1e-4).all()


def test_phase_b_samples_by_the_proposal_network(radiance: HashRadiance, rays: RayBundle):
    radiance.set_schedule(phase_a=False, phase_b_progress=0.5, active_levels=1.0, density_noise=0.0)
    along = radiance(rays)
    assert along.rgb.shape == (10, 6, 3)
    assert [weights.shape for weights in along.proposal_weights] == [(10, 8, 1)]
    assert len(along.proposal_samples) == 1


def test_the_proposal_network_gets_gradients_at_every_step(radiance: HashRadiance, rays: RayBundle):
    # nerfstudio's sampler, left alone, trains its networks at every other step only, and not at all in a step that
    # rendered something else before.
    for step in range(25):
        radiance.set_schedule(phase_a=False, phase_b_progress=step / 25, active_levels=1.0, density_noise=0.0)
        if step % 3 == 0:
            with torch.no_grad():
                radiance(rays)
        assert radiance(rays).proposal_weights[0].requires_grad, f"not at step {step}"


def test_levels_run_from_phase_a_levels_to_all(radiance: HashRadiance, rays: RayBundle):
    encoding = radiance.field.hash_encoding
    for active_levels, expected in ((0.0, [1, 1, 0]), (0.5, [1, 1, 0.5]), (1.0, [1, 1, 1])):
        radiance.set_schedule(phase_a=False, phase_b_progress=0.0, active_levels=active_levels, density_noise=0.3)
        torch.testing.assert_close(encoding._level_weights, torch.tensor(expected).float())
        assert radiance.field.density_noise == 0.3


def test_sampling_is_annealed_from_uniform_to_proposed(radiance: HashRadiance):
    anneals = []
    for progress in (0.0, 0.1, 0.2, 0.9):
        radiance.set_schedule(False, progress, 1.0, 0.0)
        anneals.append(radiance.proposal_sampler._anneal)
    assert anneals[0] == 0.0 and anneals[2:] == [1.0, 1.0]
    assert anneals[1] == pytest.approx(10 * 0.5 / (9 * 0.5 + 1))  # Mip-NeRF 360 eq. 18 at half of it


def test_every_parameter_is_in_one_group(radiance: HashRadiance):
    groups = radiance.get_param_groups()
    assert groups.keys() == {"fields", "proposal_networks"}
    together = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(together) == sorted(id(parameter) for parameter in radiance.parameters())


def test_density_is_the_fields_at_points(radiance: HashRadiance):
    radiance.eval()
    positions = torch.rand(4, 5, 3).requires_grad_()
    density = radiance.density(positions)
    assert density.shape == (4, 5, 1) and (density > 0).all()
    assert torch.autograd.grad(density.sum(), positions)[0].abs().max() > 0


@pytest.mark.parametrize(
    ("cuda", "tcnn", "expected", "said"),
    [
        (False, True, "torch", "no GPU"),
        (True, False, "torch", "not installed"),
        (True, True, "tcnn", None),
    ],
)
def test_implementation_follows_the_machine_and_says_so_in_one_line(monkeypatch, cuda, tcnn, expected, said):
    lines = []
    hash_radiance._say_once.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(hash_radiance, "TCNN_EXISTS", tcnn)
    monkeypatch.setattr(hash_radiance.CONSOLE, "print", lines.append)
    assert resolve_implementation("auto") == resolve_implementation("auto") == expected
    assert len(lines) == (said is not None) and all(said in line for line in lines)
    assert resolve_implementation("torch") == "torch" and resolve_implementation("tcnn") == "tcnn"


class FakeTcnnModule(nn.Module):
    """As tiny-cuda-nn's modules: the weights are one flat tensor, drawn from a seed that is always the same."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.native_tcnn_module = SimpleNamespace(
            initial_params=lambda seed: torch.rand(20, generator=torch.Generator().manual_seed(seed))
        )
        self.params = nn.Parameter(self.native_tcnn_module.initial_params(1337))


@pytest.fixture
def fake_tcnn(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(Encoding=FakeTcnnModule, Network=FakeTcnnModule, NetworkWithInputEncoding=FakeTcnnModule)
    for module in ("encodings", "mlp"):
        monkeypatch.setattr(f"nerfstudio.field_components.{module}.TCNN_EXISTS", True)
        monkeypatch.setattr(f"nerfstudio.field_components.{module}.tcnn", library)


def test_new_weights_are_new_under_tiny_cuda_nn(fake_tcnn):
    def weights(model: nn.Module) -> torch.Tensor:
        parts = [part.params.detach().clone() for part in model.modules() if isinstance(part, FakeTcnnModule)]
        assert len(parts) >= 5
        return torch.stack(parts)

    torch.manual_seed(0)
    config = GNeRFModelConfig(radiance=HashRadianceConfig(**{**TINY_RADIANCE, "implementation": "tcnn"}))
    model = config.setup(scene_box=unit_scene_box(), num_train_data=4)
    first, second = weights(model), weights(model.new_like())
    assert len({tuple(row.tolist()) for row in torch.cat([first, second])}) == 2 * len(first), "no two are the same"
    model.reset_parameters()
    assert ((weights(model) - first).abs().amax(dim=1) > 0.01).all()
    torch.manual_seed(0)
    assert torch.equal(weights(config.setup(scene_box=unit_scene_box(), num_train_data=4)), first)


def test_without_tiny_cuda_nn_no_numbers_are_drawn_for_it(radiance: HashRadiance):
    state = torch.random.get_rng_state()
    redraw_tcnn_weights(radiance)
    assert torch.equal(torch.random.get_rng_state(), state)
