import math
from typing import Any, Literal

import pytest
import torch
from analytic_scene import RADIUS, Blobs, ConstantFog, cameras, model_of, random_poses
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components import renderers
from torch import Tensor

from gnerf_ns.cameras.rays import SHOWS_NOTHING, intersect_sphere, rays_from_poses
from gnerf_ns.data.dataparser import unit_scene_box
from gnerf_ns.fields.mip360_radiance import Mip360RadianceConfig
from gnerf_ns.fields.mlp_radiance import MLPRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModel, GNeRFModelConfig
from gnerf_ns.utils.errors import InputError


def rays_at_offsets(offsets: Tensor) -> RayBundle:
    """Parallel rays along -x from far out, which pass the origin at given distances."""
    origins = torch.stack([torch.full_like(offsets, 3.0), offsets, torch.zeros_like(offsets)], dim=-1)
    return RayBundle(
        origins=origins,
        directions=torch.tensor([[-1.0, 0.0, 0.0]]).expand_as(origins).contiguous(),
        pixel_area=torch.zeros(len(origins), 1),
        camera_indices=torch.zeros(len(origins), 1, dtype=torch.long),
    )


def central_rays(count: int) -> RayBundle:
    directions = 0.12 * torch.randn(1, count, 3, generator=torch.Generator().manual_seed(0))
    directions[..., 2] = -1.0
    return rays_from_poses(random_poses(1), torch.nn.functional.normalize(directions, dim=-1), torch.zeros(1).long())


@pytest.fixture
def hash_model() -> GNeRFModel:
    torch.manual_seed(0)
    model = model_of()
    with torch.no_grad():
        model.radiance.field.hash_encoding.hash_table.mul_(3000)
    return model


BACKGROUNDS = {"white": 1.0, "black": 0.0, "random": 0.0}


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_constant_density_has_its_closed_form(background: Any):
    fog = ConstantFog()
    model = model_of(fog, background_color=background).eval()
    offsets = torch.tensor([0.0, 0.3, -0.8, 0.99])
    outputs = model.render(rays_at_offsets(offsets), with_depth=True)
    chord = 2 * (1 - offsets.square()).sqrt()
    opacity = 1 - torch.exp(-fog.DENSITY * chord)
    torch.testing.assert_close(outputs["accumulation"][:, 0], opacity, atol=1e-4, rtol=0)
    expected = opacity[:, None] * torch.tensor(fog.COLOR) + (1 - opacity[:, None]) * BACKGROUNDS[background]
    torch.testing.assert_close(outputs["rgb"], expected, atol=1e-4, rtol=0)
    # Half of the matter lies before the median depth, where the opacity so far is half of the whole or 1/2.
    median = 3 - 0.5 * chord + math.log(2) / fog.DENSITY
    opaque = opacity > 0.5
    assert (outputs["depth"][opaque, 0] - median[opaque]).abs().max() < 2 / 32 + 1e-3


def test_expected_depth_is_the_weighted_mean():
    model = model_of(ConstantFog(num_samples=512)).eval()
    outputs = model.render(rays_at_offsets(torch.tensor([0.0])), with_depth=True)
    density, chord = ConstantFog.DENSITY, 2.0
    mean = 1 / density - chord * math.exp(-density * chord) / (1 - math.exp(-density * chord))
    assert float(outputs["expected_depth"]) == pytest.approx(2.0 + mean, abs=2e-3)


