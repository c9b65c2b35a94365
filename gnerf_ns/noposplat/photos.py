"""A few photos of one scene, of any kind, as the network wants them: of one size, by pinhole cameras."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import _compute_residual_and_jacobian
from nerfstudio.cameras.cameras import CameraType
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.data.dataset import MIN_IMAGE_SIDE, WRONG_ASPECT_TOLERANCE
from gnerf_ns.data.frames import read_all_frames
from gnerf_ns.data.image_set import premultiply
from gnerf_ns.data.images import ImageSize, area_resize, centered_window, is_image, read_header, read_image
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.data.lens_sources import DEFAULT_FOV_DEG, lenses_of_frames
from gnerf_ns.data.mask_files import split_off_masks
from gnerf_ns.data.transforms_json import Frame, load_transforms_json, read_transforms_json
from gnerf_ns.noposplat.network import SIDE_UNIT
from gnerf_ns.splats.rendering import PinholeView
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError

MOST_PHOTOS = 12
"""Of more, structure from motion usually finds the cameras; and each two of them are a pass of the network."""
OVERSAMPLING = 2
"""Photos whose lens distorts are read so much larger than they are wanted, to be straightened."""
MENTIONED_LOSS = 0.005
"""Share of a side that is cut off without a word."""


@dataclass(frozen=True)
class PhotoFiles:
    """Photos that are there, and their lenses."""

    frames: List[Frame]
    """In the order that they were given in."""
    lenses: List[Intrinsics]
    """Of the upright photos, at any size."""
    lens_origin: str
    """Where the focal lengths are from, in words."""
    is_calibrated: bool
    """Whether they are from a transforms.json."""

    @property
    def sizes(self) -> List[ImageSize]:
        """Of the upright photos."""
        return [read_header(frame.image).size_as(self.orientation(frame)) for frame in self.frames]

    def orientation(self, frame: Frame) -> int:
        """The EXIF orientation to turn a photo by."""
        return frame.orientations.get(frame.image, read_header(frame.image).orientation)


@dataclass(frozen=True)
class Photos:
    """Photos of one size."""

    paths: List[Path]
    """Their files."""
    images: Float[Tensor, "views 3 height width"]
    """Colors from 0 to 1."""
    focal: Float[Tensor, "views 2"]
    """Focal lengths, in pixels."""
    centers: Float[Tensor, "views 2"]
    """Principal points, in pixels; (0, 0) is the outer corner of the first pixel."""
    crops: List[Tuple[float, float]]
    """What was cut off of the width and of the height of each, as a share."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def size(self) -> ImageSize:
        """Of all of them."""
        return ImageSize(self.images.shape[3], self.images.shape[2])

    @property
    def names(self) -> List[str]:
        """What they are called on the screen."""
        return [path.name for path in self.paths]

    def some(self, indices: Sequence[int]) -> Photos:
        """Those with these indices, in this order."""
        chosen = list(indices)
        return Photos(
            [self.paths[index] for index in chosen],
            self.images[chosen],
            self.focal[chosen],
            self.centers[chosen],
            [self.crops[index] for index in chosen],
        )

    @property
    def intrinsics(self) -> Float[Tensor, "views 3 3"]:
        """Camera matrices as the network wants them: row 0 in widths of the image, row 1 in heights."""
        matrices = torch.eye(3, device=self.focal.device).repeat(len(self), 1, 1)
        sides = self.focal.new_tensor(self.size)
        matrices[:, [0, 1], [0, 1]], matrices[:, :2, 2] = self.focal / sides, self.centers / sides
        return matrices

    def view(self, index: int, world_to_camera: Float[Tensor, "3 4"]) -> PinholeView:
        """One of them, from somewhere."""
        return PinholeView(world_to_camera, self.focal[index], self.centers[index], *self.size)

    def changes(self) -> str:
        """What was done to them, in words."""
        cut = [
            f"{name} loses {100 * share:.0f} % of its {side}"
            for name, shares in zip(self.names, self.crops, strict=True)
            for share, side in zip(shares, ("width", "height"), strict=True)
            if share > MENTIONED_LOSS
        ]
        return f"Photos are brought to {self.size} pixels{': ' if cut else ''}{', '.join(cut)}."

    def same(self) -> List[Tuple[int, int]]:
        """Pairs of photos that are equal to the last pixel."""
        count = len(self)
        pairs = [(first, second) for first in range(count) for second in range(first + 1, count)]
        return [pair for pair in pairs if torch.equal(self.images[pair[0]], self.images[pair[1]])]


