"""NoPoSplat's network as a nerfstudio model: images of an example's Gaussians, and their losses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from gnerf_ns.models.image_metrics import ImageMetrics
from gnerf_ns.models.splat import pinhole_outputs
from gnerf_ns.noposplat.beginning import begin_before_the_camera, point_loss
from gnerf_ns.noposplat.checkpoints import load_network, read_mast3r, read_noposplat, start_from_mast3r
from gnerf_ns.noposplat.matching_loss import MATCHING_WEIGHT, matching_loss, watched_attention
from gnerf_ns.noposplat.network import NoPoSplatNetworkConfig
from gnerf_ns.noposplat.perceptual_loss import PerceptualLoss
from gnerf_ns.noposplat.view_cameras import UPRIGHT, rendered
from gnerf_ns.scenes.view_sampling import Example
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.options import ModelOptions

POINT_WEIGHT = 0.1
"""Of what is told of points beside images: with 1, images are learned more slowly."""

NEW_LAYERS = ("gaussian_param_head", "backbone.intrinsic_encoder")
"""Beginnings of the names of layers that MASt3R does not have: they learn ten times as fast."""


@dataclass
class NoPoSplatModelConfig(ModelOptions):
    """Configuration of `NoPoSplatModel`."""

    _target: Type = field(default_factory=lambda: NoPoSplatModel)
    """Target class to instantiate."""
    network: NoPoSplatNetworkConfig = field(default_factory=NoPoSplatNetworkConfig)
    """Sizes of the network. Its image side is that of the data."""
    perceptual_loss_mult: float = 0.05
    """Weight of LPIPS, or of 1 - SSIM, beside the mean squared error."""
    mast3r: Optional[Path] = None
    """Checkpoint of MASt3R's to begin from, as official training does."""
    checkpoint: Optional[Path] = None
    """Checkpoint of NoPoSplat's, official or written by such a training, to begin from."""

    def check_beginning(self) -> None:
        """Whether training can begin from the file that is named, as far as that is known without a network.

        Raises:
            InputError: two are named, or one that is not there, not whole, or of something else.
        """
        if self.checkpoint is not None and self.mast3r is not None:
            raise InputError(
                "--pipeline.model.checkpoint and --pipeline.model.mast3r both say what to begin from; give one."
            )
        if self.checkpoint is not None:
            read_noposplat(self.checkpoint)
        if self.mast3r is not None:
            read_mast3r(self.mast3r)


