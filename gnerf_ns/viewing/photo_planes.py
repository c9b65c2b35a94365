"""Where a photo lies in front of its camera, and from where a browser's camera sees just that photo.

A photo seen from its camera's position covers what it shows, whatever the direction and the field of view that it is
looked at with. So a browser's camera, whose principal point is always in the middle, still shows a photo exactly whose
own is not.
"""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.rays import CameraDirections

EDGE_POINTS = 65
"""Points along each edge of a distorted photo, whose directions bound the plane that it is brought to."""
UNDISTORTED_GAIN = 2.0
"""A photo brought to a plane has at most so many times the pixels a side that it had: wide lenses stretch corners."""
MARGIN = 1.02
"""A photo is shown with so much more around it that its edges are seen."""
LEAST_UPRIGHT = 0.05
"""Cosine of the angle between a camera's up direction and the scene's, below which the camera's own counts."""
LOOK_DISTANCES = (0.5, 150.0)
"""Of the point that the browser's camera turns about, in its units; it allows for 0.1 to 200."""


class PlaneBounds(NamedTuple):
    """A rectangle across a camera's axis at distance 1, in its OpenCV axes: x to the right, y down."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def size(self) -> Tuple[float, float]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    @property
    def middle(self) -> Tuple[float, float]:
        """Where the diagonals meet; (0, 0) if the principal point is in the middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def reach(self) -> Tuple[float, float]:
        """Farthest points from the axis, horizontally and vertically."""
        return max(abs(self.left), abs(self.right)), max(abs(self.top), abs(self.bottom))


class BrowserView(NamedTuple):
    """What a viser camera is set to, in its own world."""

    position: Float[np.ndarray, "3"]
    look_at: Float[np.ndarray, "3"]
    up_direction: Float[np.ndarray, "3"]
    fov: float
    """Vertical field of view, in radians."""


def has_planes(cameras: Cameras) -> bool:
    """Whether photos of these cameras fit on planes: those of fisheye lenses and panoramas do not."""
    return bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all())


def plane_bounds(cameras: Cameras) -> List[PlaneBounds]:
    """The rectangle that each photo covers, with its lens distortion undone.

    Args:
        cameras: of the photos' size; what a fisheye lens or a panorama sees fits no rectangle, and counts as seen by a
            perspective one.
    """
    cameras = cameras.to("cpu")
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        setattr(cameras, name, getattr(cameras, name).double())
    if not has_planes(cameras):
        cameras.camera_type = torch.full_like(cameras.camera_type, CameraType.PERSPECTIVE.value)
        cameras.distortion_params = None
    along = torch.linspace(-1.0, 1.0, EDGE_POINTS, dtype=torch.float64)
    coords = torch.cat([torch.stack([along, torch.full_like(along, end)], dim=-1) for end in (-1.0, 1.0)])
    coords = torch.cat([coords, coords.flip(-1)]).expand(len(cameras), -1, -1)
    directions = CameraDirections(cameras).at(torch.arange(len(cameras)), coords)
    points = directions[..., :2] * directions.new_tensor([1.0, -1.0]) / -directions[..., 2:]
    low, high = points.amin(dim=1), points.amax(dim=1)
    return [PlaneBounds(*each) for each in torch.cat([low, high], dim=1).tolist()]


def is_distorted(cameras: Cameras, index: int) -> bool:
    """Whether a photo's lens bends straight lines."""
    return cameras.distortion_params is not None and bool((cameras.distortion_params[index] != 0).any())


def undistorted(
    photo: UInt8[Tensor, "height width 4"], cameras: Cameras, index: int, bounds: PlaneBounds
) -> UInt8[Tensor, "new_height new_width 4"]:
    """A photo as a pinhole camera would have taken it, transparent where the lens has seen nothing.

    Args:
        photo: with straight alpha.
        cameras: perspective ones, of the photo's size.
        index: the photo's.
        bounds: `plane_bounds`, which the result covers; a photo whose lens does not distort is returned as it is.
    """
    if not is_distorted(cameras, index):
        return photo
    height, width = photo.shape[:2]
    assert cameras.distortion_params is not None
    focal = [float(cameras.fx[index]), float(cameras.fy[index])]
    center = [float(cameras.cx[index]), float(cameras.cy[index])]
    most = UNDISTORTED_GAIN * max(width, height)
    scale = min(1.0, most / max(bounds.size[0] * focal[0], bounds.size[1] * focal[1]))
    new_width, new_height = (max(1, round(scale * size * each)) for size, each in zip(bounds.size, focal, strict=True))
    x = bounds.left + (torch.arange(new_width, dtype=torch.float64) + 0.5) / new_width * bounds.size[0]
    y = bounds.top + (torch.arange(new_height, dtype=torch.float64) + 0.5) / new_height * bounds.size[1]
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    pixels = distorted(points, cameras.distortion_params[index].double().cpu()) * torch.tensor(focal)
    coords = 2.0 * (pixels + torch.tensor(center)) / torch.tensor([width, height]) - 1.0
    floats = photo.cpu().permute(2, 0, 1)[None].double()
    sampled = functional.grid_sample(floats, coords[None].double(), padding_mode="border", align_corners=False)[0]
    sampled[3] *= (coords.abs() <= 1.0).all(dim=-1)
    return sampled.permute(1, 2, 0).round().to(torch.uint8)


def distorted(points: Float[Tensor, "*n 2"], params: Float[Tensor, "6"]) -> Float[Tensor, "*n 2"]:
    """Where a lens shows points of the plane at distance 1: nerfstudio's model, whose inverse it solves for rays.

    Args:
        points: on the plane.
        params: k1, k2, k3, k4, p1, p2.
    """
    k1, k2, k3, k4, p1, p2 = params.unbind()
    x, y = points.unbind(dim=-1)
    r = x * x + y * y
    radial = 1.0 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    return torch.stack(
        [
            radial * x + 2.0 * p1 * x * y + p2 * (r + 2.0 * x * x),
            radial * y + 2.0 * p2 * x * y + p1 * (r + 2.0 * y * y),
        ],
        dim=-1,
    )


def fitting_fov(bounds: PlaneBounds, aspect: float) -> float:
    """Vertical field of view at which a window shows all of a photo, in radians.

    Args:
        bounds: the photo's.
        aspect: width over height of the window.
    """
    horizontal, vertical = bounds.reach
    return 2.0 * float(np.arctan(MARGIN * max(vertical, horizontal / aspect)))


def browser_view(
    camera_to_world: Float[Tensor, "3 4"],
    up: Float[Tensor, "3"],
    bounds: PlaneBounds,
    aspect: float,
    world_scale: float,
) -> BrowserView:
    """What shows the scene from exactly where a camera is, turned as it is.

    Args:
        camera_to_world: the camera's pose, with OpenGL axes.
        up: direction in the scene that the visitor turns about afterwards, as far as the camera's roll allows.
        bounds: the photo's, all of which is shown.
        aspect: width over height of the window.
        world_scale: viewer's units in a unit of the scene.
    """
    pose = camera_to_world.detach().cpu().double().numpy()
    right, own_up, backward, position = pose.T
    position = world_scale * position
    distance = float(np.clip(np.linalg.norm(position), *LOOK_DISTANCES))
    # Any up direction across the camera's right one gives its orientation; the nearest to the scene's is the handiest.
    turning = up.detach().cpu().double().numpy()
    turning = turning - (turning @ right) * right
    if turning @ own_up < LEAST_UPRIGHT:
        turning = own_up
    return BrowserView(
        position, position - distance * backward, turning / np.linalg.norm(turning), fitting_fov(bounds, aspect)
    )
