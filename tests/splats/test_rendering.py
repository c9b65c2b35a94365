"""The tile renderer against a dense one, gsplat's torch functions, finite differences, and values by hand."""

import inspect
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import roma
import torch
from dense_splats import render_densely
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.lie_groups import exp_map_SE3
from torch import Tensor

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.splats import rendering
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import PinholeView, Rendering, project, render

BLACK = torch.zeros(3)


def scene(count: int, seed: int, num_harmonics: int = 16, size: float = 0.15) -> Gaussians:
    """Gaussians of all kinds around a camera at the origin: most in front, some beside and behind it, some hardly
    visible, some opaque."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    depths = 6 * uniform(count, 1) - 0.5
    means = torch.cat([2.4 * (uniform(count, 2) - 0.5) * depths.abs(), depths], dim=-1)
    return Gaussians(
        means,
        size * uniform(count, 3) ** 2 * depths.abs() + 1e-3,
        torch.nn.functional.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64), dim=-1),
        (1.1 * uniform(count) - 0.05).clamp(0, 1),
        0.6 * torch.randn(count, 3, num_harmonics, generator=generator, dtype=torch.float64),
    )


def camera(width: int = 40, height: int = 28, off_center: Tuple[float, float] = (0.0, 0.0)) -> PinholeView:
    """Somewhat turned and moved."""
    pose = exp_map_SE3(torch.tensor([[0.1, -0.05, 0.08, 0.1, -0.15, 0.2]], dtype=torch.float64))[0]
    center = torch.tensor([width / 2 + off_center[0], height / 2 + off_center[1]], dtype=torch.float64)
    return PinholeView(pose, torch.tensor([0.8 * width, 1.1 * width], dtype=torch.float64), center, width, height)


def straight(width: int = 40, height: int = 28) -> PinholeView:
    """At the origin, looking along z, the middle of pixel (16, 8) on its axis."""
    return PinholeView(torch.eye(4)[:3], torch.tensor([30.0, 30.0]), torch.tensor([16.5, 8.5]), width, height)


def dots(depths: List[float], opacities: List[float], colors: List[List[float]], scale: float = 0.1) -> Gaussians:
    """Round ones on the axis, seen alike from everywhere."""
    count = len(depths)
    harmonics = (torch.tensor(colors).reshape(count, 3, 1) - 0.5) * math.sqrt(4 * math.pi)
    return Gaussians(
        torch.tensor([[0.0, 0.0, depth] for depth in depths]).reshape(count, 3),
        torch.full((count, 3), scale),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4),
        torch.tensor(opacities),
        harmonics,
    )


def to(dtype: torch.dtype, gaussians: Gaussians, view: PinholeView) -> Tuple[Gaussians, PinholeView]:
    given = Gaussians(*(value.to(dtype) for value in vars(gaussians).values()))
    lens = {"focal": view.focal.to(dtype), "center": view.center.to(dtype)}
    return given, replace(view, world_to_camera=view.world_to_camera.to(dtype), **lens)


def outcome(renderer: Any, gaussians: Gaussians, view: PinholeView) -> Dict[str, Tensor]:
    """Image, depth, accumulation, and the gradients of a sum of all of them with random weights."""
    leaves = {name: value.clone().requires_grad_() for name, value in vars(gaussians).items()}
    lens = {name: getattr(view, name).clone().requires_grad_() for name in ("world_to_camera", "focal", "center")}
    background = torch.tensor([0.2, 0.7, 0.4]).to(view.focal).requires_grad_()
    seen = renderer(Gaussians(**leaves), replace(view, **lens), background)
    generator = torch.Generator().manual_seed(1)
    weighted = [(value * torch.randn(value.shape, generator=generator).to(value)).sum() for value in seen]
    inputs = {**leaves, **lens, "background": background}
    gradients = torch.autograd.grad(
        torch.stack(weighted).sum(), list(inputs.values()), allow_unused=True, materialize_grads=True
    )
    values = {name: value.detach() for name, value in seen._asdict().items()}
    return {**values, **{f"gradient of {name}": each for name, each in zip(inputs, gradients, strict=True)}}


def assert_equal(gaussians: Gaussians, view: PinholeView, tolerance: float) -> None:
    """To the dense renderer in everything, which computes in double precision what may be given in single precision.

    The tolerance is relative to the largest value of each kind.
    """
    expected = outcome(render_densely, *to(torch.float64, gaussians, view))
    for name, value in outcome(render, gaussians, view).items():
        assert value.shape == expected[name].shape and value.dtype == gaussians.means.dtype
        worst = (value - expected[name]).abs().max() / expected[name].abs().max().clamp_min(1e-30)
        assert float(worst) <= tolerance, f"{name}: {float(worst):.2e}"


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 17, 60]),
    st.sampled_from([(16, 16), (40, 28), (17, 33), (5, 50)]),
    st.sampled_from([(0.0, 0.0), (9.0, -6.0), (-30.0, 2.0)]),
    st.sampled_from([1, 4, 9, 16, 25]),
)
def test_equals_the_dense_renderer_with_all_gradients(
    seed: int, count: int, size: Tuple[int, int], off_center: Tuple[float, float], num_harmonics: int
) -> None:
    assert_equal(scene(count, seed, num_harmonics), camera(*size, off_center), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_that_overlap(dtype: torch.dtype) -> None:
    assert_equal(*to(dtype, scene(1500, seed=5), camera(60, 44, (3.0, 2.0))), 1e-5)


def test_pixels_that_close() -> None:
    """Nearly opaque ones, many deep: alpha is at its limit, and nothing is seen through."""
    gaussians = scene(900, seed=6, size=0.3)
    gaussians = replace(gaussians, opacities=1 - 0.3 * gaussians.opacities.square())
    view = camera(50, 40)
    assert float(render(gaussians, view, BLACK.double()).accumulation.median()) > 0.995
    assert_equal(gaussians, view, 1e-9)
    assert_equal(*to(torch.float32, gaussians, view), 1e-5)


@pytest.mark.parametrize("edge", [15.0, 15.5, 16.0, 16.5, 31.999])
def test_on_borders_of_tiles(edge: float) -> None:
    view = replace(to(torch.float64, dots([], [], []), straight(64, 48))[1], center=torch.tensor([edge, edge]).double())
    for scale in (0.005, 0.1, 0.3, 1.0):
        assert_equal(to(torch.float64, dots([2.0], [0.9], [[1.0, 0.5, 0.2]], scale), view)[0], view, 1e-9)


def test_gradcheck() -> None:
    gaussians, view = scene(8, seed=3, num_harmonics=4, size=0.7), camera(18, 10, (2.0, 1.0))
    gaussians = replace(gaussians, means=gaussians.means * torch.tensor([0.5, 0.5, 1.0]))
    inputs = [*vars(gaussians).values(), view.world_to_camera, view.focal, view.center, BLACK.double()]

    def function(*values: Tensor) -> Rendering:
        pose, focal, center, background = values[5:]
        given = replace(view, world_to_camera=pose, focal=focal, center=center)
        return render(Gaussians(*values[:5]), given, background)

    assert float(render(gaussians, view, BLACK.double()).accumulation.mean()) > 0.3
    assert torch.autograd.gradcheck(function, [value.clone().requires_grad_() for value in inputs], eps=1e-6)


def test_pose_gradient_on_the_group_of_motions() -> None:
    """By finite differences of W2C <- exp([shift, turn]) W2C."""
    gaussians, view = scene(200, seed=8), camera()
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)

    def loss(tangent: Tensor) -> Tensor:
        moved = exp_map_SE3(tangent[None])[0] @ torch.cat([view.world_to_camera, bottom])
        seen = render(gaussians, replace(view, world_to_camera=moved), BLACK.double())
        return seen.image.square().sum() + seen.depth.sum()

    zero = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(zero), zero)
    step = 1e-6 * torch.eye(6, dtype=torch.float64)
    with torch.no_grad():
        differences = torch.stack([(loss(each) - loss(-each)) / 2e-6 for each in step])
    # Pixels that a Gaussian enters or leaves at 1/255 within the step are not in the gradient.
    torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=0)


def test_projection_is_gsplats() -> None:
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    gaussians, view = scene(300, seed=4), camera(40, 28, (7.0, -5.0))
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    intrinsics = torch.cat([torch.diag(view.focal), view.center[:, None]], dim=1)
    intrinsics = torch.cat([intrinsics, bottom[:, 1:]])[None]
    covariances, _ = torch_impl._quat_scale_to_covar_preci(gaussians.quaternions, gaussians.scales, compute_preci=False)
    torch.testing.assert_close(gaussians.covariances(), covariances)
    pose = torch.cat([view.world_to_camera, bottom])[None]
    _, centers, depths, conics, _ = torch_impl._fully_fused_projection(
        gaussians.means, covariances, pose, intrinsics, view.width, view.height, near_plane=0.2
    )
    mine = project(gaussians, view)
    front = depths[0] > 0.2
    assert 200 < int(front.sum()) < 300
    torch.testing.assert_close(mine.depths, depths[0])
    torch.testing.assert_close(mine.centers[front] + 0.5, centers[0, front])
    xx, xy, yy = mine.covariances[front].unbind(-1)
    expected = torch.linalg.inv(torch.stack([conics[0, front][:, [0, 1]], conics[0, front][:, [1, 2]]], dim=1))
    torch.testing.assert_close(torch.stack([xx, xy, xy, yy], dim=-1).view(-1, 2, 2), expected)


def test_values_by_hand() -> None:
    """On the axis of the camera, falloffs are 1."""
    near, middle, far = [1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]
    background = torch.tensor([0.0, 0.0, 2.0])
    seen = render(dots([3.0, 2.0], [0.5, 0.25], [middle, near]), straight(), background)  # not in order of depth
    torch.testing.assert_close(seen.image[8, 16], torch.tensor([0.25, 0.375, 0.125 + 0.1875 + 0.75]))
    torch.testing.assert_close(seen.depth[8, 16], torch.tensor(0.25 * 2.0 + 0.375 * 3.0))
    torch.testing.assert_close(seen.accumulation[8, 16], torch.tensor(0.625))
    # One pixel to the right: a standard deviation of 0.1 at distance 2 is 1.5 pixels, at distance 3 it is one.
    first = 0.25 * math.exp(-0.5 / (2.25 + 0.3))
    second = (1 - first) * 0.5 * math.exp(-0.5 / (1.0 + 0.3))
    torch.testing.assert_close(seen.image[8, 17, :2], torch.tensor([first, second]))
    # Alpha is at most 0.99; the third would let through 0.00005, and nothing behind it counts.
    seen = render(dots([1.0, 2.0, 3.0, 4.0], [1.0, 0.95, 0.9, 0.5], [near, middle, far, far]), straight(), BLACK)
    torch.testing.assert_close(seen.image[8, 16], torch.tensor([0.99, 0.0095, 0.495 + 0.00475]))
    torch.testing.assert_close(seen.accumulation[8, 16], torch.tensor(0.9995))


def test_no_gradient_passes_a_limit() -> None:
    gaussians = dots([1.0, 2.0, 3.0], [1.0, 0.95, 0.9], [[0.5] * 3] * 3)
    opacities = gaussians.opacities.clone().requires_grad_()
    render(replace(gaussians, opacities=opacities), straight(), BLACK).image[8, 16].sum().backward()
    assert opacities.grad is not None
    torch.testing.assert_close(opacities.grad, torch.tensor([0.0, 1.5 * 0.01, 0.0]))


@pytest.mark.parametrize("opacity, drawn", [(1 / 254, True), (1 / 256, False), (0.0, False)])
def test_alphas_below_a_level_are_left_out(opacity: float, drawn: bool) -> None:
    seen = render(dots([2.0], [opacity], [[1.0] * 3]), straight(), BLACK)
    assert bool(seen.accumulation[8, 16] > 0) == drawn


@pytest.mark.parametrize("depth, drawn", [(0.201, True), (0.2, False), (0.0, False), (-1.0, False)])
def test_what_is_too_near_or_behind_is_left_out(depth: float, drawn: bool) -> None:
    gaussians, view = to(torch.float32, dots([depth], [0.9], [[1.0] * 3]), straight())
    found = outcome(render, gaussians, view)
    assert bool(found["accumulation"].any()) == drawn
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert bool(found["gradient of means"].any()) == drawn


def test_tiles_are_cut_at_three_deviations() -> None:
    """Where alpha is still more than 1/255, as the official renderer cuts them."""
    variance = 3.24  # 3 sqrt(3.24 + sqrt(0.1)) = 5.7: a radius of 6 pixels
    gaussians = dots([2.0], [0.99], [[1.0] * 3], scale=math.sqrt(variance - 0.3) / 15)
    for center, reaches in ((11.4, False), (11.6, True)):  # the second tile is reached if 10.9 + 6 + 15 >= 32
        view = replace(straight(64, 32), center=torch.tensor([center, 8.5]))
        seen = render(gaussians, view, BLACK)
        alphas = [0.99 * math.exp(-((column + 0.5 - center) ** 2) / (2 * variance)) for column in (15, 16)]
        assert min(alphas) > 1 / 255
        expected = torch.tensor([alphas[0], alphas[1] if reaches else 0.0])
        torch.testing.assert_close(seen.accumulation[8, 15:17], expected, rtol=1e-4, atol=0)


def test_no_gaussians_show_the_background() -> None:
    background = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    found = outcome(render, dots([], [], []), straight())
    seen = render(dots([], [], []), straight(), background)
    assert torch.equal(seen.image, background.expand(28, 40, 3))
    assert not seen.depth.any() and not seen.accumulation.any()
    assert not found["gradient of world_to_camera"].any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["means", "scales", "quaternions", "opacities"])
def test_one_that_is_no_number_spoils_nothing(name: str, value: float) -> None:
    gaussians = dots([2.0, 2.5], [0.5, 0.5], [[1.0] * 3] * 2)
    expected = render(gaussians[:1], straight(), BLACK)
    spoiled = getattr(gaussians, name).clone()
    spoiled[1] = value
    seen = render(replace(gaussians, **{name: spoiled}), straight(), BLACK)
    assert seen.image.isfinite().all()
    if (name, value) != ("opacities", math.inf):
        torch.testing.assert_close(seen.image, expected.image)


def test_mixed_precision_is_not_for_rendering() -> None:
    gaussians, view = to(torch.float32, scene(50, seed=1), camera())
    expected = render(gaussians, view, BLACK)
    with torch.autocast("cpu", torch.bfloat16):
        seen = render(gaussians, view, BLACK)
    assert torch.equal(seen.image, expected.image)


def test_harmonics_of_the_fourth_degree_are_not_rendered() -> None:
    gaussians, view = scene(30, seed=2, num_harmonics=25), camera()
    seen = render(gaussians, view, BLACK.double())
    fewer = replace(gaussians, harmonics=gaussians.harmonics[..., :16])
    assert torch.equal(seen.image, render(fewer, view, BLACK.double()).image)


def test_a_moved_scene_looks_the_same_from_a_moved_camera() -> None:
    gaussians, view = scene(60, seed=9), camera()
    gaussians = gaussians[gaussians.means[:, 2] > 1.0]  # the limit at 0.2 is in scene units
    rotation = roma.rotvec_to_rotmat(torch.tensor([0.7, -1.9, 1.1], dtype=torch.float64))
    similarity = Similarity(rotation, 1.7, torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64))
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    camera_to_world = torch.linalg.inv(torch.cat([view.world_to_camera, bottom]))[:3]
    moved = similarity.apply(camera_to_world)
    there = torch.linalg.inv(torch.cat([moved, bottom]))[:3]
    expected = render(gaussians, view, BLACK.double())
    seen = render(gaussians.moved(similarity), replace(view, world_to_camera=there), BLACK.double())
    # Blurred by 0.3 pixels squared in both; a scene 1.7 times as large, 1.7 times as far.
    torch.testing.assert_close(seen.image, expected.image, rtol=0, atol=1e-9)
    torch.testing.assert_close(seen.depth, 1.7 * expected.depth, rtol=0, atol=1e-9)


THREADS = """
import torch
from test_rendering import camera, outcome, scene, to
from gnerf_ns.splats.rendering import render
found = []
for threads in (1, 2):
    torch.set_num_threads(threads)
    found.append(outcome(render, *to(torch.float32, scene(3000, seed=7), camera(100, 80))))
    assert torch.get_num_threads() == threads