def test_last_sample_background_takes_each_rays_own_last_color():
    class Rainbow(ConstantFog):
        def forward(self, ray_bundle):
            along = super().forward(ray_bundle)
            along.rgb = (0.5 + 0.5 * along.ray_samples.frustums.get_positions()).clamp(0, 1)
            return along

    model = model_of(Rainbow(), background_color="last_sample").eval()
    rays = rays_at_offsets(torch.tensor([0.0, 0.5, 1.5]))
    outputs = model.render(rays)
    rays.nears, rays.fars, _ = intersect_sphere(rays, 1.0)
    along = model.radiance(rays)
    transmitted = 1 - along.weights.sum(1)
    expected = (along.weights * along.rgb).sum(1) + transmitted * along.rgb[:, -1]
    torch.testing.assert_close(outputs["rgb"], expected)
    assert outputs["accumulation"][2] > 0, "rays that miss the ball have samples, too"


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("offsets", [[0.0, 1.2, -5.0], [1.2, 2.0], [1.05]])
def test_rays_that_miss_the_ball_show_the_background(background: Any, training: bool, offsets):
    # The box of the hash grid reaches beyond the ball; what it holds there must not be seen.
    model = model_of(ConstantFog(), background_color=background).train(training)
    outputs = model.get_outputs(rays_at_offsets(torch.tensor(offsets)))
    missing = torch.tensor(offsets).abs() > 1
    assert (outputs["rgb"][missing] - BACKGROUNDS[background]).abs().max() < 1e-6
    assert outputs["accumulation"][missing].abs().max() < 1e-6
    assert (outputs["accumulation"][~missing] > 0.5).all()


def test_an_unbounded_model_shows_what_lies_beyond_the_ball():
    torch.manual_seed(0)
    model = model_of(extent="unbounded", background_color="last_sample").eval()
    rays = rays_at_offsets(torch.tensor([0.0, 5.0]))
    rays.directions = -rays.directions  # away from the ball
    with torch.no_grad():
        model.radiance.field.hash_encoding.hash_table.normal_()
    rays.origins.requires_grad_()
    outputs = model.render(rays)
    assert outputs["accumulation"].min() > 0.5 and outputs["rgb"].std() > 0
    model.train()
    model.render(rays)["rgb"].sum().backward()
    assert rays.origins.grad is not None and rays.origins.grad.isfinite().all() and rays.origins.grad.any()


def test_gnerf_s_own_network_is_not_unbounded():
    with pytest.raises(InputError, match="cannot be unbounded"):
        GNeRFModelConfig(radiance=MLPRadianceConfig(), extent="unbounded").setup(
            scene_box=unit_scene_box(), num_train_data=1
        )


@pytest.mark.parametrize("extent", ["ball", "unbounded"])
def test_a_crop_of_cones_leaves_nothing_where_it_cuts(extent: Any):
    """In unbounded space what is last is opaque, but not where the viewer's crop ends a ray."""
    model = mip360_model(extent).eval()
    rays = central_rays(3)
    rays.nears = torch.tensor([[2.5], [1e10], [2.5]])
    rays.fars = torch.tensor([[2.6], [1e10], [2.7]])
    with renderers.background_color_override_context(torch.tensor([0.2, 0.3, 0.9])), torch.no_grad():
        model.radiance.network.density_head.bias.fill_(-10.0)
        model.radiance.network.density_head.weight.zero_()
        outputs = model.render(rays)
    assert float(outputs["accumulation"].max()) < 0.01
    torch.testing.assert_close(outputs["rgb"], torch.tensor([0.2, 0.3, 0.9]).expand(3, 3), rtol=0, atol=0.01)


def test_a_crop_cuts_rays_and_puts_its_own_color_behind_them():
    fog, color = ConstantFog(), torch.tensor([0.2, 0.3, 0.9])
    model = model_of(fog).eval()
    rays = rays_at_offsets(torch.tensor([0.0, 0.5, 1.5]))
    rays.nears = torch.tensor([[2.5], [1e10], [2.5]])  # nerfstudio's way to say that a ray misses the box
    rays.fars = torch.tensor([[3.25], [1e10], [3.25]])
    with renderers.background_color_override_context(color):
        outputs = model.render(rays)
    opacity = 1 - math.exp(-fog.DENSITY * 0.75)
    torch.testing.assert_close(outputs["accumulation"][:, 0], torch.tensor([opacity, 0.0, 0.0]), atol=1e-4, rtol=0)
    expected = opacity * torch.tensor(fog.COLOR) + (1 - opacity) * color
    torch.testing.assert_close(outputs["rgb"], torch.stack([expected, color, color]), atol=1e-4, rtol=0)


