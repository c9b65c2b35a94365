"""Phase A as GNeRF has it: a discriminator on dynamic patches, and an inversion network from image to pose."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Dict, List, Optional

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import Parameter

from gnerf_ns.cameras.rays import no_rays, rays_from_poses
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.data.patch_sampling import dynamic_patch_coords, sample_patches
from gnerf_ns.models.adversarial_losses import (
    AugmentationConfig,
    augment_patches,
    discriminator_loss,
    generator_loss,
    inversion_loss,
    pose_regularization,
)
from gnerf_ns.models.discriminator import DiscriminatorConfig
from gnerf_ns.models.inversion_network import InversionNetworkConfig
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.training.objective import COLUMNS, ComparedImages, RenderRequest, TrainingScene
from gnerf_ns.training.schedule import StepPlan
from gnerf_ns.utils.errors import InputError


@dataclass
class AdversarialObjectiveConfig:
    """Configuration of `AdversarialObjective`; the published values are in `gnerf-ns-paper`."""

    discriminator: tyro.conf.Suppress[DiscriminatorConfig] = field(default_factory=DiscriminatorConfig)
    """Tells real from rendered patches."""
    inversion_network: tyro.conf.Suppress[InversionNetworkConfig] = field(default_factory=InversionNetworkConfig)
    """Regresses a pose from an image."""
    augmentation: tyro.conf.Suppress[AugmentationConfig] = field(default_factory=AugmentationConfig)
    """Applied to real and rendered patches alike."""
    num_patches: int = 12
    """Patches per step, real and rendered each."""
    num_inversion_images: int = 12
    """Whole images rendered per step for the inversion network."""
    inversion_render_side: int = 24
    """Longer side of those renderings, in pixels; they are brought to the network's size."""
    num_regularized_images: int = 16
    """Images per step whose poses are drawn towards the inversion network's."""
    r1_weight: float = 10.0
    """Weight of the gradient penalty on real patches."""
    generator_loss_mult: float = 1.0
    """Weight of the field's adversarial loss."""
    inversion_loss_mult: float = 1.0
    """Weight of the inversion network's loss."""
    pose_regularization_mult: float = 0.1
    """Weight of the pull of the pose table towards the inversion network (the paper's lambda)."""