import numba
assert numba.get_num_threads() == 2
for name, value in found[0].items():
    if "gradient of" not in name or name.split()[-1] in ("opacities", "harmonics"):
        assert torch.equal(value, found[1][name]), name
    torch.testing.assert_close(value, found[1][name], rtol=0, atol=1e-6 * float(value.abs().max()))
"""


def test_two_threads_give_what_one_gives() -> None:
    """To the last bit, but for sums that torch makes over all Gaussians."""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent, here.parent.parent)))
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_gsplat_is_called_as_it_wants_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with its own signature renders what it is given with the dense renderer."""
    gsplat = pytest.importorskip("gsplat")
    signature = inspect.signature(gsplat.rasterization)

    def rasterization(**options: Any) -> Tuple[Tensor, Tensor, Dict]:
        given = signature.bind(**options).arguments
        assert given["render_mode"] == "RGB+D" and not given["packed"] and given["colors"].is_contiguous()
        assert (given["near_plane"], given["eps2d"], given["sh_degree"]) == (0.2, 0.3, 3)
        intrinsics, pose = given["Ks"], given["viewmats"]
        assert intrinsics.shape == (1, 3, 3) and pose.shape == (1, 4, 4) and given["colors"].shape == (50, 16, 3)
        lens = torch.diagonal(intrinsics[0])[:2], intrinsics[0, :2, 2]
        view = PinholeView(pose[0, :3], *lens, given["width"], given["height"])
        shapes = given["means"], given["scales"], given["quats"]
        gaussians = Gaussians(*shapes, given["opacities"], given["colors"].mT)
        seen = render_densely(gaussians, view, torch.zeros(3).to(pose))
        return torch.cat([seen.image, seen.depth[..., None]], dim=-1)[None], seen.accumulation[None, ..., None], {}

    monkeypatch.setattr(gsplat, "rasterization", rasterization)
    gaussians, view = scene(50, seed=1, num_harmonics=25), camera(40, 28, (4.0, 3.0))
    colors, depth, transmittance = rendering._rasterized_by_gsplat(gaussians, view)
    expected = render_densely(gaussians, view, BLACK.double())
    for value, other in zip((colors, depth, 1 - transmittance), expected, strict=True):
        torch.testing.assert_close(value, other)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[List[str]]:
    """Remarks of a process that has not looked for gsplat yet."""
    sentences: List[str] = []
    monkeypatch.setattr(rendering, "remark", sentences.append)
    rendering.gsplat_works.cache_clear()
    yield sentences
    rendering.gsplat_works.cache_clear()