def test_a_step_in_which_all_rays_miss_still_has_a_gradient(hash_model: GNeRFModel):
    # A loss without any would end training; this one is there and moves nothing.
    outputs = hash_model.render(rays_at_offsets(torch.tensor([1.5, -2.0])))
    hash_model.get_photometric_loss(outputs, torch.zeros(2, 3)).backward()
    gradients = [parameter.grad for parameter in hash_model.radiance.field.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_random_background_differs_from_step_to_step_and_is_laid_below_both(monkeypatch):
    fog = ConstantFog()
    model = model_of(fog, background_color="random")
    assert not torch.equal(model.draw_background(), model.draw_background())
    background = torch.tensor([0.1, 0.9, 0.4])
    monkeypatch.setattr(model, "draw_background", lambda: background)
    outputs = model.render(rays_at_offsets(torch.tensor([0.0, 1.5])))
    over = model.colors_over(outputs, background)
    torch.testing.assert_close(over[1], background)
    torch.testing.assert_close(over, outputs["rgb"] + (1 - outputs["accumulation"]) * background)
    pixels = torch.cat([outputs["rgb"], outputs["accumulation"]], dim=-1)
    assert float(model.get_photometric_loss(outputs, pixels.detach())) < 1e-12


@pytest.mark.parametrize(("background", "value"), [("white", 1.0), ("black", 0.0), ("last_sample", 1.0)])
def test_photometric_loss_is_over_the_fixed_background(background: Any, value: float):
    model = model_of(ConstantFog(), background_color=background, photometric_loss_mult=3.0)
    outputs = {"rgb": torch.rand(6, 3), "accumulation": torch.rand(6, 1), "earlier_rgb": [], "earlier_accumulation": []}
    alpha = torch.rand(6, 1)
    premultiplied = torch.cat([torch.rand(6, 3) * alpha, alpha], dim=-1)
    target = premultiplied[:, :3] + (1 - alpha) * value
    expected = 3 * (outputs["rgb"] - target).square().mean()
    torch.testing.assert_close(model.get_photometric_loss(outputs, premultiplied), expected)


def test_charbonnier_loss_is_absolute_for_large_errors_and_squared_for_small_ones():
    model = model_of(ConstantFog(), photometric_loss="charbonnier")
    target, error = torch.full((4, 3), 0.5), torch.tensor([0.0, 1e-5, 0.1, 0.4])[:, None]
    outputs = {"rgb": target + error, "accumulation": torch.ones(4, 1), "earlier_rgb": [], "earlier_accumulation": []}
    losses = [math.sqrt(float(each) ** 2 + 0.001**2) for each in error]
    torch.testing.assert_close(model.get_photometric_loss(outputs, target), torch.tensor(losses).mean())
    outputs["rgb"] = target.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.get_photometric_loss(outputs, target), outputs["rgb"])
    assert torch.equal(gradient, torch.zeros(4, 3))


def test_color_gradients_with_respect_to_rays_equal_finite_differences():
    torch.manual_seed(0)
    model = model_of(Blobs(num_samples=256)).double().eval()
    blobs = model.radiance
    blobs.centers, blobs.radii, blobs.colors = blobs.centers.double(), blobs.radii.double(), blobs.colors.double()
    rays = central_rays(24)
    rays.directions = rays.directions.double()
    weights = torch.rand(24, 3, dtype=torch.float64)
    origins = rays.origins.double().requires_grad_()

    def color(origins: Tensor) -> Tensor:
        rays.origins = origins
        return (model.render(rays)["rgb"] * weights).sum(-1)

    (gradient,) = torch.autograd.grad(color(origins).sum(), origins)
    assert (gradient.abs().amax(-1) > 1e-2).sum() >= 12
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 1e-5
        slope = (color(origins + step) - color(origins - step)) / 2e-5
        # The interval within the ball counts as constant, so the samples do not slide along the ray.
        torch.testing.assert_close(gradient[:, axis], slope, atol=2e-2, rtol=2e-2)


