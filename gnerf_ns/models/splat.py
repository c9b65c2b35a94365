"""Fixed 3D Gaussians as a nerfstudio model: whole images by the tile renderer, single rays with gradients in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Type

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components import renderers
from nerfstudio.models.base_model import Model
from nerfstudio.utils import colormaps
from torch import Tensor
from torch.nn import Parameter

from gnerf_ns.models.image_metrics import ImageMetrics
from gnerf_ns.splats.axes import world_to_cameras
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.ray_rendering import render_rays
from gnerf_ns.splats.rendering import PinholeView, render
from gnerf_ns.utils.options import ModelOptions


@dataclass
class SplatModelConfig(ModelOptions):
    """Configuration of `SplatModel`: the sizes of what a checkpoint holds."""

    _target: Type = field(default_factory=lambda: SplatModel)
    """Target class to instantiate."""
    num_gaussians: int = 0
    """How many there are."""
    num_harmonics: int = 16
    """Spherical harmonics of each color of each, (degree + 1)**2."""


class SplatModel(Model):
    """Gaussians that stay as they are. Behind them it is black, as it was where networks learned to make them."""

    config: SplatModelConfig
    means: Tensor
    scales: Tensor
    quaternions: Tensor
    opacities: Tensor
    harmonics: Tensor

    def populate_modules(self) -> None:
        """Room for the Gaussians, and metrics."""
        super().populate_modules()
        count = self.config.num_gaussians
        shapes = {"means": (3,), "scales": (3,), "quaternions": (4,), "opacities": ()}
        for name, shape in {**shapes, "harmonics": (3, self.config.num_harmonics)}.items():
            self.register_buffer(name, torch.zeros(count, *shape))
        self.image_metrics = ImageMetrics()

    @property
    def gaussians(self) -> Gaussians:
        """All of them."""
        return Gaussians(self.means, self.scales, self.quaternions, self.opacities, self.harmonics)

    def hold(self, gaussians: Gaussians) -> None:
        """Take Gaussians, as many as the configuration says."""
        for name, value in vars(gaussians).items():
            getattr(self, name).copy_(value)

    @property
    def _background(self) -> Float[Tensor, "3"]:
        override = renderers.BACKGROUND_COLOR_OVERRIDE  # the viewer's, for a crop
        return torch.zeros(3, device=self.device) if override is None else override.to(self.device)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: Optional[OrientedBox] = None) -> Dict[str, Tensor]:
        """Image of one camera: by tiles if it is a pinhole, else ray by ray.

        Args:
            camera: one, with any batch dimensions.
            obb_box: Gaussians outside of it are left out; None for no box.

        Returns:
            rgb [height, width, 3] in [0, 1]; depth [height, width, 1] along the pixels' rays, in scene units, 0 where
            there is nothing; accumulation [height, width, 1].
        """
        camera = camera.to(self.device).flatten()
        distortion = camera.distortion_params
        is_distorted = distortion is not None and bool(distortion.any())
        if CameraType(int(camera.camera_type[0])) != CameraType.PERSPECTIVE or is_distorted:
            return super().get_outputs_for_camera(camera, obb_box)
        gaussians = self.gaussians if obb_box is None else self.gaussians[obb_box.within(self.means)]
        return pinhole_outputs(gaussians, camera, self._background)

    def get_outputs(self, ray_bundle: Any) -> Dict[str, Tensor]:
        """Colors of single rays, in any shape, with gradients in origins and directions; see `render_rays`."""
        bundle: RayBundle = ray_bundle
        shape = bundle.origins.shape[:-1]
        seen = render_rays(
            self.gaussians,
            bundle.origins.reshape(-1, 3),
            bundle.directions.reshape(-1, 3),
            bundle.pixel_area.reshape(-1),
            self._background,
        )
        return {name: value.reshape(*shape, -1) for name, value in _outputs(*seen).items()}

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """None: nothing is trained."""
        return {}

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> Dict[str, Tensor]:
        """None, likewise."""
        return {}

    def get_rgba_image(self, outputs: Dict[str, Tensor], output_name: str = "rgb") -> Float[Tensor, "*pixels 4"]:
        """Straight color and opacity, so that exported points are those of the scene alone."""
        rgb, accumulation = outputs[output_name], outputs["accumulation"]
        return torch.cat([(rgb / accumulation.clamp_min(1e-6)).clamp_max(1.0), accumulation], dim=-1)

    def get_image_metrics_and_images(
        self, outputs: Dict[str, Tensor], batch: Dict[str, Any]
    ) -> Tuple[Dict[str, float], Dict[str, Tensor]]:
        """PSNR, SSIM (and LPIPS where its weights are at hand) of one image, and images to look at."""
        rendered = outputs["rgb"]
        truth = batch["image"][..., :3].to(rendered)
        images = {
            "img": torch.cat([truth, rendered, (truth - rendered).abs()], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
        }
        return self.image_metrics(rendered, truth), images


def pinhole_outputs(gaussians: Gaussians, camera: Cameras, background: Float[Tensor, "3"]) -> Dict[str, Tensor]:
    """What a camera without distortion sees.

    Args:
        gaussians: without a batch.
        camera: one, with one batch dimension, in the Gaussians' world.
        background: what is behind all of them.

    Returns:
        rgb [height, width, 3] in [0, 1]; depth [height, width, 1] along the pixels' rays, in scene units, 0 where there
        is nothing; accumulation [height, width, 1].
    """
    focal, center = torch.cat([camera.fx[0], camera.fy[0]]), torch.cat([camera.cx[0], camera.cy[0]])
    width, height = int(camera.width[0]), int(camera.height[0])
    view = PinholeView(world_to_cameras(camera.camera_to_worlds[0]), focal, center, width, height)
    seen = render(gaussians, view, background)
    middles = (torch.arange(side, device=focal.device) + 0.5 for side in (width, height))
    x, y = ((at - start) / length for at, start, length in zip(middles, center, focal, strict=True))
    stretch = (1.0 + x[None, :] ** 2 + y[:, None] ** 2).sqrt()
    return _outputs(seen.image, stretch * seen.depth, seen.accumulation)


def _outputs(
    colors: Float[Tensor, "*pixels 3"], depth: Float[Tensor, "*pixels"], accumulation: Float[Tensor, "*pixels"]
) -> Dict[str, Tensor]:
    """As nerfstudio wants them; depths come as weighted sums."""
    return {
        "rgb": colors.clamp(0.0, 1.0),
        "depth": (depth / accumulation.clamp_min(1e-6))[..., None],
        "accumulation": accumulation[..., None],
    }