def find_photos(paths: Sequence[Path], fov_deg: Optional[float] = None) -> PhotoFiles:
    """Find photos and their lenses, without decoding them.

    Lenses are from --fov-deg, else a transforms.json that lists the photos, else EXIF data, else assumed, as elsewhere
    in this package.

    Args:
        paths: files, or one folder.
        fov_deg: field of view along a photo's longer side, in degrees, as the user says; None for nothing said.

    Raises:
        InputError: there are too few or too many photos, one cannot be read or is too small, or its lens cannot be
            used or is that of an image of another shape.
    """
    paths, masks = split_off_masks(paths)
    frames = _frames(paths)
    if not 2 <= len(frames) <= MOST_PHOTOS:
        counted = "only one photo" if len(frames) == 1 else f"{len(frames)} photos"
        raise InputError(
            f"There {'is' if len(frames) == 1 else 'are'} {counted} ({paths[0]}{' …' if len(paths) > 1 else ''}); give "
            f"2 to {MOST_PHOTOS} of the same scene."
        )
    UnposedDataParserConfig(data=paths[0], fov_deg=fov_deg).setup()  # checks the field of view
    for path, count in Counter(frame.image.resolve() for frame in frames).items():
        if count > 1:
            raise InputError(f"The photo {path} is given {count} times; give photos from different places.")
    for frame in frames:
        size = read_header(frame.image).size
        if min(size) < MIN_IMAGE_SIDE:
            raise InputError(
                f"The photo {frame.image} has {size} pixels, but at least {MIN_IMAGE_SIDE} on a side are needed; "
                "give a larger one."
            )
    lenses = lenses_of_frames(frames, fov_deg, DEFAULT_FOV_DEG)
    if lenses.intrinsics[0].camera_type == CameraType.EQUIRECTANGULAR:
        raise InputError(f"{frames[0].source} says that {frames[0].image.name} is a panorama; give photos of a lens.")
    lenses.remark_doubts(frames[0].image.parent)
    if masks or any(frame.mask is not None for frame in frames):
        remark("Masks have no part in a splat: the network sees whole photos. Trainings that go on from it use them.")
    files = PhotoFiles(frames, lenses.intrinsics, lenses.origin, lenses.source == "transforms.json")
    for frame, lens, size in zip(frames, files.lenses, files.sizes, strict=True):
        if abs(size.width / size.height / (lens.size.width / lens.size.height) - 1) > WRONG_ASPECT_TOLERANCE:
            raise InputError(
                f"The photo {frame.image} has {size} pixels, but {frame.source} gives it intrinsics for {lens.size}; "
                "correct the width and height there, or replace the photo."
            )
    return files


def _frames(paths: Sequence[Path]) -> List[Frame]:
    """In the order given; those of a folder by file name."""
    for path in paths:
        if not path.exists():
            raise InputError(f"There is no {path}; give photos, or a folder that holds them.")
    if len(paths) == 1 and not is_image(paths[0]):
        return read_all_frames(paths[0])
    listed: Dict[Path, Frame] = {}
    for listing in {path.parent / "transforms.json" for path in paths}:
        if listing.is_file():
            load_transforms_json(listing)
            listed.update({frame.image.resolve(): frame for frame in read_transforms_json(listing).frames})
    for path in paths:
        if not is_image(path):
            raise InputError(f"{path} is no image of a known kind; give photos (files), or one folder of them.")
    return [listed.get(path.resolve(), Frame(path)) for path in paths]


