"""Poses as small motions away from given ones: exponential coordinates of SE(3) (iNeRF section 3.1)."""

from typing import Optional, Union

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.lie_groups import exp_map_SE3
from torch import Tensor, nn


class PoseIncrements(nn.Module):
    """exp(tangent) applied to each of some poses, as the parameter ``tangents``: zeros are the poses themselves.

    Motions are about the middle of the scene, so that a rotation takes the camera around what it looks at, and
    translations are in units of the camera's distance from there, so that one learning rate suits every scene.
    """

    initial: Tensor
    centre: Tensor
    distances: Tensor

    def __init__(self, camera_to_worlds: Float[Tensor, "n 3 4"], centre: Float[Tensor, "3"]) -> None:
        """
        Args:
            camera_to_worlds: where to begin.
            centre: the middle of what the cameras look at, in scene units.
        """
        super().__init__()
        self.register_buffer("initial", camera_to_worlds.detach().clone())
        self.register_buffer("centre", centre.detach().to(camera_to_worlds))
        distances = torch.linalg.vector_norm(self.initial[..., 3] - self.centre, dim=-1, keepdim=True)
        self.register_buffer("distances", distances.clamp_min(torch.finfo(distances.dtype).eps))
        self.tangents = nn.Parameter(torch.zeros(len(camera_to_worlds), 6).to(camera_to_worlds))

    def __len__(self) -> int:
        return len(self.initial)

    def forward(self, indices: Optional[Int[Tensor, "batch"]] = None) -> Float[Tensor, "poses 3 4"]:
        """camera_to_world matrices of the poses at ``indices``, or of all of them in order."""
        chosen: Union[slice, Tensor] = slice(None) if indices is None else indices
        tangents, initial = self.tangents[chosen], self.initial[chosen]
        motions = exp_map_SE3(torch.cat([self.distances[chosen] * tangents[:, :3], tangents[:, 3:]], dim=-1))
        # Sums and not matrix products, which mixed precision would round.
        rotations = (motions[:, :, :3, None] * initial[:, None, :, :3]).sum(dim=-2)
        arms = initial[..., 3] - self.centre
        positions = (motions[:, :, :3] * arms[:, None, :]).sum(dim=-1) + motions[:, :, 3] + self.centre
        return torch.cat([rotations, positions[..., None]], dim=-1)
