"""Rays of cameras whose pose is being learned."""

from typing import Callable, List, Optional, Tuple

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor
from torch.nn import functional

from gnerf_ns.utils.errors import InputError

CENTRAL_CAMERA_TYPES = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.FISHEYE624, CameraType.EQUIRECTANGULAR)
"""Camera models whose rays all start at the camera's position."""


class CameraDirections:
    """Directions of rays in each camera's own frame, lens distortion undone."""

    def __init__(
        self, cameras: Cameras, focal_scales: Optional[Callable[[Int[Tensor, "batch"]], Tensor]] = None
    ) -> None:
        """Keeps the intrinsics; the poses are not looked at.

        Args:
            cameras: cameras with one batch dimension.
            focal_scales: maps camera indices to how many times longer their focal lengths are by now (`FocalScales`);
                None for no longer.

        Raises:
            InputError: some camera's rays do not start at one point (orthographic, omnidirectional stereo, VR180).
        """
        for camera_type in cameras.camera_type.unique().tolist():
            if CameraType(camera_type) not in CENTRAL_CAMERA_TYPES:
                raise InputError(
                    f"There is a camera of type {CameraType(camera_type).name}, whose rays do not meet; "
                    "use perspective or fisheye cameras."
                )
        self._cameras = Cameras(
            camera_to_worlds=torch.eye(4, device=cameras.device)[None, :3].repeat(len(cameras), 1, 1),
            fx=cameras.fx,
            fy=cameras.fy,
            cx=cameras.cx,
            cy=cameras.cy,
            width=cameras.width,
            height=cameras.height,
            distortion_params=cameras.distortion_params,
            camera_type=cameras.camera_type,
        )
        self._sizes = torch.cat([cameras.width, cameras.height], dim=-1)
        self._focal_scales = focal_scales

    def __len__(self) -> int:
        return len(self._cameras)

    def __getitem__(self, indices: Int[Tensor, "batch"]) -> "CameraDirections":
        """Those of some cameras, each as often as its index occurs."""
        factors = self._focal_scales
        if factors is None:
            return CameraDirections(self._cameras[indices])
        return CameraDirections(self._cameras[indices], lambda chosen: factors(indices[chosen]))

    @property
    def smallest_field_of_view(self) -> float:
        """The smaller of the horizontal and vertical fields of view as given, median over the cameras, in radians."""
        return float(self._fields_of_view().median())

    @property
    def typical(self) -> Int[Tensor, ""]:
        """Index of a camera that has the median field of view: where one has to stand for all."""
        return self._fields_of_view().median(dim=0).indices

    def _fields_of_view(self) -> Float[Tensor, "cameras"]:
        focal = torch.cat([self._cameras.fx, self._cameras.fy], dim=-1)
        return (2.0 * torch.atan(0.5 * self._sizes / focal)).amin(dim=-1)

    def pixel_areas(self, camera_indices: Int[Tensor, "batch"], height: int, width: int) -> Float[Tensor, "batch"]:
        """What a pixel in the middle of each image covers at distance 1, the image being resampled to a size."""
        shares = self._sizes[camera_indices] / self._sizes.new_tensor([width, height])
        focal = torch.cat([self._cameras.fx, self._cameras.fy], dim=-1)[camera_indices]
        return (shares / focal).prod(dim=-1)

    def at(
        self, camera_indices: Int[Tensor, "batch"], coords: Float[Tensor, "batch rays 2"]
    ) -> Float[Tensor, "batch rays 3"]:
        """Unit directions through points of the images, differentiable in the focal factors.

        Args:
            camera_indices: which camera each row of points belongs to.
            coords: (x, y), -1 and 1 being the image's edges (as `data.patch_sampling` has them).
        """
        pixels = (coords + 1.0) / 2.0 * self._sizes[camera_indices][:, None].to(coords)
        rays = self._cameras.generate_rays(
            camera_indices=camera_indices[:, None, None].expand(*coords.shape[:2], 1), coords=pixels.flip(-1)
        )
        if self._focal_scales is None:
            return rays.directions
        return with_longer_focal(rays.directions, self._focal_scales(camera_indices))


def with_longer_focal(
    directions: Float[Tensor, "batch rays 3"], factors: Float[Tensor, "batch"]
) -> Float[Tensor, "batch rays 3"]:
    """Unit directions through the same points of images, of cameras whose focal lengths are so many times longer."""
    # All that it does: what is seen lies closer to the axis.
    across, along = directions[..., :2] / factors[:, None, None], directions[..., 2:]
    return functional.normalize(torch.cat([across, along], dim=-1), dim=-1)


def rays_from_poses(
    camera_to_worlds: Float[Tensor, "batch 3 4"],
    directions: Float[Tensor, "batch rays 3"],
    camera_indices: Int[Tensor, "batch"],
    pixel_areas: Optional[Float[Tensor, "batch"]] = None,
) -> RayBundle:
    """World-space rays, differentiable in the poses and the directions.

    Args:
        camera_to_worlds: poses, in scene units.
        directions: unit directions in each camera's own frame.
        camera_indices: what to write into the rays' ``camera_indices``.
        pixel_areas: what a pixel of each camera covers at distance 1, for methods that look at cones; None for
            nothing, where samples are taken as points.

    Returns:
        batch * rays rays, those of one camera standing together.
    """
    # A sum and not a matrix product, which mixed precision would round to half a pixel.
    world_directions = (camera_to_worlds[:, None, :, :3] * directions[:, :, None, :]).sum(dim=-1)
    origins = camera_to_worlds[:, None, :, 3].expand_as(world_directions)
    origins = without_gradient_along(origins, world_directions)
    num_rays = directions.shape[1]
    areas = directions.new_zeros(len(directions)) if pixel_areas is None else pixel_areas
    return RayBundle(
        origins=origins.reshape(-1, 3),
        directions=world_directions.reshape(-1, 3),
        pixel_area=areas.repeat_interleave(num_rays)[:, None],
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


def concatenate_rays(bundles: List[RayBundle]) -> RayBundle:
    """One flat bundle of several (those of `rays_from_poses`)."""
    return RayBundle(
        origins=torch.cat([bundle.origins for bundle in bundles]),
        directions=torch.cat([bundle.directions for bundle in bundles]),
        pixel_area=torch.cat([bundle.pixel_area for bundle in bundles]),
        camera_indices=torch.cat([b.camera_indices for b in bundles if b.camera_indices is not None]),
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
