"""Parts of the images whose cameras are known relative to each other from the start, held-out images among them.

Those that training begins with are one part, in the field's frame; groups that matches place by themselves are others.
While training moves the cameras of a part, its held-out images go along.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gnerf_ns.cameras.alignment import fit_similarity
from gnerf_ns.training.beginning import KnownPoses

NO_PART = -1
FIRST_GROUP = 1
"""Part 0 are the images that training begins with."""


class RelativePoses(nn.Module):
    """Which image is of which part, and where it is in the frame of that.

    Attributes:
        parts: of training images; -1 for none.
        poses: camera_to_worlds [n, 3, 4] of training images, each in the frame of its part.
        eval_parts: of held-out images.
        eval_poses: camera_to_worlds [m, 3, 4] of held-out images.
    """

    parts: Tensor
    poses: Tensor
    eval_parts: Tensor
    eval_poses: Tensor

    def __init__(self, num_train: int, num_eval: int) -> None:
        """No image is of any part.

        Args:
            num_train: how many images there are to train on.
            num_eval: how many are held out.
        """
        super().__init__()
        self.register_buffer("parts", torch.full((num_train,), NO_PART))
        self.register_buffer("poses", torch.zeros(num_train, 3, 4))
        self.register_buffer("eval_parts", torch.full((num_eval,), NO_PART))
        self.register_buffer("eval_poses", torch.zeros(num_eval, 3, 4))

    def begin_with(self, known: KnownPoses) -> None:
        """Take what is known when training begins."""
        count, device = len(self.parts), self.parts.device
        known_parts = [
            (torch.cat([known.train_indices, known.eval_indices + count]), torch.cat([known.train, known.eval]))
        ]
        for number, (indices, poses) in enumerate([*known_parts, *known.groups]):
            indices, poses = indices.to(device), poses.to(self.poses)
            is_train = indices < count
            self.parts[indices[is_train]] = number
            self.poses[indices[is_train]] = poses[is_train]
            self.eval_parts[indices[~is_train] - count] = number
            self.eval_poses[indices[~is_train] - count] = poses[~is_train]

    @torch.no_grad()
    def eval_guess(
        self, camera_to_worlds: Float[Tensor, "n 3 4"], are_placed: Bool[Tensor, "n"]
    ) -> Float[Tensor, "m 3 4"]:
        """Where held-out images were taken if their parts are where training has brought them.

        Args:
            camera_to_worlds: of all training images, as learned.
            are_placed: which of these have a pose.

        Returns:
            Poses, NaN where there is none.
        """
        guess = torch.full_like(self.eval_poses, torch.nan)
        for part in self.eval_parts.unique().tolist():
            placed = (self.parts == part) & are_placed
            if part != NO_PART and bool(placed.any()):
                moved = fit_similarity(self.poses[placed].double().cpu(), camera_to_worlds[placed].double().cpu())
                held_out = self.eval_parts == part
                guess[held_out] = moved.apply(self.eval_poses[held_out].double().cpu()).to(guess)
        return guess
