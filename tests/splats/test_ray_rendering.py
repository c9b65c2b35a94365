"""Single rays against whole images, finite differences, and values by hand."""

import math
from typing import List, Tuple

import pytest
import torch
from made_surface import FIRST_HARMONIC, pixel_gaussians, view_from
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.splats import ray_rendering
from gnerf_ns.splats.axes import inverse_poses
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.ray_rendering import render_rays
from gnerf_ns.splats.rendering import PinholeView, render

BACKGROUND = torch.tensor([0.2, 0.5, 0.9])


def rays_of(view: PinholeView) -> Tuple[Tensor, Tensor, Tensor]:
    """Origins, directions and pixel areas of all pixels, row by row."""
    rows, columns = torch.meshgrid(torch.arange(view.height), torch.arange(view.width), indexing="ij")
    slopes = (torch.stack([columns, rows], dim=-1) + 0.5 - view.center) / view.focal
    pose = inverse_poses(view.world_to_camera)
    directions = F.normalize(F.pad(slopes, (0, 1), value=1.0), dim=-1).reshape(-1, 3) @ pose[:, :3].mT
    return pose[:, 3].expand_as(directions), directions, (1.0 / view.focal.prod()).expand(len(directions))


def balls(middles: List[List[float]], scale: float, opacity: float = 0.8) -> Gaussians:
    """Round ones, each of another color from everywhere."""
    count = len(middles)
    colors = torch.linspace(0.1, 0.9, 3 * count).reshape(count, 3, 1)
    return Gaussians(
        torch.tensor(middles),
        torch.full((count, 3), scale),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4),
        torch.full((count,), opacity),
        (colors - 0.5) * FIRST_HARMONIC,
    )


def to_double(gaussians: Gaussians) -> Gaussians:
    return Gaussians(*(value.double() for value in vars(gaussians).values()))


def test_rays_of_all_pixels_are_the_image():
    views = [view_from((0, 0, 0), (0, 0, 0), 48, 32, 45.0), view_from((0.5, 0.1, -0.1), (2, -8, 3), 48, 32, 45.0)]
    gaussians = pixel_gaussians(views)
    image = render(gaussians, views[1], BACKGROUND)
    seen = render_rays(gaussians, *rays_of(views[1]), BACKGROUND)
    difference = (seen.colors.reshape(32, 48, 3) - image.image).abs()
    # The image cuts Gaussians off at the edge of a tile.
    assert difference.max() < 0.02 and difference.mean() < 5e-4
    assert (seen.accumulation.reshape(32, 48) - image.accumulation).abs().mean() < 5e-4
    along = rays_of(views[1])[1] @ views[1].world_to_camera[2, :3]
    assert (seen.depth * along - image.depth.flatten()).abs().mean() < 2e-3


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    views = [view_from((0, 0, 0), (0, 0, 0), 24, 16, 25.0)]
    gaussians, rays = pixel_gaussians(views), rays_of(views[0])
    whole = render_rays(gaussians, *rays, BACKGROUND)
    monkeypatch.setattr(ray_rendering, "PAIRS_PER_CHUNK", 300)
    monkeypatch.setattr(ray_rendering, "PAIRS_PER_RAY", 1)  # memory for the pairs has to grow, too
    with torch.no_grad():
        parts = render_rays(gaussians, *rays, BACKGROUND)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_two_balls_on_a_ray_by_hand():
    gaussians = balls([[0.0, 0.0, 4.0], [0.0, 0.0, 2.0], [0.0, 3.0, 2.0]], scale=0.1)
    axis = torch.tensor([[0.0, 0.0, 1.0]])
    seen = render_rays(gaussians, torch.zeros(1, 3), axis, torch.tensor([1e-4]), BACKGROUND)
    colors = 0.5 + gaussians.harmonics[:, :, 0] / FIRST_HARMONIC
    torch.testing.assert_close(seen.colors[0], 0.8 * colors[1] + 0.16 * colors[0] + 0.04 * BACKGROUND)
    torch.testing.assert_close(seen.depth, torch.tensor([0.8 * 2.0 + 0.16 * 4.0]))
    torch.testing.assert_close(seen.accumulation, torch.tensor([0.96]))


def test_a_ray_beside_a_ball_is_blurred_by_its_pixel():
    # Half a scene unit beside the middle of a ball of 0.2, two units away: slopes 0.25 and 0.1.
    slopes = torch.tensor([[0.25, 0.0, 1.0]])
    direction = F.normalize(slopes, dim=-1)
    for area in (0.0, 0.01):
        seen = render_rays(
            balls([[0.0, 0.0, 2.0]], 0.2), torch.zeros(1, 3), direction, torch.tensor([area]), BACKGROUND
        )
        # In the image of a camera that looks along the ray, which sees the ball obliquely.
        slant = math.atan(0.25)
        distance = 2.0 * math.cos(slant)
        across = math.tan(slant)
        variance = (0.2 / distance) ** 2 * (1 + across**2) + 0.3 * area
        alpha = 0.8 * math.exp(-(across**2) / variance / 2)
        torch.testing.assert_close(seen.accumulation, torch.tensor([alpha]), rtol=1e-3, atol=0.0)


