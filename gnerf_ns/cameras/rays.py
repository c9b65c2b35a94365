"""Rays of cameras whose pose is being learned."""

import math
from copy import copy
from typing import Callable, List, Optional, Tuple

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.camera_utils import radial_and_tangential_undistort
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor
from torch.nn import functional

from gnerf_ns.utils.errors import InputError

CENTRAL_CAMERA_TYPES = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR)
"""Camera models whose rays all start at the camera's position, and that a transforms.json can hold."""

WIDEST_FIELD_OF_VIEW = math.radians(120.0)
"""Beyond this, no object that is looked at from outside fills the view."""


class CameraDirections:
    """Directions of rays in each camera's own frame, lens distortion undone.

    They are those of nerfstudio's `Cameras.generate_rays`, which computes three rays for each (for the pixel's area),
    and NaN on the axis of a fisheye lens.
    """

    def __init__(
        self, cameras: Cameras, focal_scales: Optional[Callable[[Int[Tensor, "batch"]], Tensor]] = None
    ) -> None:
        """Keeps the intrinsics; the poses are not looked at.

        Args:
            cameras: cameras with one batch dimension.
            focal_scales: maps camera indices to learned factors on their focal lengths (`FocalScales`); None for 1.

        Raises:
            InputError: cameras of differing types, or whose rays do not start at one point (orthographic,
                omnidirectional stereo, VR180), or with more distortion parameters than a transforms.json holds
                (FISHEYE624).
        """
        types = [CameraType(value) for value in cameras.camera_type.unique().tolist()]
        allowed = ", ".join(camera_type.name for camera_type in CENTRAL_CAMERA_TYPES)
        for camera_type in types:
            if camera_type not in CENTRAL_CAMERA_TYPES:
                raise InputError(
                    f"There is a camera of type {camera_type.name}, which is not supported; use one of {allowed}."
                )
        if len(types) > 1:
            raise InputError(
                f"The cameras are of several types ({', '.join(camera_type.name for camera_type in types)}); "
                "use images of one type."
            )
        self._camera_type = types[0] if types else CameraType.PERSPECTIVE
        self._focal = torch.cat([cameras.fx, cameras.fy], dim=-1)
        self._centers = torch.cat([cameras.cx, cameras.cy], dim=-1)
        self._sizes = torch.cat([cameras.width, cameras.height], dim=-1)
        distortion = cameras.distortion_params
        is_distorted = distortion is not None and self._camera_type != CameraType.EQUIRECTANGULAR
        self._distortion = distortion if is_distorted and bool((distortion != 0).any()) else None
        self._focal_scales = focal_scales

    def __len__(self) -> int:
        return len(self._focal)

    def __getitem__(self, indices: Int[Tensor, "batch"]) -> "CameraDirections":
        """Those of some cameras, each as often as its index occurs."""
        chosen, learned = copy(self), self._focal_scales
        chosen._focal, chosen._centers = self._focal[indices], self._centers[indices]
        chosen._sizes = self._sizes[indices]
        chosen._distortion = None if self._distortion is None else self._distortion[indices]
        chosen._focal_scales = None if learned is None else lambda among: learned(indices[among])
        return chosen

    @property
    def smallest_field_of_view(self) -> float:
        """The smaller of the horizontal and vertical fields of view as given, median over the cameras, in radians.

        At most 120 degrees.
        """
        return min(float(self._fields_of_view().median()), WIDEST_FIELD_OF_VIEW)

    @property
    def typical(self) -> Int[Tensor, ""]:
        """Index of a camera that has the median field of view: where one has to stand for all."""
        return self._fields_of_view().median(dim=0).indices

    def _fields_of_view(self) -> Float[Tensor, "cameras"]:
        if self._camera_type == CameraType.PERSPECTIVE:
            return (2.0 * torch.atan(0.5 * self._sizes / self._focal)).amin(dim=-1)
        return (self._sizes * self._radians_per_unit / self._focal).amin(dim=-1)

    @property
    def _radians_per_unit(self) -> float:
        """Of pixel coordinates divided by the focal length, in the middle of the image."""
        return math.pi if self._camera_type == CameraType.EQUIRECTANGULAR else 1.0

    def pixel_areas(
        self,
        camera_indices: Int[Tensor, "batch"],
        directions: Float[Tensor, "batch rays 3"],
        height: int,
        width: int,
        focal_scales: Optional[Float[Tensor, "batch"]] = None,
    ) -> Float[Tensor, "batch rays"]:
        """What the pixel around each ray covers at distance 1, the image being resampled to a size.

        As nerfstudio's `Cameras.generate_rays` has it, but exact for small pixels and without lens distortion: the
        product of what a pixel's sides turn a ray by. Differentiable in directions and all focal scales.

        Args:
            camera_indices: which camera each row of rays belongs to.
            directions: unit directions in each camera's own frame, as from `at`.
            height: of the image, in pixels.
            width: likewise.
            focal_scales: as in `at`.
        """
        shares = self._sizes[camera_indices] / self._sizes.new_tensor([width, height])
        in_the_middle = (self._radians_per_unit * shares / self._focal[camera_indices]).prod(dim=-1)
        if self._focal_scales is not None:
            in_the_middle = in_the_middle / self._focal_scales(camera_indices).square()
        if focal_scales is not None:
            in_the_middle = in_the_middle / focal_scales.square()
        return in_the_middle[:, None] * self._shrinkage(directions)

    def _shrinkage(self, directions: Float[Tensor, "batch rays 3"]) -> Float[Tensor, "batch rays"]:
        """How much smaller a pixel is than one in the middle."""
        x, y, z = directions.unbind(dim=-1)
        if self._camera_type == CameraType.PERSPECTIVE:
            return z.square() * ((1.0 - x.square()) * (1.0 - y.square())).clamp_min(0.0).sqrt()
        if self._camera_type == CameraType.FISHEYE:
            return torch.sinc(torch.atan2((x.square() + y.square()).clamp_min(1e-12).sqrt(), -z) / math.pi)
        return (1.0 - y.square()).clamp_min(1e-12).sqrt()

    def at(
        self,
        camera_indices: Int[Tensor, "batch"],
        coords: Float[Tensor, "batch rays 2"],
        focal_scales: Optional[Float[Tensor, "batch"]] = None,
    ) -> Float[Tensor, "batch rays 3"]:
        """Unit directions through points of the images, differentiable in all focal scales.

        Args:
            camera_indices: which camera each row of points belongs to.
            coords: (x, y), -1 and 1 being the image's edges (as `data.patch_sampling` has them).
            focal_scales: factors on the focal length of each row's camera, besides the learned ones; None for 1.
        """
        pixels = (coords + 1.0) / 2.0 * self._sizes[camera_indices][:, None].to(coords)
        points = (pixels - self._centers[camera_indices][:, None]) / self._focal[camera_indices][:, None]
        # In front of the distortion, which acts on what the focal length has scaled.
        if self._focal_scales is not None:
            points = points / self._focal_scales(camera_indices)[:, None, None]
        if focal_scales is not None:
            points = points / focal_scales[:, None, None]
        if self._distortion is not None:
            points = radial_and_tangential_undistort(points, self._distortion[camera_indices][:, None])
        return functional.normalize(self._directions(points), dim=-1)

    def _directions(self, points: Float[Tensor, "batch rays 2"]) -> Float[Tensor, "batch rays 3"]:
        """Of points in undistorted pixel coordinates from the principal point, divided by the focal length."""
        x, y = points[..., :1], -points[..., 1:]  # OpenGL's y points up
        if self._camera_type == CameraType.PERSPECTIVE:
            return torch.cat([x, y, torch.full_like(x, -1.0)], dim=-1)
        if self._camera_type == CameraType.FISHEYE:
            # The norm's gradient is 0 at 0, and sinc is smooth there: no NaN on the axis.
            angle = torch.linalg.vector_norm(points, dim=-1, keepdim=True).clamp_max(math.pi)
            shrinkage = torch.sinc(angle / math.pi)
            return torch.cat([x * shrinkage, y * shrinkage, -torch.cos(angle)], dim=-1)
        azimuth, polar = -math.pi * x, math.pi * (0.5 - y)
        sine = torch.sin(polar)
        return torch.cat([-torch.sin(azimuth) * sine, torch.cos(polar), -torch.cos(azimuth) * sine], dim=-1)


