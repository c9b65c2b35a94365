"""Images of Gaussians: by kernels of our own on the CPU, by gsplat on CUDA.

The rules are those of the official renderer (Kerbl et al., SIGGRAPH 2023), of which NoPoSplat's (Ye et al., ICLR 2025,
arXiv 2410.24207) is a variant, since networks were trained with them; but principal points, which that takes to be in
the middle, are honored.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.spherical_harmonics import harmonic_colors, num_harmonics, used_degree
from gnerf_ns.utils.compiled_kernels import run_kernel
from gnerf_ns.utils.console import remark

NEAR = 0.2
"""Gaussians whose middle is no farther from the camera's plane, in scene units, are left out."""
BLUR = 0.3
"""Added to both variances in the image, in pixels squared: each Gaussian is about a pixel wide at least."""
FIELD_MARGIN = 0.15
"""How far outside of the image, in widths and heights of it, a Gaussian's shape is still that of where it is: farther
out, the projection is so oblique that its linearization would smear Gaussians over the image. About a principal point
in the middle, that is the official 1.3 tan(fov / 2)."""
KERNELS = "gnerf_ns.splats.tile_kernels"
"""The module of the compiled code."""


@dataclass(frozen=True)
class PinholeView:
    """A camera without distortion, and the size of its image."""

    world_to_camera: Float[Tensor, "3 4"]
    """In OpenCV's axes: x to the right, y down, z forward; scene units."""
    focal: Float[Tensor, "2"]
    """Focal lengths along x and y, in pixels."""
    center: Float[Tensor, "2"]
    """The principal point, in pixels; (0, 0) is the outer corner of the first pixel."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""


class Rendering(NamedTuple):
    """What a camera sees."""

    image: Float[Tensor, "height width 3"]
    """Colors, not limited to 1."""
    depth: Float[Tensor, "height width"]
    """Sum of w_i z_i in scene units: distances from the camera's plane, weighted as colors are, and not divided by the
    accumulation."""
    accumulation: Float[Tensor, "height width"]
    """Sum of all weights w_i, 0 to 1."""


class ProjectedGaussians(NamedTuple):
    """Gaussians in an image."""

    centers: Float[Tensor, "n 2"]
    """In pixels; (0, 0) is the middle of the first pixel."""
    covariances: Float[Tensor, "n 3"]
    """xx, xy, yy, in pixels squared."""
    depths: Float[Tensor, "n"]
    """Distances from the camera's plane, in scene units. Where they are not above `NEAR`, nothing else holds."""
    colors: Float[Tensor, "n 3"]
    """As seen from the camera's center."""


def render(gaussians: Gaussians, view: PinholeView, background: Float[Tensor, "3"]) -> Rendering:
    """What a camera sees of one scene.

    Differentiable in all of the Gaussians' values, in the camera's pose and in the background; on the CPU, which also
    takes float64, in the lens as well. No gradient passes where alpha is limited to 0.99, or a color to 0. On CUDA,
    gsplat limits alpha to 0.999 and chooses the tiles that a Gaussian reaches otherwise: images are near, not equal.
    Where gsplat cannot be used, the CPU draws for CUDA, too, and it is said.

    Args:
        gaussians: without a batch.
        view: the camera.
        background: what is behind all Gaussians.
    """
    with torch.autocast(gaussians.means.device.type, enabled=False):  # pixels and depths need all digits
        by_gsplat = gaussians.means.is_cuda and gsplat_works()
        rasterize = _rasterized_by_gsplat if by_gsplat else _rasterized_by_cpu
        colors, depth, transmittance = rasterize(gaussians, view)
    return Rendering(colors + transmittance[..., None] * background, depth, 1.0 - transmittance)


def project(gaussians: Gaussians, view: PinholeView) -> ProjectedGaussians:
    """Gaussians as a camera sees them (Zwicker et al., "EWA Splatting", 2002, eq. 31; Kerbl et al., 2023, eq. 5).

    The covariance in the image is J W R S (J W R S)^T, J being the derivative of the projection at the mean. For it,
    x/z and y/z are limited to the field of view and `FIELD_MARGIN` on each side of it. Where the principal point is
    not in the middle, the two sides have limits of their own, as in gsplat.

    Args:
        gaussians: without a batch.
        view: the camera.
    """
    rotation, translation = view.world_to_camera[:, :3], view.world_to_camera[:, 3]
    in_camera = gaussians.means @ rotation.mT + translation
    # Gaussians behind the camera are not drawn, but have to have finite derivatives.
    z = in_camera[:, 2].clamp_min(NEAR)
    slopes = in_camera[:, :2] / z[:, None]
    size = torch.tensor([view.width, view.height]).to(slopes)
    margin = FIELD_MARGIN * size
    limited = slopes.clamp((-margin - view.center) / view.focal, (size + margin - view.center) / view.focal)
    roots = rotation @ gaussians.roots()
    in_image = (roots[:, :2] - limited[..., None] * roots[:, 2:]) * (view.focal / z[:, None])[..., None]
    across, down = in_image.unbind(1)
    covariances = torch.stack(
        [(across * across).sum(-1) + BLUR, (across * down).sum(-1), (down * down).sum(-1) + BLUR], dim=-1
    )
    directions = F.normalize(gaussians.means + translation @ rotation, dim=-1)
    return ProjectedGaussians(
        slopes * view.focal + view.center - 0.5,
        covariances,
        in_camera[:, 2],
        harmonic_colors(gaussians.harmonics, directions),
    )


