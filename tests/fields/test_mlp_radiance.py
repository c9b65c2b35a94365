import pytest
import torch
from analytic_scene import model_of, random_poses
from nerfstudio.cameras.rays import RayBundle

from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.data.dataparser import unit_scene_box
from gnerf_ns.fields.mlp_radiance import MLPRadiance, MLPRadianceConfig, published_encoding


@pytest.fixture
def radiance() -> MLPRadiance:
    torch.manual_seed(0)
    config = MLPRadianceConfig(
        num_layers=6, layer_width=16, layer_width_color=8, num_coarse_samples=8, num_fine_samples=5
    )
    return config.setup(scene_box=unit_scene_box(), num_train_data=4)


def central_rays() -> RayBundle:
    directions = torch.nn.functional.normalize(torch.tensor([[[0.0, 0.0, -1.0], [0.1, 0.05, -1.0]]]), dim=-1)
    return rays_from_poses(random_poses(4), directions.expand(4, -1, -1), torch.arange(4))


def test_published_sizes():
    config = MLPRadianceConfig()
    assert (config.num_layers, config.layer_width) == (8, 360)
    assert (config.num_coarse_samples, config.num_fine_samples) == (64, 64)
    assert (config.position_frequencies, config.direction_frequencies) == (10, 4)


def test_frequencies_are_those_of_nerf_s_equation_4(radiance: MLPRadiance):
    config = radiance.config
    for encoding, count in (
        (radiance.nerf_field.position_encoding, config.position_frequencies),
        (radiance.nerf_field.direction_encoding, config.direction_frequencies),
    ):
        coordinates = 2 * torch.rand(20, 3) - 1
        angles = coordinates[..., None] * torch.pi * 2.0 ** torch.arange(count)
        expected = torch.cat([torch.sin(angles).flatten(1), torch.cos(angles).flatten(1), coordinates], dim=1)
        torch.testing.assert_close(encoding(coordinates), expected, atol=1e-3, rtol=0)


def test_no_band_repeats_within_the_ball():
    """Opposite halves of the scene differ in the lowest band; x and x + 1 share the others."""
    lowest = published_encoding(1)
    there, opposite = torch.full((1, 3), -0.7), torch.full((1, 3), 0.3)
    assert (lowest(there) - lowest(opposite))[:, :6].abs().min() > 0.5


def test_fine_samples_contain_the_coarse_ones(radiance: MLPRadiance):
    bundle = central_rays()
    bundle.nears, bundle.fars = torch.full((8, 1), 1.8), torch.full((8, 1), 3.7)
    fine = radiance(bundle)
    (coarse,) = fine.earlier_levels
    assert coarse.rgb.shape == (8, 8, 3)
    assert fine.rgb.shape == (8, 8 + 5 + 1, 3)  # intervals between the coarse ones' edges and the new ones
    assert not fine.proposal_weights
    edges = torch.cat([fine.ray_samples.frustums.starts, fine.ray_samples.frustums.ends[:, -1:]], dim=1)[..., 0]
    for ray in range(8):
        for start in coarse.ray_samples.frustums.starts[ray, :, 0]:
            assert (edges[ray] - start).abs().min() < 1e-5


def test_the_network_learns_from_both_passes(radiance: MLPRadiance):
    model = model_of(radiance, photometric_loss_mult=50.0)
    outputs = model.render(central_rays())
    assert len(outputs["earlier_rgb"]) == 1
    target = torch.rand(8, 3)
    loss = model.get_photometric_loss(outputs, target)
    expected = 50 * sum((rgb - target).square().mean() for rgb in (outputs["rgb"], outputs["earlier_rgb"][0]))
    torch.testing.assert_close(loss, expected)
    for rgb in (outputs["rgb"], outputs["earlier_rgb"][0]):
        gradients = torch.autograd.grad(rgb.sum(), list(radiance.parameters()), retain_graph=True, allow_unused=True)
        assert all(gradient is not None for gradient in gradients)
    assert model.get_regularization_losses(outputs) == {}


def test_the_coarse_pass_is_seen_over_the_same_random_background(radiance: MLPRadiance):
    """A clear image asks both passes for emptiness, whatever the background of the step."""
    model = model_of(radiance, background_color="random")
    with torch.no_grad():
        for name, parameter in radiance.nerf_field.field_output_density.named_parameters():
            parameter.fill_(-100.0 if name.endswith("bias") else 0.0)
    outputs = model.render(central_rays())
    assert outputs["accumulation"].max() < 1e-6
    assert float(model.get_photometric_loss(outputs, torch.zeros(8, 4))) < 1e-12


def test_noise_acts_while_training_only(radiance: MLPRadiance):
    bundle = central_rays()
    bundle.nears, bundle.fars = torch.full((8, 1), 1.8), torch.full((8, 1), 3.7)

    def coarse_weights() -> torch.Tensor:
        torch.manual_seed(0)
        return radiance(bundle).earlier_levels[0].weights

    radiance.eval()
    quiet = coarse_weights()
    radiance.set_schedule(phase_a=True, phase_b_progress=0.0, active_levels=0.0, density_noise=5.0)
    assert torch.equal(coarse_weights(), quiet)
    radiance.train()
    noisy = coarse_weights()
    radiance.set_schedule(phase_a=True, phase_b_progress=0.0, active_levels=0.0, density_noise=0.0)
    assert not torch.equal(coarse_weights(), noisy)
    assert noisy.std() > 2 * coarse_weights().std()


def test_noise_leaves_space_that_is_surely_empty_empty(radiance: MLPRadiance):
    """It is added before the activation (NeRF appendix A): after it, empty space would turn to fog."""
    with torch.no_grad():
        for name, parameter in radiance.nerf_field.field_output_density.named_parameters():
            parameter.fill_(-30.0 if name.endswith("bias") else 0.0)
    bundle = central_rays()
    bundle.nears, bundle.fars = torch.full((8, 1), 1.8), torch.full((8, 1), 3.7)
    radiance.train()
    radiance.set_schedule(phase_a=True, phase_b_progress=0.0, active_levels=0.0, density_noise=1.0)
    assert radiance(bundle).earlier_levels[0].weights.max() < 1e-6


@pytest.mark.parametrize("num_layers", [1, 4, 5, 6])
def test_any_depth_renders(num_layers: int):
    torch.manual_seed(0)
    config = MLPRadianceConfig(num_layers=num_layers, layer_width=8, num_coarse_samples=4, num_fine_samples=4)
    radiance = config.setup(scene_box=unit_scene_box(), num_train_data=4)
    outputs = model_of(radiance).render(central_rays())
    assert outputs["rgb"].shape == (8, 3)
    outputs["rgb"].square().sum().backward()
    for name, parameter in radiance.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    widths = [layer.in_features for layer in radiance.nerf_field.mlp_base.layers]
    position_dim = widths[0]
    with_position = [number for number, width in enumerate(widths) if width == 8 + position_dim]
    assert len(widths) == num_layers and with_position == ([4] if num_layers > 5 else [])


def test_every_parameter_is_in_the_one_group(radiance: MLPRadiance):
    (group,) = radiance.get_param_groups().values()
    assert sorted(map(id, group)) == sorted(map(id, radiance.parameters()))


def test_density_is_the_networks(radiance: MLPRadiance):
    positions = torch.rand(3, 2, 3).requires_grad_()
    density = radiance.density(positions)
    torch.testing.assert_close(density, radiance.nerf_field.density_fn(positions))
    assert density.shape == (3, 2, 1)