def rays_from_poses(
    camera_to_worlds: Float[Tensor, "batch 3 4"],
    directions: Float[Tensor, "batch rays 3"],
    camera_indices: Int[Tensor, "batch"],
    pixel_areas: Optional[Float[Tensor, "batch rays"]] = None,
) -> RayBundle:
    """World-space rays, differentiable in the poses and the directions.

    Args:
        camera_to_worlds: poses, in scene units.
        directions: unit directions in each camera's own frame.
        camera_indices: what to write into the rays' ``camera_indices``.
        pixel_areas: what each ray's pixel covers at distance 1, for methods that look at cones; None for nothing,
            where samples are taken as points.

    Returns:
        batch * rays rays, those of one camera standing together.
    """
    # A sum and not a matrix product, which mixed precision would round to half a pixel.
    world_directions = (camera_to_worlds[:, None, :, :3] * directions[:, :, None, :]).sum(dim=-1)
    origins = camera_to_worlds[:, None, :, 3].expand_as(world_directions)
    origins = without_gradient_along(origins, world_directions)
    num_rays = directions.shape[1]
    areas = torch.zeros_like(directions[..., 0]) if pixel_areas is None else pixel_areas
    return RayBundle(
        origins=origins.reshape(-1, 3),
        directions=world_directions.reshape(-1, 3),
        pixel_area=areas.reshape(-1, 1),
        camera_indices=camera_indices.repeat_interleave(num_rays)[:, None],
    )


