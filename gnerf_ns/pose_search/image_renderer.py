"""A trained model of any nerfstudio method, as colors along rays."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Optional

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.models.base_model import Model
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.fair_lock import give_way

RAYS_PER_CHUNK = 8192
"""Rays of whole images rendered at a time; bounds memory."""

RGB_OUTPUTS = ("rgb", "rgb_fine")
"""What nerfstudio's models call the colors that they are trained to show."""


class ImageRenderer:
    """Differentiable colors along rays.

    Attributes:
        model: in evaluation mode wherever it is used here, and left as it was.
    """

    def __init__(self, model: Model, painted: Optional[Float[Tensor, "3"]] = None) -> None:
        """
        Args:
            model: of any method that renders single rays.
            painted: what training images were laid over before the model saw them; None for nothing.
        """
        self.model = model
        self._painted = painted

    @property
    def device(self) -> torch.device:
        """Where rays have to be."""
        return torch.device(self.model.device)

    @property
    def background(self) -> Optional[Float[Tensor, "3"]]:
        """What renderings show where there is nothing; None where that is the field's own affair."""
        if isinstance(self.model, GNeRFModel):
            return None if self.model.config.background_color == "last_sample" else self.model.evaluation_background
        if self._painted is not None:
            return self._painted.to(self.device)
        color = getattr(getattr(self.model, "renderer_rgb", None), "background_color", "last_sample")
        if isinstance(color, Tensor):
            return color.to(self.device)
        if color in ("white", "black", "random"):  # outside training, nothing is added to random
            return torch.full((3,), float(color == "white"), device=self.device)
        return None

    @property
    def background_or_black(self) -> Float[Tensor, "3"]:
        """What images are laid over to be looked at as a whole."""
        return torch.zeros(3, device=self.device) if self.background is None else self.background

    def colors(self, ray_bundle: RayBundle) -> Float[Tensor, "rays 3"]:
        """Colors in [0, 1] of a flat bundle of rays with unit directions."""
        # Ours would compute normals as well.
        outputs = self.model.render(ray_bundle) if isinstance(self.model, GNeRFModel) else self.model(ray_bundle)
        return next(outputs[name] for name in RGB_OUTPUTS if name in outputs)

    @torch.no_grad()
    def render_images(
        self,
        camera_to_worlds: Float[Tensor, "batch 3 4"],
        cameras: CameraDirections,
        camera_indices: Int[Tensor, "batch"],
        height: int,
        width: int,
        focal_scales: Optional[Float[Tensor, "batch"]] = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Whole images.

        Args:
            camera_to_worlds: where each is taken from.
            cameras: intrinsics.
            camera_indices: which of them each image has.
            height: of the images, in pixels.
            width: likewise.
            focal_scales: factors on the focal length of each; None for 1.
        """
        coords = image_coords(height, width, self.device).view(1, -1, 2)
        per_chunk = max(1, RAYS_PER_CHUNK // (height * width))
        shown = []
        with self.frozen():
            for chunk in torch.arange(len(camera_to_worlds), device=self.device).split(per_chunk):
                indices = camera_indices[chunk]
                scales = None if focal_scales is None else focal_scales[chunk]
                directions = cameras.at(indices, coords.expand(len(chunk), -1, -1), scales)
                areas = cameras.pixel_areas(indices, directions, height, width, scales)
                rays = rays_from_poses(camera_to_worlds[chunk], directions, indices, areas)
                # A single large image is more than a chunk.
                for first in range(0, len(rays), RAYS_PER_CHUNK):
                    give_way()
                    shown.append(self.colors(rays[first : first + RAYS_PER_CHUNK]))
        return torch.cat(shown).view(len(camera_to_worlds), height, width, 3).permute(0, 3, 1, 2)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """While this lasts, the model is in evaluation mode and gathers no gradients of its own."""
        was_training = self.model.training
        self.model.eval()
        learnable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in learnable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learnable:
                parameter.requires_grad_(True)
            self.model.train(was_training)

    @contextmanager
    def _fixed_nears_and_fars(self, ray_bundle: RayBundle) -> Iterator[None]:
        """Where a ray enters a box changes with its origin even in a method that ignores how its samples move."""
        collider = getattr(self.model, "collider", None)
        if collider is not None:
            collided = collider(ray_bundle)
            assert collided.nears is not None and collided.fars is not None
            ray_bundle.nears, ray_bundle.fars = collided.nears.detach(), collided.fars.detach()
        self.model.collider = None
        try:
            yield
        finally:
            self.model.collider = collider

    def check_gradients(self, ray_bundle: RayBundle) -> None:
        """Find out whether colors tell how to move a camera.

        Args:
            ray_bundle: rays that meet something.

        Raises:
            InputError: the model renders no single rays, or its colors have no gradient in them.
        """
        name = type(self.model).__name__
        origins = ray_bundle.origins.detach().requires_grad_()
        ray_bundle = ray_bundle[...]
        ray_bundle.origins = origins
        with self.frozen(), torch.enable_grad():
            try:
                with self._fixed_nears_and_fars(ray_bundle):
                    colors = self.colors(ray_bundle)
            except (StopIteration, TypeError, AttributeError, AssertionError, RuntimeError) as error:
                raise InputError(
                    f"{name} renders no single rays on {self.device} ({type(error).__name__}: {error}), so that no "
                    "pose can be found in it; use gnerf-ns, nerfacto, vanilla-nerf or mipnerf."
                ) from error
            gradient = None
            if colors.requires_grad:
                (gradient,) = torch.autograd.grad(colors.square().sum(), origins, allow_unused=True)
        if gradient is None or not bool(gradient.abs().max() > 0):
            raise InputError(
                f"The colors of {name} do not change with the camera as far as automatic differentiation can tell, "
                "so that no pose can be refined in it; use gnerf-ns, nerfacto, vanilla-nerf or mipnerf."
            )