class BrokenBuild(ModuleType):
    """What importing from it ends in, where a compiler is there and fails."""

    def __getattr__(self, name: str) -> Any:
        if name == "_C":
            raise RuntimeError("Error building extension 'gsplat_cuda'\nmore")
        raise AttributeError(name)


def backend(compiled: Any) -> ModuleType:
    """gsplat's module of that name, with its compiled code or None."""
    module = ModuleType("gsplat.cuda._backend")
    vars(module)["_C"] = compiled
    return module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (backend(None), "no CUDA toolkit"),
        (BrokenBuild("gsplat.cuda._backend"), "loaded: Error building extension 'gsplat_cuda')"),
        (None, "import of gsplat.cuda._backend halted"),  # as where a package is missing
    ],
)
def test_the_cpu_draws_where_gsplat_cannot(
    module: Any, reason: str, said: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", module)
    gaussians, view = to(torch.float32, scene(50, seed=1), camera())
    expected = outcome(render, gaussians, view)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    for _ in range(2):
        found = outcome(render, gaussians, view)
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    (sentence,) = said
    assert reason in sentence and "Install a CUDA toolkit" in sentence and "\n" not in sentence


def test_gsplat_is_used_where_it_works(said: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: List[Gaussians] = []

    def by_gsplat(gaussians: Gaussians, view: PinholeView) -> Tuple[Tensor, Tensor, Tensor]:
        calls.append(gaussians)
        alike = torch.zeros(view.height, view.width)
        return torch.zeros(view.height, view.width, 3), alike, alike

    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", backend(object()))
    monkeypatch.setattr(rendering, "_rasterized_by_gsplat", by_gsplat)
    gaussians = dots([2.0], [0.5], [[1.0] * 3])
    render(gaussians, straight(), BLACK)
    assert not calls
    monkeypatch.setattr(Tensor, "is_cuda", True)
    render(gaussians, straight(), BLACK)
    assert calls == [gaussians] and not said
