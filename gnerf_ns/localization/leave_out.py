"""Poses looked up in a field that was not trained on the photograph.

A field learns to show a photograph from wherever it is believed to have been taken, and then shows it best from there:
with few photographs, each being a large part of what the field knows, a wrong pose confirms itself. So photographs take
turns in being left out of training for a while, and are looked up in what the others have made of the field.
"""

from __future__ import annotations

from typing import Optional

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.pose_search import PoseSearch


class LeaveOut(nn.Module):
    """Whose turn it is.

    Attributes:
        left_out: one bool per photograph.
        poses_then: camera_to_worlds [n, 3, 4] of when the present round began; an optimizer's momentum moves poses of
            those left out, too.
    """

    left_out: Tensor
    poses_then: Tensor

    def __init__(self, photographs: Photographs, poses: PoseTable, search: PoseSearch) -> None:
        """Starts with nobody left out.

        Args:
            photographs: all of them.
            poses: theirs.
            search: by which they are looked up.
        """
        super().__init__()
        self._photographs, self._search = photographs, search
        self._poses = (poses,)  # in a tuple: the table is not this module's
        self.register_buffer("left_out", torch.zeros(len(photographs), dtype=torch.bool))
        self.register_buffer("poses_then", poses().detach().clone())

    @property
    def kept(self) -> Int[Tensor, "kept"]:
        """Photographs to train on."""
        return (~self.left_out).nonzero()[:, 0]

    @torch.no_grad()
    def look_up(self) -> None:
        """Moves those left out to wherever they fit better than where they were."""
        (poses,) = self._poses
        chosen = self.left_out.nonzero()[:, 0]
        if len(chosen) > 0:
            poses.assign(chosen, self.poses_then[chosen])
            better, found = self._search.fitting_better(self._photographs, chosen, poses(chosen))
            poses.assign(chosen[better], found)

    @torch.no_grad()
    def take_turns(self, leave_out_round: Optional[int]) -> None:
        """Leaves out others: random halves and what remains of them in turn.

        Nobody is left out in the first round, 0, so that the field learns the present poses.

        Args:
            leave_out_round: which it is, from 0; None when it is over.
        """
        (poses,) = self._poses
        self.poses_then.copy_(poses())
        if not leave_out_round:
            self.left_out.zero_()
        elif leave_out_round % 2 == 1:
            count = len(self.left_out)
            self.left_out.zero_()[torch.randperm(count, device=self.left_out.device)[: count // 2]] = True
        else:
            self.left_out.logical_not_()