def test_rgba_image_holds_the_object_without_its_background():
    for background in ("white", "black"):
        model = model_of(ConstantFog(), background_color=background).eval()
        outputs = model.get_outputs(rays_at_offsets(torch.tensor([0.0, 0.7, 1.5])))
        rgba = model.get_rgba_image(outputs)
        assert rgba.shape == (3, 4)
        torch.testing.assert_close(rgba[:2, :3], torch.tensor([ConstantFog.COLOR] * 2), atol=1e-4, rtol=0)
        torch.testing.assert_close(rgba[:, 3:], outputs["accumulation"])
        assert rgba[2, 3] == 0 and torch.isfinite(rgba).all()


def test_normals_point_out_of_the_object():
    class Ball(Blobs):
        def density(self, positions):
            return 200 * torch.sigmoid((0.5 - positions.norm(dim=-1, keepdim=True)) / 0.02)

    model = model_of(Ball(num_samples=256)).eval()
    rays = central_rays(50)
    with torch.no_grad():  # as every nerfstudio command renders
        outputs = model.get_outputs(rays)
    assert outputs["normals"].shape == (50, 3)
    assert outputs["normals"].min() >= 0 and outputs["normals"].max() <= 1
    solid = outputs["accumulation"][:, 0] > 0.99
    assert solid.sum() > 10
    surface = (rays.origins + rays.directions * outputs["depth"])[solid]
    normals = 2 * outputs["normals"][solid] - 1
    cosines = (normals * torch.nn.functional.normalize(surface, dim=-1)).sum(-1)
    degrees = cosines.clamp(-1, 1).acos().rad2deg()
    assert degrees.max() < 10 and degrees.median() < 4


def test_rays_that_meet_no_surface_end_beyond_the_scene_box():
    model = model_of(ConstantFog()).eval()
    rays = rays_at_offsets(torch.tensor([0.0, 0.999, 1.2]))
    with torch.no_grad():
        outputs = model.get_outputs(rays)
    ends = rays.origins + rays.directions * outputs["depth"]
    assert ends[0].norm() < 1
    assert (outputs["accumulation"][1:] < 0.5).all() and (ends[1:, 0] < -(3**0.5)).all()


def test_training_outputs_have_no_normals_and_evaluation_no_radiance(hash_model: GNeRFModel):
    assert "normals" not in hash_model.get_outputs(central_rays(4))
    assert "radiance" not in hash_model.eval().get_outputs(central_rays(4))


def mip360_model(extent: Literal["ball", "unbounded"]) -> GNeRFModel:
    """With a thin wall in it, by which proposals are too low; its samples do not cover rays."""
    torch.manual_seed(0)
    radiance = Mip360RadianceConfig(
        num_layers=2, layer_width=64, num_layers_proposal=2, layer_width_proposal=8, num_proposal_samples=(7, 5)
    )
    config = GNeRFModelConfig(radiance=radiance, extent=extent, unbounded_planes=(0.2, 1e6))
    model = config.setup(scene_box=unit_scene_box(), num_train_data=3)
    with torch.no_grad():
        model.radiance.network.density_head.weight.mul_(20)
    return model


def test_distortion_does_not_depend_on_how_much_is_left_out(hash_model: GNeRFModel):
    """With weights of 15 and more, for few images, it would else crush what there is: 18.5 in place of 21 dB."""
    hash_model.set_schedule(False, 0.5, 1.0, 0.0)
    hash_model.config.distortion_loss_mult = 0.5
    grid = torch.linspace(-1.0, 1.0, 64)
    x, y, z = torch.meshgrid(grid, grid, grid, indexing="ij")
    assert hash_model.occupancy is not None
    hash_model.occupancy.occupied.copy_(x.square() + y.square() + z.square() < 0.3**2)
    # Through the middle, beside what is occupied, and beside the ball.
    aside = torch.tensor([0.0, 0.1, -0.2, 0.6, 0.7, -0.8, 1.5])
    origins = torch.stack([aside, 0.0 * aside, 0.0 * aside + 3.0], dim=-1)
    rays = RayBundle(
        origins=origins,
        directions=torch.tensor([[0.0, 0.0, -1.0]]).expand(7, 3),
        pixel_area=torch.full((7, 1), 1e-4),
        camera_indices=torch.zeros(7, 1, dtype=torch.long),
        metadata={SHOWS_NOTHING: torch.ones(7, 1, dtype=torch.bool)},
    )
    torch.manual_seed(0)
    outputs = hash_model.render(rays)
    radiance = outputs["radiance"]
    assert len(radiance.weights) == 3, "the others show nothing, and meet nothing"
    samples, weights = radiance.ray_samples.frustums, radiance.weights[..., 0]
    expected = torch.zeros(())
    for ray in range(3):
        starts, ends = samples.starts[ray, :, 0], samples.ends[ray, :, 0]
        middles, chord = (starts + ends) / 2, 2.0 * (1.0 - aside[ray] ** 2).sqrt()
        apart = (middles[:, None] - middles).abs()
        expected += (weights[ray][:, None] * weights[ray] * apart).sum() / chord
        expected += (weights[ray].square() * (ends - starts)).sum() / 3 / chord
    losses = hash_model.get_regularization_losses(outputs)
    torch.testing.assert_close(losses["distortion_loss"], 0.5 * expected / 6, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["hash", "ball", "unbounded"])