def without_gradient_along(
    origins: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """The same origins, whose motion along their rays is not differentiated.

    A ray that slides along itself is the same ray and has the same color. Samples at fixed distances slide with it,
    though, so that the color's derivative along the ray is what their spacing happens to make it: noise, ten times as
    large as the rest of a focal length's gradient, and not of mean zero, so that focal lengths grew without end.

    Args:
        origins: of rays.
        directions: unit directions of the same rays.
    """
    directions = directions.detach()
    along = ((origins - origins.detach()) * directions).sum(dim=-1, keepdim=True)
    return origins - along * directions


@torch.no_grad()
def intersect_sphere(
    ray_bundle: RayBundle, radius: float
) -> Tuple[Float[Tensor, "rays 1"], Float[Tensor, "rays 1"], Bool[Tensor, "rays"]]:
    """Where rays enter and leave the ball around the origin, as constants to differentiation.

    Args:
        ray_bundle: flat rays with unit directions.
        radius: of the ball, in scene units.

    Returns:
        nears, fars and hits. Nears are never negative (0 for a ray that starts inside). A ray that misses the ball
        gets the interval of a ray from the same origin through the center, which lies outside the ball but is finite
        and of positive length.
    """
    origins, directions = ray_bundle.origins, ray_bundle.directions
    closest = -(origins * directions).sum(dim=-1, keepdim=True)
    # From the closest point, not from |origin|^2 - radius^2, which loses all digits when the camera is far away.
    distance_squared = (origins + closest * directions).square().sum(dim=-1, keepdim=True)
    half_chord = (radius**2 - distance_squared).clamp_min(0.0).sqrt()
    hits = (half_chord > 0.0) & (closest + half_chord > 0.0)
    distance = torch.linalg.vector_norm(origins, dim=-1, keepdim=True)
    nears = torch.where(hits, closest - half_chord, distance - radius).clamp_min(0.0)
    fars = torch.where(hits, closest + half_chord, distance + radius)
    return nears, fars, hits.squeeze(-1)


SHOWS_NOTHING = "shows_nothing"
"""Metadata of training rays, a bool for each: whether its pixel is known to show nothing but what is behind objects."""


def concatenate_rays(bundles: List[RayBundle]) -> RayBundle:
    """One flat bundle of several (those of `rays_from_poses`); of rays without metadata, nothing is known."""
    metadata = {}
    if any(SHOWS_NOTHING in bundle.metadata for bundle in bundles):
        unknown = [torch.zeros_like(bundle.pixel_area, dtype=torch.bool) for bundle in bundles]
        known = [bundle.metadata.get(SHOWS_NOTHING, none) for bundle, none in zip(bundles, unknown, strict=True)]
        metadata = {SHOWS_NOTHING: torch.cat(known)}
    return RayBundle(
        origins=torch.cat([bundle.origins for bundle in bundles]),
        directions=torch.cat([bundle.directions for bundle in bundles]),
        pixel_area=torch.cat([bundle.pixel_area for bundle in bundles]),
        camera_indices=torch.cat([b.camera_indices for b in bundles if b.camera_indices is not None]),
        metadata=metadata,
    )


def no_rays(device: torch.device) -> RayBundle:
    """An empty bundle."""
    empty = torch.zeros(0, 3, device=device)
    return RayBundle(
        origins=empty,
        directions=empty,
        pixel_area=empty[:, :1],
        camera_indices=torch.zeros(0, 1, dtype=torch.long, device=device),
    )


def sampson_errors(
    first: Float[Tensor, "n 3 4"],
    second: Float[Tensor, "n 3 4"],
    first_directions: Float[Tensor, "n 3"],
    second_directions: Float[Tensor, "n 3"],
) -> Float[Tensor, "n"]:
    """Squared angles, in radians, by which pairs of rays miss each other, to first order (Sampson's approximation).

    On the sphere of directions, so that wide and fisheye lenses need no plane.

    Args:
        first: camera_to_worlds.
        second: those of the other cameras.
        first_directions: unit directions in the first cameras' own frames.
        second_directions: those of the matched points in the second ones'.
    """
    one = (first[..., :3] * first_directions[:, None, :]).sum(dim=-1)
    other = (second[..., :3] * second_directions[:, None, :]).sum(dim=-1)
    baseline = functional.normalize(second[..., 3] - first[..., 3], dim=-1)
    # The rays meet if both directions and the baseline lie in one plane.
    missed = (baseline * torch.linalg.cross(one, other, dim=-1)).sum(dim=-1)
    by_one = torch.linalg.cross(torch.linalg.cross(other, baseline, dim=-1), one, dim=-1)
    by_other = torch.linalg.cross(torch.linalg.cross(baseline, one, dim=-1), other, dim=-1)
    slopes = by_one.square().sum(dim=-1) + by_other.square().sum(dim=-1)
    return missed.square() / slopes.clamp_min(1e-9)