class TileBlending(torch.autograd.Function):
    """The compiled blending of projected Gaussians as a function that autograd can differentiate, once."""

    @staticmethod
    def forward(
        ctx: Any,
        centers: Float[Tensor, "n 2"],
        covariances: Float[Tensor, "n 3"],
        opacities: Float[Tensor, "n"],
        features: Float[Tensor, "n 4"],
        order: Int[Tensor, "m"],
        width: int,
        height: int,
    ) -> Tuple[Float[Tensor, "height width 4"], Float[Tensor, "height width"]]:
        """Blended features, and the share of the background that is seen.

        Args:
            ctx: autograd's.
            centers: in pixels; (0, 0) is the middle of the first pixel.
            covariances: xx, xy, yy, in pixels squared.
            opacities: 0 to 1.
            features: what is blended.
            order: the Gaussians to draw, front to back.
            width: of the image, in pixels.
            height: of the image, in pixels.
        """
        from gnerf_ns.splats.tile_kernels import TILE  # not above, as it imports numba, which takes a second

        given = [value.contiguous() for value in (centers, covariances, opacities, features)]
        conics, reaches = torch.zeros(len(centers), 3, dtype=torch.float64), torch.zeros_like(opacities)
        rectangles = torch.empty(len(centers), 4, dtype=torch.int32)
        run_kernel(KERNELS, "find_tiles", *given[:3], width, height, conics, reaches, rectangles)
        columns, rows = -(-width // TILE), -(-height // TILE)
        starts = torch.zeros(columns * rows + 1, dtype=torch.int64)
        run_kernel(KERNELS, "count_entries", rectangles, order, columns, starts)
        entries = torch.empty(int(starts[-1]), dtype=torch.int64)
        run_kernel(KERNELS, "list_entries", rectangles, order, columns, starts, entries)
        lists = (*given[:2], conics, reaches, *given[2:], starts, entries)
        blended, transmittances = centers.new_empty(height, width, 4), centers.new_empty(height, width)
        ends = starts.new_empty(height, width)
        run_kernel(KERNELS, "blend", *lists, blended, transmittances, ends)
        ctx.save_for_backward(*lists, transmittances, ends)
        return blended, transmittances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor, None, None, None]:
        """Gradients with respect to centers, covariances, opacities and features."""
        centers, _, conics, *_, entries, _, _ = saved = ctx.saved_tensors
        of_entries, gradients = centers.new_zeros(len(entries), 10), centers.new_zeros(len(centers), 10)
        output_gradients = tuple(each.contiguous() for each in output_gradients)
        run_kernel(KERNELS, "blend_backward", *saved, *output_gradients, of_entries)
        run_kernel(KERNELS, "add_up", entries, of_entries, conics, gradients)
        return gradients[:, :2], gradients[:, 2:5], gradients[:, 5], gradients[:, 6:], None, None, None


def _rasterized_by_cpu(
    gaussians: Gaussians, view: PinholeView
) -> Tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """Colors before a black background, depth, and the share of the background that is seen, on the given device."""
    device = gaussians.means.device
    gaussians = Gaussians(*(value.cpu() for value in vars(gaussians).values()))
    lens = {name: getattr(view, name).cpu() for name in ("world_to_camera", "focal", "center")}
    view = replace(view, **lens)
    projected = project(gaussians, view)
    features = torch.cat([projected.colors, projected.depths[:, None]], dim=-1)
    with torch.no_grad():
        order = projected.depths.argsort(stable=True)
        order = order[(projected.depths <= NEAR).sum() :]
    blended, transmittance = TileBlending.apply(
        projected.centers, projected.covariances, gaussians.opacities, features, order, view.width, view.height
    )
    return blended[..., :3].to(device), blended[..., 3].to(device), transmittance.to(device)


@cache
def gsplat_works() -> bool:
    """Whether gsplat is there, and has or can build its compiled code; where not, it is said once what to do."""
    try:
        from gsplat.cuda._backend import _C  # pyright: ignore[reportAttributeAccessIssue]
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:  # of imports, and of compilers
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        reason = f"its compiled code cannot be loaded: {first_line.rstrip('.')}"
    else:
        if _C is not None:
            return True
        reason = "it finds no CUDA toolkit to compile its code with"  # gsplat's own check, which leaves None
    remark(
        f"Splats are drawn by the CPU, which is much slower than the GPU, because gsplat cannot be used ({reason}). "
        "Install a CUDA toolkit with nvcc, of the version that torch.version.cuda says, and a C++ compiler; or a "
        "gsplat that is compiled already."
    )
    return False


def _rasterized_by_gsplat(
    gaussians: Gaussians, view: PinholeView
) -> Tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """The same, by gsplat on CUDA."""
    from gsplat import rasterization

    degree = used_degree(gaussians.harmonics.shape[-1])
    bottom_row = view.world_to_camera.new_tensor([[0.0, 0.0, 0.0, 1.0]])
    intrinsics = torch.eye(3).to(view.focal)
    intrinsics[[0, 1], [0, 1]] = view.focal
    intrinsics[:2, 2] = view.center
    colors_and_depth, accumulation, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quaternions,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.harmonics[..., : num_harmonics(degree)].mT.contiguous(),
        viewmats=torch.cat([view.world_to_camera, bottom_row])[None],
        Ks=intrinsics[None],
        width=view.width,
        height=view.height,
        near_plane=NEAR,
        eps2d=BLUR,
        sh_degree=degree,
        packed=False,
        render_mode="RGB+D",
    )
    return colors_and_depth[0, ..., :3], colors_and_depth[0, ..., 3], 1.0 - accumulation[0, ..., 0]