def test_regularizers_equal_double_loops(hash_model: GNeRFModel, kind: Any):
    model = hash_model if kind == "hash" else mip360_model(kind)
    model.config.distortion_loss_mult, model.config.interlevel_loss_mult = 0.5, 2.0
    outputs = model.render(central_rays(7))
    losses = model.get_regularization_losses(outputs)
    radiance = outputs["radiance"]
    assert float(losses["interlevel_loss"]) > 0 or kind == "hash"

    def edges_of(samples) -> Tensor:
        return torch.cat([samples.spacing_starts[..., 0], samples.spacing_ends[:, -1:, 0]], dim=-1)

    # Mip-NeRF 360 eq. 15, with distances as shares of the ray.
    edges, weights = edges_of(radiance.ray_samples), radiance.weights[..., 0]
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    distortion = torch.zeros(7)
    for ray in range(7):
        for i in range(weights.shape[1]):
            for j in range(weights.shape[1]):
                distortion[ray] += weights[ray, i] * weights[ray, j] * (middles[ray, i] - middles[ray, j]).abs()
            distortion[ray] += weights[ray, i].square() * (edges[ray, i + 1] - edges[ray, i]) / 3
    torch.testing.assert_close(losses["distortion_loss"], 0.5 * distortion.mean())

    # Eq. 13: a proposal weight that overlaps a final one must bound it.
    expected = torch.zeros(())
    for samples, proposed in zip(radiance.proposal_samples, radiance.proposal_weights, strict=True):
        proposal_edges, proposals = edges_of(samples), proposed[..., 0]
        excess = torch.zeros_like(weights)
        for ray in range(7):
            for i in range(weights.shape[1]):
                bound = sum(
                    proposals[ray, j]
                    for j in range(proposals.shape[1])
                    if proposal_edges[ray, j] < edges[ray, i + 1] and proposal_edges[ray, j + 1] > edges[ray, i]
                )
                excess[ray, i] = (weights[ray, i] - bound).clamp_min(0).square() / (weights[ray, i] + 1e-7)
        expected = expected + excess.mean()
    torch.testing.assert_close(losses["interlevel_loss"], 2.0 * expected, rtol=1e-4, atol=1e-7)


def test_interlevel_loss_teaches_the_proposal_network_only(hash_model: GNeRFModel):
    with torch.no_grad():
        hash_model.radiance.proposal_network.mlp_base[1].layers[-1].bias.fill_(-5.0)  # far too little matter
    loss = hash_model.get_regularization_losses(hash_model.render(central_rays(7)))["interlevel_loss"]
    loss.backward()
    assert all(parameter.grad is None for parameter in hash_model.radiance.field.parameters())
    assert any(
        parameter.grad is not None and parameter.grad.abs().max() > 0
        for parameter in hash_model.radiance.proposal_network.parameters()
    )


def test_model_follows_the_schedule(hash_model: GNeRFModel):
    hash_model.set_schedule(phase_a=True, phase_b_progress=0.0, active_levels=0.0, density_noise=0.75)
    assert hash_model.render(central_rays(3))["radiance"].proposal_weights == []
    assert hash_model.radiance.field.density_noise == pytest.approx(0.75)
    hash_model.set_schedule(phase_a=False, phase_b_progress=0.3, active_levels=0.5, density_noise=0.0)
    assert len(hash_model.render(central_rays(3))["radiance"].proposal_weights) == 1
    assert hash_model.radiance.field.density_noise == 0
    assert hash_model.radiance.field.hash_encoding._level_weights[-1] == pytest.approx(0.5)


