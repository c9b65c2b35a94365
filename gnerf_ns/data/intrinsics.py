"""Intrinsics and distortion of one image's lens, and whether a lens can be like that."""

import math
from dataclasses import dataclass, replace
from typing import List, Tuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import _compute_residual_and_jacobian, radial_and_tangential_undistort
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from gnerf_ns.data.images import ImageSize
from gnerf_ns.utils.errors import InputError

NARROWEST_FOV_DEG = 1.0
WIDEST_PERSPECTIVE_FOV_DEG = 150.0
_WIDEST_PERSPECTIVE_RAY_DEG = 80.0
"""From the axis, after undoing the distortion: beyond it, a pixel covers next to nothing."""
_LARGEST_PIXEL_ASPECT = 2.0
_CENTER_MARGIN, _USUAL_CENTER_MARGIN = 0.05, 0.25
"""Of the image's side: the principal point of no lens is nearer to an edge; that of a crop may be, of a whole image
hardly."""
_LARGEST_ROUND_TRIP_ERROR = 0.5
"""In pixels."""
_GRID_STEPS = 25
_LARGEST_NORMALIZED_FOCAL = 5.0
"""In widths of the image: a longer lens would show less than 12 degrees."""


@dataclass(frozen=True)
class Intrinsics:
    """Of one image, in pixels of ``size``."""

    size: ImageSize
    """The size that the other figures refer to; not necessarily the file's."""
    focal: Tuple[float, float]
    """Along x and y."""
    center: Tuple[float, float]
    """Principal point; (0, 0) is the outer corner of the first pixel."""
    distortion: Tuple[float, ...] = (0.0,) * 6
    """k1, k2, k3, k4, p1, p2."""
    camera_type: CameraType = CameraType.PERSPECTIVE
    """Camera model."""

    @classmethod
    def of_camera(cls, cameras: Cameras, index: int) -> "Intrinsics":
        """Those of one of nerfstudio's cameras."""
        distortion = cameras.distortion_params
        return cls(
            ImageSize(int(cameras.width[index]), int(cameras.height[index])),
            (float(cameras.fx[index]), float(cameras.fy[index])),
            (float(cameras.cx[index]), float(cameras.cy[index])),
            (0.0,) * 6 if distortion is None else tuple(float(value) for value in distortion[index]),
            CameraType(int(cameras.camera_type[index])),
        )

    def at_size(self, size: ImageSize) -> "Intrinsics":
        """The same lens for the image resized."""
        x, y = (new / old for new, old in zip(size, self.size, strict=True))
        focal, center = (self.focal[0] * x, self.focal[1] * y), (self.center[0] * x, self.center[1] * y)
        return replace(self, size=size, focal=focal, center=center)

    @property
    def fields_of_view(self) -> Tuple[float, float]:
        """Along x and y, in degrees; of a perspective or fisheye lens before its distortion."""
        (focal_x, focal_y), (width, height) = self.focal, self.size
        return _field_of_view(focal_x, width, self.camera_type), _field_of_view(focal_y, height, self.camera_type)


def _field_of_view(focal: float, side: float, camera_type: CameraType) -> float:
    if camera_type == CameraType.PERSPECTIVE:
        return math.degrees(2.0 * math.atan(side / 2.0 / focal))
    return (180.0 if camera_type == CameraType.EQUIRECTANGULAR else math.degrees(1.0)) * side / focal


def focal_from_fov(fov_deg: float, side: float, camera_type: CameraType = CameraType.PERSPECTIVE) -> float:
    """Focal length in pixels of a perspective or (equidistant) fisheye lens.

    Args:
        fov_deg: field of view across ``side``, in degrees.
        side: length in pixels.
        camera_type: camera model.
    """
    if camera_type == CameraType.PERSPECTIVE:
        return side / 2 / math.tan(math.radians(fov_deg) / 2)
    return side / math.radians(fov_deg)


