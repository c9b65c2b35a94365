"""A field that begins anew beside that of a run.

With its coarse levels alone it shows within seconds what many images agree on, where a field that has been trained for
long shows every image from wherever it is believed to have been taken, and holds it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional

import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseTable
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.models.gnerf import GNeRFModel, distortion_of
from gnerf_ns.pose_search.pixel_sampling import sample_pixel_rays
from gnerf_ns.pose_search.pose_search import PoseSearch
from gnerf_ns.utils.fair_lock import give_way

GRADIENT_SCALE = 1024.0
"""Adam does not mind how large gradients are; tiny-cuda-nn's have half precision, in which small ones vanish."""


@dataclass
class FreshFieldConfig:
    """Configuration of `FreshField`."""

    rays_per_step: tyro.conf.Suppress[int] = 1024
    """Random pixels of a step."""
    learning_rate: tyro.conf.Suppress[float] = 1e-2
    """Adam's learning rate on the field."""


class FreshField:
    """A field of the same kind as that of a run, with coarse levels alone.

    Attributes:
        search: looks poses up in it.
    """

    def __init__(
        self, config: FreshFieldConfig, model: GNeRFModel, image_set: ImageSet, pose_search: PoseSearch
    ) -> None:
        """
        Args:
            config: how it learns.
            model: provides the architecture; not modified.
            image_set: what it learns from.
            pose_search: how poses are looked up in `model`.
        """
        self.config = config
        self._image_set = image_set
        self._model = model.new_like()
        # As in phase A, with uniform samples: a proposal network would have learned nothing yet.
        self._model.set_schedule(phase_a=True, phase_b_progress=0.0, active_levels=0.0, density_noise=0.0)
        self.search = pose_search.of(self._model)

    def begin_anew(self) -> None:
        """Forget everything."""
        self._model.reset_parameters()

    def weights(self) -> Dict[str, Tensor]:
        """What it is, to go on from in the run."""
        return {name: value.clone() for name, value in self._model.state_dict().items()}

    def learn(
        self,
        camera_to_worlds: Float[Tensor, "n 3 4"],
        steps: int,
        image_side: int,
        pose_learning_rate: float,
        chosen: Optional[Int[Tensor, "chosen"]] = None,
    ) -> Float[Tensor, "n 3 4"]:
        """Train the field, and with it the poses.

        Args:
            camera_to_worlds: where the poses begin.
            steps: of Adam, which begins anew.
            image_side: longer side of the images that it learns, in pixels.
            pose_learning_rate: Adam's learning rate on poses, in radians and camera distances.
            chosen: images to learn from; None for all. The poses of others stay.

        Returns:
            The poses at which the field shows the images. While there is little to see, descent moves cameras outwards.
        """
        table = PoseTable(camera_to_worlds, self.search.codec)
        field, poses = list(self._model.parameters()), list(table.parameters())
        adam = torch.optim.Adam(field, lr=self.config.learning_rate, eps=1e-15, betas=(0.9, 0.99), fused=True)
        adam.add_param_group({"params": poses, "lr": pose_learning_rate, "eps": 1e-8})
        with torch.enable_grad(), torch.autocast(camera_to_worlds.device.type, enabled=False):
            for _ in range(steps):
                give_way()
                rays, colors = sample_pixel_rays(
                    self._image_set, table(), self.config.rays_per_step, image_side, chosen
                )
                outputs = self._model.render(rays)
                loss = self._model.get_photometric_loss(outputs, colors)
                loss = loss + self._model.config.distortion_loss_mult * distortion_of(outputs["radiance"])
                adam.zero_grad()
                # Focal lengths, which the rays depend on as well, are not learned here.
                (GRADIENT_SCALE * loss).backward(inputs=field + poses)
                adam.step()
        learned = table().detach()
        if chosen is None:
            return learned
        return camera_to_worlds.index_copy(0, chosen, learned[chosen])