class NoPoSplatModel(Model):
    """The network, what it is trained by, and what the viewer sees of it.

    Attributes:
        network: the network.
        image_metrics: PSNR, SSIM (and LPIPS where its weights are at hand).
    """

    config: NoPoSplatModelConfig
    _shown: Optional[Example] = None
    _shown_gaussians: Optional[Gaussians] = None

    def populate_modules(self) -> None:
        """A network with random weights, for `begin` or a checkpoint of nerfstudio's to replace."""
        super().populate_modules()
        self.network = self.config.network.setup()
        self.image_metrics = ImageMetrics()
        self._perceptual_loss: Optional[PerceptualLoss] = None

    def begin(self) -> None:
        """Take the weights that the configuration names; where it names none, bring the Gaussians into view.

        Raises:
            InputError: it names two files, or one that cannot be used.
        """
        self.config.check_beginning()
        checkpoint, mast3r = self.config.checkpoint, self.config.mast3r
        if checkpoint is not None:
            given = load_network(checkpoint, self.config.network)
            # Not by shapes: the number of heads, say, is in none of them.
            if replace(given.config, image_side=self.config.network.image_side) != self.config.network:
                raise InputError(
                    f"The network in {checkpoint} has other sizes, or is of another kind, than that of this method; "
                    "choose another method, or set --pipeline.model.network.* to what it was trained with."
                )
            self.network.load_state_dict(given.state_dict())
        elif mast3r is not None:
            start_from_mast3r(self.network, mast3r)
        else:
            begin_before_the_camera(self.network)

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """`pretrained`: what MASt3R has weights for; `new_layers`: the rest."""
        groups: Dict[str, List[Parameter]] = {"pretrained": [], "new_layers": []}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                groups["new_layers" if name.startswith(NEW_LAYERS) else "pretrained"].append(parameter)
        return groups

    def get_outputs(self, ray_bundle: Any) -> Dict[str, Any]:
        """What the loss is computed from, and nothing else: other processes wait for gradients of all that is put out.

        Args:
            ray_bundle: an `Example`, with a dimension of a batch; nerfstudio gives rays here.

        Returns:
            images [batch, targets, 3, height, width] where the example has targets. Where it has points: means [batch,
            gaussians, 3], and attention, one [batch, views, tokens, others] for each block that is told where to look.
        """
        example: Example = ray_bundle
        self._shown_gaussians = None  # the network is about to change
        context, outputs = example.context, {}
        with watched_attention(self.network.backbone) as calls:
            if example.target.images.shape[1] == 0:
                means = self.network.means(context.images, context.intrinsics)
            else:
                gaussians = self.network(context.images, context.intrinsics)
                means, outputs["images"] = gaussians.means, rendered(gaussians, example.target)
            if example.points is not None:
                outputs.update(means=means, attention=calls.log_shares(len(context.images)))
        return outputs

    def get_metrics_dict(self, outputs: Dict[str, Any], batch: Dict[str, Any]) -> Dict[str, Tensor]:
        """PSNR of the targets, in dB, where there are images."""
        if "images" not in outputs:
            return {}
        errors = (outputs["images"].detach().clamp(0.0, 1.0) - batch["example"].target.images).square()
        return {"psnr": (-10.0 * errors.mean(dim=(-3, -2, -1)).log10()).mean()}

    def get_loss_dict(
        self, outputs: Dict[str, Any], batch: Dict[str, Any], metrics_dict: Optional[Dict[str, Tensor]] = None
    ) -> Dict[str, Tensor]:
        """Mean squared error and perceptual loss (NoPoSplat, section 3.3) of images; errors of points, where they are
        known, and of where attention looks for them."""
        example: Example = batch["example"]
        losses: Dict[str, Tensor] = {}
        if example.points is not None:
            context, side = example.context, self.network.config.patch_side
            told = matching_loss(outputs["attention"], context, example.points, side)
            weight = POINT_WEIGHT if "images" in outputs else 1.0
            losses["point_loss"] = weight * point_loss(outputs["means"], example.points)
            losses["matching_loss"] = weight * MATCHING_WEIGHT * told
        if "images" in outputs:
            images, truth = outputs["images"].flatten(0, 1), example.target.images.flatten(0, 1)
            losses["rgb_loss"] = F.mse_loss(images, truth)
            if self.config.perceptual_loss_mult > 0.0:
                if self._perceptual_loss is None:
                    self._perceptual_loss = PerceptualLoss()
                losses["perceptual_loss"] = self.config.perceptual_loss_mult * self._perceptual_loss(images, truth)
        return losses

    # What is looked at

    def show(self, example: Example) -> None:
        """From now on, cameras see what the network makes of this example, at any time of the training.

        Args:
            example: one, with a dimension of a batch.
        """
        self._shown, self._shown_gaussians = example, None

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: Optional[OrientedBox] = None) -> Dict[str, Tensor]:
        """What a camera sees of the example that is shown.

        Args:
            camera: one pinhole, in the `UPRIGHT` world, with any batch dimensions.
            obb_box: Gaussians outside of it are left out; None for no box.

        Returns:
            rgb [height, width, 3] in [0, 1]; depth [height, width, 1] along the pixels' rays, in distances between the
            context cameras, 0 where there is nothing; accumulation [height, width, 1].
        """
        camera = camera.to(self.device).flatten()
        gaussians = self._gaussians_shown()
        if obb_box is not None:
            gaussians = gaussians[obb_box.within(gaussians.means)]
        return pinhole_outputs(gaussians, camera, torch.zeros(3, device=self.device))

    def _gaussians_shown(self) -> Gaussians:
        """Of the example that is shown, in the `UPRIGHT` world."""
        gaussians = self._shown_gaussians
        if gaussians is None:
            assert self._shown is not None
            context = self._shown.to(self.device).context
            gaussians = self.network(context.images, context.intrinsics)[0].moved(UPRIGHT)
            self._shown_gaussians = gaussians
        return gaussians

    def get_image_metrics_and_images(
        self, outputs: Dict[str, Tensor], batch: Dict[str, Any]
    ) -> Tuple[Dict[str, float], Dict[str, Tensor]]:
        """Metrics of one image, and truth beside rendering.

        Args:
            outputs: rgb [height, width, 3].
            batch: image [height, width, 3].
        """
        shown: Float[Tensor, "height width 3"] = outputs["rgb"]
        truth = batch["image"].to(shown)
        return self.image_metrics(shown, truth), {"img": torch.cat([truth, shown], dim=1)}