def test_rays_all_around_and_from_two_places():
    # One ball in each direction, seen from the middle and from a place beside it: its own ball is on each axis.
    axes = torch.cat([torch.eye(3), -torch.eye(3)])
    gaussians = balls((3.0 * axes).tolist(), scale=0.05)
    colors = 0.5 + gaussians.harmonics[:, :, 0] / FIRST_HARMONIC
    origins = torch.zeros(12, 3)
    origins[6:] = torch.tensor([0.3, 0.2, -0.1])
    directions = F.normalize(3.0 * axes.repeat(2, 1) - origins, dim=-1)
    mixed = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    seen = render_rays(gaussians, origins[mixed], directions[mixed], torch.full((12,), 1e-4), BACKGROUND)
    wanted = 0.8 * colors.repeat(2, 1)[mixed] + 0.2 * BACKGROUND
    torch.testing.assert_close(seen.colors, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.depth / 0.8, (3.0 * axes.repeat(2, 1) - origins).norm(dim=-1)[mixed])


def test_rays_that_meet_nothing_see_the_background():
    seen = render_rays(
        balls([[0.0, 0.0, -2.0]], 0.1), torch.zeros(2, 3), torch.eye(3)[1:], torch.full((2,), 1e-4), BACKGROUND
    )
    assert torch.equal(seen.colors, BACKGROUND.expand(2, 3)) and not seen.accumulation.any() and not seen.depth.any()


def test_gradients_of_the_origin_are_those_of_finite_differences():
    gaussians = to_double(balls([[0.1, 0.0, 3.0], [-0.1, 0.1, 2.5], [0.2, -0.2, 4.0]], scale=0.4))
    grid = torch.cartesian_prod(torch.linspace(-0.15, 0.15, 3), torch.linspace(-0.15, 0.15, 3)).double()
    directions = F.normalize(F.pad(grid, (0, 1), value=1.0), dim=-1)
    areas = torch.full((9,), 1e-3, dtype=torch.float64)

    def colors(origin: Tensor) -> Tensor:
        return render_rays(gaussians, origin.expand(9, 3), directions, areas, BACKGROUND.double()).colors

    origin = torch.tensor([0.02, -0.01, 0.03], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(colors, origin)


def test_gradients_of_directions_are_those_of_finite_differences():
    # The camera that the rays' image is of stays where it looks while one of them turns, nearly.
    gaussians = to_double(balls([[0.1, 0.0, 3.0], [-0.1, 0.1, 2.5], [0.2, -0.2, 4.0]], scale=0.3))
    grid = torch.cartesian_prod(torch.linspace(-0.1, 0.1, 5), torch.linspace(-0.1, 0.1, 5)).double()
    areas = torch.full((25,), 1e-3, dtype=torch.float64)

    def one_color(slope: Tensor) -> Tensor:
        slopes = torch.cat([grid[:7], slope[None], grid[8:]])
        directions = F.normalize(F.pad(slopes, (0, 1), value=1.0), dim=-1)
        return render_rays(gaussians, torch.zeros(25, 3).double(), directions, areas, BACKGROUND.double()).colors[7]

    slope = grid[7].clone().requires_grad_()
    by_autograd = torch.autograd.functional.jacobian(one_color, slope)
    step = 1e-4
    by_differences = torch.stack(
        [(one_color(grid[7] + step * axis) - one_color(grid[7] - step * axis)) / (2 * step) for axis in torch.eye(2)],
        dim=-1,
    )
    torch.testing.assert_close(by_autograd, by_differences, rtol=0.02, atol=2e-3)


def test_each_ray_has_its_own_gradient_and_hardly_any_along_itself():
    views = [view_from((0, 0, 0), (0, 0, 0), 24, 16, 25.0)]
    gaussians = pixel_gaussians(views)
    origins, directions, areas = rays_of(views[0])
    origins = origins.clone().requires_grad_()
    colors = render_rays(gaussians, origins, directions, areas, BACKGROUND).colors
    (gradient,) = torch.autograd.grad(colors[5].sum(), origins)
    assert gradient[5].abs().max() > 0 and not gradient[:5].any() and not gradient[6:].any()
    colors = render_rays(gaussians, origins, directions, areas, BACKGROUND).colors
    (gradient,) = torch.autograd.grad(colors.square().sum(), origins)
    along = (gradient * directions).sum(dim=-1).abs().mean()
    assert along < 0.1 * gradient.norm(dim=-1).mean()