def test_the_schedule_weighs_the_distortion_loss(hash_model: GNeRFModel):
    outputs = hash_model.render(central_rays(3))
    plain = hash_model.get_regularization_losses(outputs)
    for boost in (16.0, 4.0):
        hash_model.set_schedule(False, 0.5, 1.0, 0.0, distortion_boost=boost)
        losses = hash_model.get_regularization_losses(outputs)
        torch.testing.assert_close(losses["distortion_loss"], boost * plain["distortion_loss"])
        torch.testing.assert_close(losses["interlevel_loss"], plain["interlevel_loss"])


def test_whole_image_and_its_metrics(monkeypatch):
    model = model_of(Blobs())
    monkeypatch.setattr(
        model, "image_metrics", lambda rendered, truth: {"largest": float((rendered - truth).abs().mean())}
    )
    camera = cameras(1, 12, 10)
    camera.camera_to_worlds = random_poses(1)
    model.eval()
    outputs = model.get_outputs_for_camera(camera)
    assert outputs["rgb"].shape == (10, 12, 3) and outputs["normals"].shape == (10, 12, 3)
    straight = torch.cat([(model.get_rgba_image(outputs)[..., :3]), outputs["accumulation"]], dim=-1)
    metrics, images = model.get_image_metrics_and_images(outputs, {"image": straight})
    assert metrics["largest"] < 1e-5
    assert images["img"].shape == (10, 36, 3)
    for name, image in images.items():
        assert image.ndim == 3 and image.shape[-1] == 3 and image.min() >= 0 and image.max() <= 1, name


def test_padding_of_an_image_does_not_count_in_its_metrics(monkeypatch):
    model = model_of(Blobs()).eval()
    monkeypatch.setattr(
        model, "image_metrics", lambda rendered, truth: {"largest": float((rendered - truth).abs().max())}
    )
    camera = cameras(1, 12, 10)
    camera.camera_to_worlds = random_poses(1)
    outputs = model.get_outputs_for_camera(camera)
    mask = torch.zeros((10, 12, 1), dtype=torch.bool)
    mask[:, 3:9] = True
    padded = torch.where(mask, outputs["rgb"], torch.zeros(3))
    metrics, images = model.get_image_metrics_and_images(outputs, {"image": padded, "mask": mask})
    assert metrics["largest"] < 1e-5
    assert images["img"].shape == (10, 18, 3) and images["depth"].shape == (10, 6, 3)
    metrics, _ = model.get_image_metrics_and_images(outputs, {"image": padded})
    assert metrics["largest"] > 0.1


