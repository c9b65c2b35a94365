"""A scene that is known in closed form, for everything that works on a trained field."""

import itertools
import math
from typing import Any, Dict, List, Literal, Sequence, Tuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_samplers import UniformSampler
from torch import Tensor, nn
from torch.nn import Parameter, functional

from gnerf_ns.cameras.pose_prior import PosePriorConfig, object_filling_radius
from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses
from gnerf_ns.data.dataparser import unit_scene_box
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.fields.radiance import RadianceAlongRays
from gnerf_ns.matching.local_matches import PairMatches
from gnerf_ns.models.gnerf import GNeRFModel, GNeRFModelConfig

FOV_DEG = 40.0
RADIUS = object_filling_radius(math.radians(FOV_DEG))
TINY_RADIANCE: Dict[str, Any] = {
    "num_levels": 3,
    "phase_a_levels": 2,
    "max_resolution": 16,
    "log2_hashmap_size": 10,
    "hidden_dim": 8,
    "hidden_dim_color": 8,
    "num_uniform_samples": 8,
    "num_proposal_samples": 8,
    "num_nerf_samples": 6,
    "implementation": "torch",
}


class Blobs(nn.Module):
    """Three soft, colored, patterned balls of different size, which look different from everywhere."""

    def __init__(self, num_samples: int = 32) -> None:
        super().__init__()
        self.sampler = UniformSampler(num_samples=num_samples)
        self.scale = Parameter(torch.tensor(1.0))
        self.centers = torch.tensor([[0.45, 0.0, 0.1], [-0.3, 0.4, -0.2], [-0.1, -0.4, 0.45]])
        self.radii = torch.tensor([0.3, 0.25, 0.2])
        self.colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.1, 0.2, 0.9]])

    def _balls(self, positions: Tensor) -> Tensor:
        distance = (positions[..., None, :] - self.centers).norm(dim=-1)
        return torch.sigmoid((self.radii - distance) / 0.03)

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        return 20.0 * self.scale * self._balls(positions).sum(-1, keepdim=True)

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        return {"fields": list(self.parameters())}

    def set_schedule(self, phase_a: bool, phase_b_progress: float, active_levels: float, density_noise: float) -> None:
        pass

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        samples = self.sampler(ray_bundle)
        positions = samples.frustums.get_positions()
        balls = self._balls(positions) + 1e-6
        plain = (balls @ self.colors) / balls.sum(-1, keepdim=True)
        rgb = plain * (0.6 + 0.4 * torch.sin(9.0 * positions))
        return RadianceAlongRays(samples, rgb, samples.get_weights(self.density(positions)))


class ConstantFog(Blobs):
    """Density 0.8 and one color everywhere."""

    DENSITY = 0.8
    COLOR = (0.2, 0.5, 0.7)

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        return self.DENSITY * self.scale + 0.0 * positions[..., :1]

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        samples = self.sampler(ray_bundle)
        density = self.density(samples.frustums.get_positions())
        rgb = torch.tensor(self.COLOR).expand(*density.shape[:-1], 3)
        return RadianceAlongRays(samples, rgb, samples.get_weights(density))


class Nothing(Blobs):
    """Empty space."""

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        return 0.0 * super().density(positions)


def model_of(radiance: nn.Module | None = None, **options: Any) -> GNeRFModel:
    """A model of a given radiance, or of a tiny hash grid."""
    config = GNeRFModelConfig(radiance=HashRadianceConfig(**TINY_RADIANCE), **options)
    model = config.setup(scene_box=unit_scene_box(), num_train_data=4)
    if radiance is not None:
        model.radiance = radiance
    return model


def cameras(count: int, width: int = 32, height: int = 32) -> Cameras:
    """Cameras whose smaller field of view is `FOV_DEG`; their poses mean nothing."""
    focal = 0.5 * min(width, height) / math.tan(math.radians(FOV_DEG) / 2)
    return Cameras(torch.eye(4)[None, :3].repeat(count, 1, 1), focal, focal, width / 2, height / 2, width, height)


def random_poses(count: int, seed: int = 0, elevation_deg=(-60.0, 60.0)) -> Float[Tensor, "count 3 4"]:
    """Look-at poses away from the poles."""
    prior = PosePriorConfig(elevation_deg=elevation_deg).resolve()
    return prior.sample(count, RADIUS, "cpu", torch.Generator().manual_seed(seed))


@torch.no_grad()
def image_set_of(model: GNeRFModel, poses: Float[Tensor, "n 3 4"], width: int = 32, height: int = 32) -> ImageSet:
    """What cameras at given poses see, as RGBA bytes like images from files."""
    directions = CameraDirections(cameras(len(poses), width, height))
    indices = torch.arange(len(poses))
    through = directions.at(indices, image_coords(height, width).reshape(1, -1, 2).expand(len(poses), -1, -1))
    model.eval()
    outputs = model.render(rays_from_poses(poses, through, indices))
    model.train()
    alpha = outputs["accumulation"].clamp(0, 1)
    color = ((outputs["rgb"] - (1 - alpha)) / alpha.clamp_min(1e-3)).clamp(0, 1)  # from over white
    pixels = torch.cat([color, alpha], dim=-1).view(len(poses), height, width, 4)
    return ImageSet(ImageStack((255 * pixels).round().byte()), directions)


def padded_squares(
    pixels: UInt8[Tensor, "n side side channels"],
    sizes: Sequence[Tuple[int, int]],
    content: Literal["black", "noise"],
) -> ImageStack:
    """Square images of which only the middle, of some height and width each, is kept; the rest becomes padding."""
    side = pixels.shape[1]
    generator = torch.Generator().manual_seed(7)
    padded = torch.randint(0, 256, pixels.shape, generator=generator, dtype=torch.uint8)
    padded = padded if content == "noise" else torch.zeros_like(padded)
    for index, (height, width) in enumerate(sizes):
        top, left = (side - height) // 2, (side - width) // 2
        inside = (index, slice(top, top + height), slice(left, left + width))
        padded[inside] = pixels[inside]
    extents = torch.tensor([[width / side, height / side] for height, width in sizes])
    return ImageStack(padded, extents)


def directions_to(
    camera_to_worlds: Float[Tensor, "*batch 3 4"], points: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """Unit directions to points, in each camera's own axes."""
    offsets = points - camera_to_worlds[..., 3]
    return functional.normalize((camera_to_worlds[..., :3].mT @ offsets[..., None])[..., 0], dim=-1)


def matches_between(camera_to_worlds: Float[Tensor, "n 3 4"], points: Float[Tensor, "points 3"]) -> PairMatches:
    """Where square images of `cameras` at given poses see points, for all pairs of images."""
    local = torch.stack([directions_to(pose.expand(len(points), 3, 4), points) for pose in camera_to_worlds])
    focal = 0.5 / math.tan(math.radians(FOV_DEG) / 2)
    at = 0.5 + focal * torch.stack([local[..., 0], -local[..., 1]], dim=-1) / -local[..., 2:]
    pairs = list(itertools.combinations(range(len(camera_to_worlds)), 2))
    matched = torch.cat([torch.cat([at[i], at[j]], dim=-1) for i, j in pairs])
    return PairMatches(np.array(pairs), len(points) * np.arange(1, len(pairs) + 1), matched.float().numpy())
