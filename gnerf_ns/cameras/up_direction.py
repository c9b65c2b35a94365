"""Which way is up in the learned frame: for cameras that were held level."""

import roma
import torch
from jaxtyping import Float
from torch import Tensor, nn

UP_DIRECTION_KEY = "up_direction.tilt"
"""Where a pipeline's checkpoint has it; older ones have none."""


class UpDirection(nn.Module):
    """A lean of the scene away from +z, as the parameter ``tilt``: a rotation vector in the xy plane, in radians.

    Small renderings tell phase A little of the upright, and may leave the scene leaning by some degrees. Level cameras
    then cannot see it as the photographs do, unless what is level leans with it: poses settle on a compromise, and with
    few photographs the field learns to explain that. Two numbers for all cameras together undo it, without allowing any
    one of them to roll.
    """

    def __init__(self, is_learned: bool = False) -> None:
        """Starts with +z up.

        Args:
            is_learned: whether it may change.
        """
        super().__init__()
        self.is_learned = is_learned
        self.tilt: Tensor
        if is_learned:
            self.tilt = nn.Parameter(torch.zeros(2))
        else:
            self.register_buffer("tilt", torch.zeros(2))

    def forward(self) -> Float[Tensor, "3 3"]:
        """The shortest rotation that takes +z to what is up."""
        return roma.rotvec_to_rotmat(torch.cat([self.tilt, self.tilt.new_zeros(1)]))

    @torch.no_grad()
    def forget(self) -> None:
        """+z is up again."""
        self.tilt.zero_()

    def lean(self, camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
        """Poses in the learned frame of cameras given in one where +z is up; no gradient reaches the tilt."""
        return rotate_poses(self.forward().detach().to(camera_to_worlds), camera_to_worlds)

    def level(self, camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
        """The inverse of `lean`."""
        return rotate_poses(self.forward().detach().mT.to(camera_to_worlds), camera_to_worlds)


def rotate_poses(
    rotation: Float[Tensor, "3 3"], camera_to_worlds: Float[Tensor, "*batch 3 4"]
) -> Float[Tensor, "*batch 3 4"]:
    """Cameras turned about the origin, all alike."""
    # A sum and not a matrix product, which mixed precision would round.
    return (rotation[:, :, None] * camera_to_worlds[..., None, :, :]).sum(dim=-2)
