from typing import Any, Dict

import pytest
import torch
from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.fields.nerfacto_field import NerfactoField
from torch import Tensor

from gnerf_ns.fields.nerfacto_field import CoarseToFineNerfactoField, CompiledDensityField

AABB = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


@pytest.fixture
def field() -> CoarseToFineNerfactoField:
    torch.manual_seed(0)
    return CoarseToFineNerfactoField(
        AABB, num_images=3, num_levels=4, base_res=4, max_res=32, log2_hashmap_size=10, appearance_embedding_dim=0
    )


def samples_at(points: Tensor) -> RaySamples:
    directions = torch.nn.functional.normalize(torch.ones_like(points), dim=-1)
    zeros = torch.zeros(*points.shape[:-1], 1)
    frustums = Frustums(origins=points, directions=directions, starts=zeros, ends=zeros, pixel_area=zeros)
    return RaySamples(frustums=frustums, camera_indices=zeros.long())


def points_inside(count: int) -> Tensor:
    return 1.8 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) - 0.9


def test_it_is_nerfactos_field_when_all_levels_are_on(field):
    stock = NerfactoField(
        AABB,
        num_images=3,
        num_levels=4,
        base_res=4,
        max_res=32,
        log2_hashmap_size=10,
        appearance_embedding_dim=0,
        implementation="torch",
    )
    ours = field.state_dict()
    renamed = {}
    for name, value in stock.state_dict().items():
        for theirs, mine in (("mlp_base.model.0.", "mlp_base.0."), ("mlp_base.model.1.", "mlp_base.1.")):
            name_of_ours = name.replace(theirs, mine)
            if name_of_ours in ours:
                renamed[name] = ours[name_of_ours]
        assert name in renamed and renamed[name].shape == value.shape, name
    stock.load_state_dict(renamed)
    samples = samples_at(points_inside(40))
    for head in (FieldHeadNames.RGB, FieldHeadNames.DENSITY):
        # Sums are taken in another order.
        torch.testing.assert_close(field(samples)[head], stock(samples)[head], rtol=0, atol=1e-6)


def test_the_parents_own_grid_is_gone(field):
    tables = [parameter for name, parameter in field.named_parameters() if name.endswith("hash_table")]
    assert len(tables) == 1 and tables[0] is field.hash_encoding.hash_table


def test_without_view_dependence_colors_are_the_same_from_all_sides(field):
    points = points_inside(20)
    samples, reverse = samples_at(points), samples_at(points)
    reverse.frustums.directions = -samples.frustums.directions
    field.hash_encoding.set_active_levels(4)
    assert not torch.equal(field(samples)[FieldHeadNames.RGB], field(reverse)[FieldHeadNames.RGB])
    field.view_dependence = 0.0
    torch.testing.assert_close(field(samples)[FieldHeadNames.RGB], field(reverse)[FieldHeadNames.RGB])


def test_noise_multiplies_densities_while_training_only(field):
    samples = samples_at(points_inside(20_000))
    clean = field.get_density(samples)[0]
    field.density_noise = 0.5
    noisy, features = field.get_density(samples)
    logs = (noisy / clean).log().detach()
    assert abs(float(logs.mean())) < 0.02 and abs(float(logs.std()) - 0.5) < 0.02
    torch.testing.assert_close(features, field.get_density(samples)[1])
    field.eval()
    assert torch.equal(field.get_density(samples)[0], clean)


def test_noise_lets_gradients_through(field):
    field.density_noise = 1.0
    density = field.get_density(samples_at(points_inside(10)))[0]
    assert torch.autograd.grad(density.sum(), field.hash_encoding.hash_table)[0].abs().max() > 0


def test_densities_outside_the_box_are_zero(field):
    field.density_noise = 1.0
    outside = torch.tensor([[1.5, 0.0, 0.0], [0.0, -1.01, 0.0], [9.0, 9.0, 9.0]])
    assert (field.get_density(samples_at(outside))[0] == 0).all()


def test_gradients_reach_positions(field):
    with torch.no_grad():
        field.hash_encoding.hash_table.mul_(1000)
    points = points_inside(50).requires_grad_()
    (gradient,) = torch.autograd.grad(field.density_fn(points).sum(), points)
    good, step = 0, 1e-3
    for axis in range(3):
        shift = torch.zeros(3)
        shift[axis] = step
        slope = (field.density_fn(points + shift) - field.density_fn(points - shift))[:, 0] / (2 * step)
        good += int(torch.isclose(slope, gradient[:, axis], rtol=0.05, atol=0.02).sum())
    assert good > 0.85 * 150  # the others straddle a cell's face


def test_the_density_field_is_the_stock_one() -> None:
    torch.manual_seed(0)
    sizes: Dict[str, Any] = {"num_levels": 3, "base_res": 4, "max_res": 16, "log2_hashmap_size": 8}
    compiled = CompiledDensityField(AABB, **sizes, implementation="torch")
    stock = HashMLPDensityField(AABB, **sizes, implementation="torch")
    stock.load_state_dict(compiled.state_dict())
    origins = 2.4 * torch.rand(50, 4, 3) - 1.2
    samples = samples_at(origins)
    torch.testing.assert_close(compiled.get_density(samples)[0], stock.get_density(samples)[0])
