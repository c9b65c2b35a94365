"""Rays of cameras whose pose is being learned."""

from typing import Tuple

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from gnerf_ns.errors import InputError

CENTRAL_CAMERA_TYPES = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.FISHEYE624, CameraType.EQUIRECTANGULAR)
"""Camera models whose rays all start at the camera's position."""


def camera_space_directions(
    cameras: Cameras, camera_index: int, height: int, width: int
) -> Float[Tensor, "height width 3"]:
    """Unit directions, in the camera's own frame, through the pixel centres of its image resampled to a given size.

    Lens distortion is undone. The camera's pose is not looked at.

    Args:
        cameras: cameras with one batch dimension.
        camera_index: which of them.
        height: of the resampled image, in pixels.
        width: of the resampled image, in pixels.

    Raises:
        InputError: the camera's rays do not start at one point (orthographic, omnidirectional stereo, VR180).
    """
    camera = cameras[camera_index : camera_index + 1]
    if CameraType(int(camera.camera_type.item())) not in CENTRAL_CAMERA_TYPES:
        name = CameraType(int(camera.camera_type.item())).name
        raise InputError(
            f"Camera {camera_index} is of type {name}, whose rays do not meet; use perspective or fisheye."
        )
    scale_x, scale_y = width / camera.width, height / camera.height
    resampled = Cameras(
        camera_to_worlds=torch.eye(4, device=cameras.device)[None, :3],
        fx=camera.fx * scale_x,
        fy=camera.fy * scale_y,
        cx=camera.cx * scale_x,
        cy=camera.cy * scale_y,
        width=width,
        height=height,
        distortion_params=camera.distortion_params,
        camera_type=camera.camera_type,
    )
    rows, columns = torch.meshgrid(
        torch.arange(height, device=cameras.device) + 0.5,
        torch.arange(width, device=cameras.device) + 0.5,
        indexing="ij",
    )
    return resampled.generate_rays(camera_indices=0, coords=torch.stack([rows, columns], dim=-1)).directions


def rays_from_poses(
    camera_to_worlds: Float[Tensor, "batch 3 4"],
    directions: Float[Tensor, "batch rays 3"],
    camera_indices: Int[Tensor, "batch"],
) -> RayBundle:
    """World-space rays, differentiable in the poses.

    Args:
        camera_to_worlds: poses, in scene units.
        directions: unit directions in each camera's own frame.
        camera_indices: what to write into the rays' ``camera_indices``.

    Returns:
        batch * rays rays, those of one camera standing together.
    """
    world_directions = torch.einsum("bij,brj->bri", camera_to_worlds[:, :, :3], directions)
    origins = camera_to_worlds[:, None, :, 3].expand_as(world_directions)
    num_rays = directions.shape[1]
    return RayBundle(
        origins=origins.reshape(-1, 3),
        directions=world_directions.reshape(-1, 3),
        # Samples are taken as points: these rays have no footprint.
        pixel_area=directions.new_zeros(origins.shape[0] * num_rays, 1),
        camera_indices=camera_indices.repeat_interleave(num_rays)[:, None],
    )


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
        gets the interval of a ray from the same origin through the centre, which lies outside the ball but is finite
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