class AdversarialObjective(nn.Module):
    """GNeRF's L_A, L_E and the regularization in L_R, routed so that one backward pass serves all networks."""

    def __init__(self, config: AdversarialObjectiveConfig, scene: TrainingScene) -> None:
        super().__init__()
        if scene.image_set.images.extents is not None:
            raise InputError(
                "The images are of different shapes and were padded, which a discriminator would see; train with "
                "gnerf-ns, or crop them all to one shape."
            )
        self.config = config
        self.discriminator = config.discriminator.setup()
        self.inversion_network = config.inversion_network.setup(
            code_dim=scene.cameras.codec.dim, prior_radius_range=scene.prior.radius
        )
        self.compared: Optional[ComparedImages] = None
        self.scene = scene
        self._field = ImageRenderer(scene.model)

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters of both networks."""
        return {
            "discriminator": list(self.discriminator.parameters()),
            "inversion_network": list(self.inversion_network.parameters()),
        }

    def reset_parameters(self) -> None:
        """Draw the weights of both networks anew."""
        self.load_state_dict(AdversarialObjective(self.config, self.scene).state_dict())

    def is_active(self, plan: StepPlan) -> bool:
        """In A steps, and for the poses' regularization in the B steps of AB."""
        return plan.phase == "A" or plan.interleaved

    def request(self, plan: StepPlan) -> RenderRequest:
        """Rays of dynamic patches at poses from the prior."""
        if plan.phase == "B":
            return RenderRequest(no_rays(self.scene.model.device), lambda outputs: self._pose_regularization())
        scene, config = self.scene, self.config
        device = scene.model.device
        patch_side = config.discriminator.patch_side

        patch_poses = self._sample_poses(config.num_patches)
        patch_cameras = torch.randint(len(scene.image_set), (config.num_patches,), device=device)
        coords, scales = dynamic_patch_coords(config.num_patches, patch_side, plan.patch_scale, device=device)
        lenses = scene.image_set.directions
        directions = lenses.at(patch_cameras, coords.flatten(1, 2))
        areas = lenses.pixel_areas(patch_cameras, directions, patch_side, patch_side) * scales.square()[:, None]
        rays = rays_from_poses(patch_poses, directions, patch_cameras, areas)
        image_poses = self._sample_poses(config.num_inversion_images)
        images = self._render_for_inversion(image_poses)

        def losses(outputs: Dict[str, Any]) -> Dict[str, Tensor]:
            background = scene.model.draw_background()
            colors = scene.model.colors_over(outputs, background)
            fake = colors.view(-1, patch_side, patch_side, 3).permute(0, 3, 1, 2)
            return {
                **self._adversarial_losses(plan, fake, scales, background),
                "inversion_loss": config.inversion_loss_mult
                * inversion_loss(self.inversion_network, images, scene.cameras.codec.encode(image_poses)),
                **self._pose_regularization(),
            }

        return RenderRequest(rays, losses)

    def _sample_poses(self, count: int) -> Float[Tensor, "{count} 3 4"]:
        """Poses from the prior, in the learned frame."""
        scene = self.scene
        level = scene.prior.sample(count, scene.cameras.codec.radius, scene.model.device)
        return scene.cameras.up_direction.from_z_up(level)

    def _adversarial_losses(
        self,
        plan: StepPlan,
        fake: Float[Tensor, "batch 3 side side"],
        fake_scales: Float[Tensor, "batch"],
        background: Float[Tensor, "3"],
    ) -> Dict[str, Tensor]:
        scene, config = self.scene, self.config
        chosen = torch.randint(len(scene.image_set), (config.num_patches,), device=fake.device)
        images = scene.image_set.resized(*scene.image_set.size_at(plan.image_side), background, chosen)
        coords, scales = dynamic_patch_coords(
            config.num_patches, config.discriminator.patch_side, plan.patch_scale, device=fake.device
        )
        real = sample_patches(images, coords)
        self.compared = ComparedImages(
            "patches of images above patches of renderings", real[:COLUMNS], fake.detach()[:COLUMNS]
        )
        augment = partial(augment_patches, config=config.augmentation)
        losses = discriminator_loss(self.discriminator, real, scales, fake, fake_scales, augment, config.r1_weight)
        return {
            "generator_loss": config.generator_loss_mult
            * generator_loss(self.discriminator, fake, fake_scales, augment),
            "discriminator_loss": losses.classification,
            "gradient_penalty": losses.gradient_penalty,
        }

    def _pose_regularization(self) -> Dict[str, Tensor]:
        scene, config = self.scene, self.config
        device = scene.model.device
        chosen = torch.randperm(len(scene.image_set), device=device)[: config.num_regularized_images]
        loss = pose_regularization(
            self.inversion_network,
            self._images_for_inversion(scene.image_set, chosen),
            scene.cameras.codes[chosen],
        )
        return {"pose_regularization": config.pose_regularization_mult * loss}

    @torch.no_grad()
    def regress_poses(self, image_set: ImageSet) -> Float[Tensor, "n 3 4"]:
        """camera_to_worlds of images by one pass of the inversion network."""
        device = self.scene.model.device
        codes = [
            self.inversion_network(self._images_for_inversion(image_set, chosen))
            for chosen in torch.arange(len(image_set), device=device).split(64)
        ]
        return self.scene.cameras.codec.decode(torch.cat(codes))

    def _render_for_inversion(self, camera_to_worlds: Float[Tensor, "batch 3 4"]) -> Float[Tensor, "batch 3 side side"]:
        """Whole images at some poses, with cameras drawn from the images'.

        No gradient is kept: the field does not learn from them, and they are many more rays than the patches.
        """
        image_set = self.scene.image_set
        cameras = torch.randint(len(image_set), (len(camera_to_worlds),), device=camera_to_worlds.device)
        size = image_set.size_at(self.config.inversion_render_side)
        return self._for_inversion(self._field.render_images(camera_to_worlds, image_set.directions, cameras, *size))

    def _images_for_inversion(self, image_set: ImageSet, chosen: Tensor) -> Float[Tensor, "batch 3 side side"]:
        # Through the same small size as the renderings, so that both are equally blurred, and over the same color.
        size = image_set.size_at(self.config.inversion_render_side)
        return self._for_inversion(image_set.resized(*size, self.scene.model.evaluation_background, chosen))

    def _for_inversion(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 side side"]:
        side = self.config.inversion_network.image_side
        return nn.functional.interpolate(images, (side, side), mode="bilinear", align_corners=False)
