"""What the pictures cannot tell: other poses, or the mirror image of the scene, that explain them as well."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.pose_search import PoseSearch

TURNS_DEG = tuple(range(30, 360, 30))
"""Turns about the upright axis after which the object may look the same."""

MAX_PHOTOGRAPHS = 32
"""So many are examined; of more, a part spread over all."""

SAME = 0.05
"""Pictures look nearly the same if they differ by less than this share of how photographs differ from their mean."""

NOTEWORTHY_SHARE = 0.1
"""Share of the photographs with a twin above which that is reported."""


@dataclass(frozen=True)
class Ambiguity:
    """How many photographs could as well have been taken from elsewhere."""

    examined: int
    """Photographs that were examined."""
    twins: int
    """Those that look nearly the same from a place turned by `turn_deg`."""
    turn_deg: int
    """The turn about the upright axis that makes most twins, in degrees."""
    mirror_twins: int
    """Those that the scene's mirror image shows nearly the same, seen from the opposite elevation."""

    @property
    def sentences(self) -> List[str]:
        """What is to be said about it; nothing where the pictures are clear."""
        said = []
        if self.twins > NOTEWORTHY_SHARE * self.examined:
            said.append(
                f"{self.twins} of {self.examined} photographs look nearly the same from a place {self.turn_deg}° "
                "farther round the object: the pictures cannot tell, and such poses may be off by that much."
            )
        if self.mirror_twins > 0.5 * self.examined:
            said.append(
                "The mirror image of the scene, seen from below instead of from above or the other way round, explains "
                f"{self.mirror_twins} of {self.examined} photographs as well: the pictures cannot tell which is right; "
                "if you know that all were taken from above, say --pipeline.pose-prior.elevation-deg 0 90."
            )
        return said


@torch.no_grad()
def find_ambiguity(
    search: PoseSearch, photographs: Photographs, camera_to_worlds: Float[Tensor, "n 3 4"], prior: PosePrior
) -> Ambiguity:
    """Hold photographs against what a trained field shows from their twins' places.

    Seen from the opposite side, an outline is its own mirror image if perspective is weak. So the mirror image of the
    scene, from the opposite elevation, has the same outlines as the scene; only perspective, shading and what hides
    what tell them apart (the reversal of a Necker cube).

    Args:
        search: of the trained field.
        photographs: all of them.
        camera_to_worlds: their estimated poses.
        prior: a mirror image that needs elevations outside of it is ruled out.
    """
    chosen = torch.arange(0, len(photographs), math.ceil(len(photographs) / MAX_PHOTOGRAPHS))
    chosen = chosen.to(camera_to_worlds.device)
    poses = camera_to_worlds[chosen]
    # Noise is in both costs; their difference is what the place makes.
    variance = search.variance(photographs)
    own_cost = search.cost_at(photographs, chosen, poses)

    def count_same(cost: Float[Tensor, "n"], possible: Optional[Tensor] = None) -> int:
        same = cost - own_cost < SAME * variance
        return int((same if possible is None else same & possible).sum())

    turns = torch.deg2rad(poses.new_tensor(TURNS_DEG))
    axis = poses.new_tensor([0.0, 0.0, 1.0])
    twins = [
        count_same(search.cost_at(photographs, chosen, rotation @ poses))
        for rotation in roma.rotvec_to_rotmat(turns[:, None] * axis)
    ]
    most = max(range(len(twins)), key=twins.__getitem__)

    positions = poses[..., 3]
    elevation = torch.rad2deg(torch.asin(positions[:, 2] / torch.linalg.vector_norm(positions, dim=-1)))
    low, high = prior.elevation_deg
    # Close to the horizon both elevations are the same to the eye, and no mirror image is needed.
    possible = (-elevation >= low) & (-elevation <= high)
    flipped = search.cost_at(photographs, chosen, look_at(-positions), flipped=True)
    return Ambiguity(len(chosen), twins[most], TURNS_DEG[most], count_same(flipped, possible))