def check_intrinsics(lens: Intrinsics, where: str) -> None:
    """See that a lens can be like that, and that its rays can be computed.

    Args:
        lens: positive, finite figures.
        where: the file and the image, for the message.

    Raises:
        InputError: the field of view, pixel aspect or principal point is out of range, or the distortion cannot be
            undone all over the image.
    """
    fl, c = ", ".join(f"{value:g}" for value in lens.focal), ", ".join(f"{value:g}" for value in lens.center)
    if _looks_normalized(lens):
        raise InputError(
            f"{where} has normalized intrinsics (fl_x, fl_y = {fl} and cx, cy = {c} with w, h = {lens.size}); "
            "give them in pixels."
        )
    for axis, fov in zip("xy", lens.fields_of_view, strict=True):
        if not NARROWEST_FOV_DEG <= fov <= _widest_field_of_view(lens.camera_type, axis):
            raise InputError(
                f"{where} has a field of view of {fov:.3g} degrees along {axis} (fl_x, fl_y = {fl} with w, h = "
                f"{lens.size}), which no {lens.camera_type.name.lower()} lens has; correct the focal lengths or the "
                "size that they refer to."
            )
    aspect = lens.focal[0] / lens.focal[1]
    is_panorama = lens.camera_type == CameraType.EQUIRECTANGULAR
    if not is_panorama and not 1 / _LARGEST_PIXEL_ASPECT <= aspect <= _LARGEST_PIXEL_ASPECT:
        raise InputError(
            f"{where} has focal lengths fl_x, fl_y = {fl} that differ by more than a factor of "
            f"{_LARGEST_PIXEL_ASPECT:g}; correct them, or the size {lens.size} that they refer to."
        )
    if _distance_to_edge(lens) < _CENTER_MARGIN:
        raise InputError(
            f"{where} has the principal point cx, cy = {c} outside the image or at its edge (w, h = {lens.size}); "
            "correct it, or the size that it refers to."
        )
    if not is_panorama and any(lens.distortion):
        _check_distortion(lens, where)


def doubts_about(lens: Intrinsics) -> List[str]:
    """What is unusual about a lens that can be used: the middles of sentences that end with the images' names."""
    if _distance_to_edge(lens) < _USUAL_CENTER_MARGIN:
        return ["the principal point is far from the middle (right for crops only) of"]
    return []


def _widest_field_of_view(camera_type: CameraType, axis: str) -> float:
    if camera_type == CameraType.PERSPECTIVE:
        return WIDEST_PERSPECTIVE_FOV_DEG
    # With room for rounding.
    return 180.5 if camera_type == CameraType.EQUIRECTANGULAR and axis == "y" else 360.5


def _distance_to_edge(lens: Intrinsics) -> float:
    """Of the principal point, as a share of the image's side; negative outside."""
    shares = [center / side for center, side in zip(lens.center, lens.size, strict=True)]
    return min(min(share, 1.0 - share) for share in shares)


def _looks_normalized(lens: Intrinsics) -> bool:
    """Whether lengths are given as shares of the image's sides."""
    if min(lens.size) >= 4 and all(0.0 < center <= 1.0 for center in lens.center):
        return True
    too_wide = max(lens.fields_of_view) > _widest_field_of_view(lens.camera_type, "x")
    return too_wide and max(lens.focal) <= _LARGEST_NORMALIZED_FOCAL


def _check_distortion(lens: Intrinsics, where: str) -> None:
    figures = ", ".join(
        f"{name} = {value:g}"
        for name, value in zip(("k1", "k2", "k3", "k4", "p1", "p2"), lens.distortion, strict=True)
        if value
    )
    advice = "correct it, or undistort the images and remove it."
    rows, columns = torch.linspace(0, 1, _GRID_STEPS), torch.linspace(0, 1, _GRID_STEPS)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1) * torch.tensor(lens.size)
    focal, params = torch.tensor(lens.focal), torch.tensor(lens.distortion)
    distorted = (pixels - torch.tensor(lens.center)) / focal
    undistorted = radial_and_tangential_undistort(distorted, params)
    errors = torch.linalg.vector_norm(_residuals(undistorted, distorted, params) * focal, dim=-1)
    angles = torch.linalg.vector_norm(undistorted, dim=-1)
    widest = math.pi
    if lens.camera_type == CameraType.PERSPECTIVE:
        angles, widest = torch.atan(angles), math.radians(_WIDEST_PERSPECTIVE_RAY_DEG)
    if not bool((errors < _LARGEST_ROUND_TRIP_ERROR).all()) or not bool((angles <= widest).all()):
        raise InputError(f"{where} has a distortion ({figures}) that cannot be undone all over the image; {advice}")
    shares = torch.linspace(0, 1, _GRID_STEPS)[:, None, None, None]
    if not bool((_jacobian_determinants(undistorted * shares, params) > 0).all()):
        raise InputError(
            f"{where} has a distortion ({figures}) that folds the image: two directions have the same pixel; {advice}"
        )


def _residuals(
    undistorted: Float[Tensor, "*grid 2"], distorted: Float[Tensor, "*grid 2"], params: Float[Tensor, "6"]
) -> Float[Tensor, "*grid 2"]:
    """By how much distortion misses where it should lead."""
    x, y = undistorted.unbind(dim=-1)
    missed_x, missed_y, *_ = _compute_residual_and_jacobian(x, y, distorted[..., 0], distorted[..., 1], params)
    return torch.stack([missed_x, missed_y], dim=-1)


def _jacobian_determinants(points: Float[Tensor, "*grid 2"], params: Float[Tensor, "6"]) -> Float[Tensor, "*grid"]:
    """Of the distortion."""
    x, y = points.unbind(dim=-1)
    _, _, x_x, x_y, y_x, y_y = _compute_residual_and_jacobian(x, y, x, y, params)
    return x_x * y_y - x_y * y_x