def common_size(sizes: Sequence[ImageSize], image_side: int) -> ImageSize:
    """A size that suits photos and network.

    Its sides are multiples of the network's patches, its area is about that of what the network was trained on, and
    its shape that of the photos; where those differ, one in between.

    Args:
        sizes: of the photos.
        image_side: of the square images that the network was trained on, in pixels.
    """
    aspect = np.exp(np.mean([np.log(size.width / size.height) for size in sizes]))
    longest = int(4 * image_side // SIDE_UNIT)
    candidates = [
        ImageSize(SIDE_UNIT * columns, SIDE_UNIT * rows)
        for columns in range(1, longest + 1)
        for rows in range(1, longest + 1)
    ]

    def misfit(size: ImageSize) -> float:
        shape, area = size.width / size.height / aspect, size.width * size.height / image_side**2
        # What is cropped is lost, while the network takes other areas.
        return 2.0 * abs(np.log(shape)) + abs(np.log(area))

    return min(candidates, key=misfit)


def read_photos(files: PhotoFiles, image_side: int, device: torch.device) -> Photos:
    """Read photos, crop them to one shape around their middles, and straighten what their lenses distort.

    Args:
        files: found before.
        image_side: of the square images that the network was trained on, in pixels.
        device: where they are wanted.

    Raises:
        InputError: one cannot be decoded.
    """
    size = common_size(files.sizes, image_side)
    images, focal, centers, crops = [], [], [], []
    for frame, lens, file_size in zip(files.frames, files.lenses, files.sizes, strict=True):
        cropped = _cropped(lens.at_size(file_size), size)
        window = centered_window(file_size, size.width / size.height)
        crops.append((1.0 - window[0] / file_size.width, 1.0 - window[1] / file_size.height))
        focal.append(cropped.focal)
        centers.append(cropped.center)
        images.append(_image(frame, files.orientation(frame), cropped))
    return Photos(
        [frame.image for frame in files.frames],
        torch.stack(images).to(device),
        torch.tensor(focal).to(device),
        torch.tensor(centers).to(device),
        crops,
    )


def _cropped(lens: Intrinsics, size: ImageSize) -> Intrinsics:
    """That of the largest window in the middle of a photo, of the shape of `size`, brought to that size."""
    window = centered_window(lens.size, size.width / size.height)
    center = tuple(at - (side - kept) / 2 for at, side, kept in zip(lens.center, lens.size, window, strict=True))
    scales = tuple(new / old for new, old in zip(size, window, strict=True))
    return Intrinsics(
        size,
        (lens.focal[0] * scales[0], lens.focal[1] * scales[1]),
        (center[0] * scales[0], center[1] * scales[1]),
        lens.distortion,
        lens.camera_type,
    )


def _image(frame: Frame, orientation: int, lens: Intrinsics) -> Float[Tensor, "3 height width"]:
    """A photo as a pinhole camera with the lens's focal lengths would have taken it. What is transparent is black."""
    width, height = lens.size
    is_straight = lens.camera_type == CameraType.PERSPECTIVE and not any(lens.distortion)
    factor = 1 if is_straight else OVERSAMPLING
    read = ImageSize(factor * width, factor * height)
    pixels = read_image(frame.image, size=read, aspect=width / height, orientation=orientation)
    image = premultiply(torch.from_numpy(pixels))[..., :3].permute(2, 0, 1)
    if is_straight:
        return image
    rows, columns = torch.meshgrid(torch.arange(read.height), torch.arange(read.width), indexing="ij")
    focal, center = torch.tensor(lens.focal), torch.tensor(lens.center)
    points = ((torch.stack([columns, rows], dim=-1) + 0.5) / factor - center) / focal
    wanted = distorted(points, lens) * focal + center
    coords = 2.0 * wanted / torch.tensor([width, height]) - 1.0
    straight = F.grid_sample(image[None], coords[None], padding_mode="border", align_corners=False)
    return area_resize(straight, height, width)[0]


def distorted(points: Float[Tensor, "height width 2"], lens: Intrinsics) -> Float[Tensor, "height width 2"]:
    """Where a lens shows what a pinhole camera shows at given points; both in focal lengths from the axis.

    Args:
        points: on the plane at distance 1.
        lens: perspective or fisheye.
    """
    if lens.camera_type == CameraType.FISHEYE:
        slopes = torch.linalg.vector_norm(points, dim=-1, keepdim=True).clamp_min(1e-9)
        points = points * torch.atan(slopes) / slopes
    x, y = points.unbind(dim=-1)
    nowhere = torch.zeros_like(x)
    # By how much distortion misses the axis.
    there_x, there_y, *_ = _compute_residual_and_jacobian(x, y, nowhere, nowhere, torch.tensor(lens.distortion))
    return torch.stack([there_x, there_y], dim=-1)