@pytest.mark.parametrize("background", ["white", "black", "random"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_psnr_alone_is_that_among_all_metrics(background: Any, is_padded: bool):
    torch.manual_seed(0)
    model = model_of(Blobs()).eval()
    model.config.background_color = background
    model.renderer_rgb.background_color = background
    camera = cameras(1, 24, 20)
    camera.camera_to_worlds = random_poses(1)
    batch = {"image": torch.rand(20, 24, 4)}
    if is_padded:
        batch["mask"] = torch.zeros((20, 24, 1), dtype=torch.bool)
        batch["mask"][:, 6:18] = True
    metrics, _ = model.get_image_metrics_and_images(model.get_outputs_for_camera(camera), batch)
    assert model.get_image_psnr(camera, batch) == pytest.approx(metrics["psnr"], abs=1e-4)


def test_empty_space_is_left_out_in_evaluation_and_in_training_where_nothing_is_to_be_seen(hash_model: GNeRFModel):
    model = hash_model.eval()
    assert model.occupancy is not None
    # Matter in a slab about x = 0 alone, as far as the grid knows.
    cells = model.occupancy.occupied
    cells.zero_()
    cells[28:36] = True
    rays = rays_at_offsets(torch.tensor([0.0, 0.1, 0.2]))
    rays.directions[2] = torch.tensor([0.0, 0.0, 1.0])  # passes beside it
    rays.origins[2] = torch.tensor([0.6, 0.2, -3.0])
    seen = model.render(rays)
    assert bool((seen["accumulation"][:2] > 0).all()) and float(seen["accumulation"][2]) == 0
    assert seen["rgb"][2].tolist() == [1.0, 1.0, 1.0]
    model.train()
    samples = model.render(rays)["radiance"].ray_samples
    assert len(samples.frustums.starts) == 3, "its pixel may show what the grid does not know"
    x = samples.frustums.get_positions()[:2, :, 0]
    assert float(x.abs().max()) < 0.25, "others are sampled where there is matter"
    rays.metadata[SHOWS_NOTHING] = torch.tensor([[False], [True], [True]])
    assert len(model.render(rays)["radiance"].ray_samples.frustums.starts) == 2
    model.set_schedule(phase_a=True, phase_b_progress=0.0, active_levels=0.0, density_noise=0.0)
    assert len(model.render(rays)["radiance"].ray_samples.frustums.starts) == 3, "in phase A there is no shape yet"


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([[0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.2]], [True, False]),  # of transparent ones
        ([[1.0, 1.0, 1.0], [1.0, 0.9, 1.0]], [True, False]),  # of those like the background
    ],
)
def test_pixels_that_show_nothing(pixels: Any, expected: Any):
    assert model_of().shows_nothing(torch.tensor(pixels))[:, 0].tolist() == expected
    unknown = model_of(background_color="last_sample")
    if len(pixels[0]) == 3:
        assert unknown.shows_nothing(torch.tensor(pixels))[:, 0].tolist() == [False, False]


def test_rendering_depends_on_no_neighboring_ray():
    """Chunks of an image are rendered apart; the image must not show where they end."""
    model = model_of(Blobs()).eval()
    rays = rays_from_poses(random_poses(1), central_rays(40).directions[None], torch.zeros(1).long())
    whole = model.render(rays, with_depth=True)
    seen = whole["accumulation"] > 1e-3  # nerfstudio bounds the depth of empty rays by their neighbors'
    for name in ("rgb", "accumulation", "expected_depth"):
        parts = torch.cat([model.render(rays[start : start + 1], with_depth=True)[name] for start in range(40)])
        torch.testing.assert_close(whole[name] * seen, parts * seen, atol=1e-5, rtol=0)


def test_the_object_fills_the_view_at_the_priors_distance():
    model = model_of(ConstantFog()).eval()
    camera = cameras(1, 21, 21)
    camera.camera_to_worlds = random_poses(1)
    assert camera.camera_to_worlds[0, :, 3].norm() == pytest.approx(RADIUS)
    seen = model.get_outputs_for_camera(camera)["accumulation"][..., 0] > 0
    assert seen[10].sum() >= 19 and seen[:, 10].sum() >= 19 and not seen[0, 0]


def test_alpha_says_what_is_opaque_where_colors_do_not():
    """A white object over white: every opacity has the same color."""
    model = model_of()
    accumulation = torch.tensor([[0.2], [0.9]], requires_grad=True)
    outputs = {
        "rgb": torch.ones(2, 3),
        "accumulation": accumulation,
        "earlier_rgb": [torch.ones(2, 3)],
        "earlier_accumulation": [torch.tensor([[1.0], [0.5]])],
    }
    pixels = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert float(model.get_photometric_loss(outputs, pixels)) == 0.0
    (loss,) = model.get_opacity_losses(outputs, pixels).values()
    expected = (0.8**2 + 0.9**2) / 2 + (0.0 + 0.5**2) / 2
    assert float(loss) == pytest.approx(model.config.opacity_loss_mult * expected)
    loss.backward()
    assert accumulation.grad is not None and float(accumulation.grad[0]) < 0.0 < float(accumulation.grad[1])
    assert model.get_opacity_losses(outputs, pixels[:, :3]) == {}
    assert model_of(opacity_loss_mult=0.0).get_opacity_losses(outputs, pixels) == {}
