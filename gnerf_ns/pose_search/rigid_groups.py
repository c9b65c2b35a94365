"""Where a group of images stands whose cameras are known relative to each other: all of them are placed as one.

What a young field shows is poor, and from many places it was never seen: single images looked up in it are mostly
wrong. Any one of them that is about right puts the whole group about right, and that shows in all that the field can
explain of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import List, NamedTuple

import roma
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.cameras.scene_frame import axes_meet_at
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.hypotheses import Hypotheses
from gnerf_ns.pose_search.pixel_sampling import PixelChoice
from gnerf_ns.pose_search.pose_search import PoseSearch
from gnerf_ns.pose_search.refinement import RefinementConfig, refine_poses

BANK_SIZE = 2000
"""Poses that each image is compared with; twice as many as where one knows from which side images were taken."""
NUM_PROPOSALS = 8
"""Poses of each image that propose where the group may stand,"""
SCALES = (0.7, 1.0, 1.4)
"""each in so many sizes, as factors on the one at which the image is as far from what the group looks at as the pose is
from the origin."""
MAX_PROPOSING, MAX_RATING = 24, 12
"""Images that propose, and those by which proposals are told apart; of more, a part spread over all."""
FINALISTS = (12, 6, 3)
"""Proposals that are refined; each time, the better half goes on."""
REFINEMENT = RefinementConfig(
    steps=60,
    rays_per_hypothesis=40,
    learning_rate=1e-2,
    final_learning_rate=2e-3,
    first_image_side=16,
    last_image_side=32,
)
"""How: by gradient descent on the colors of images that are explained."""
EXPLAINED_SHARE = 0.3
"""An image of which less is explained may show what the field was never trained on, and is no judge."""
RIVAL_DEG = 15.0
"""A group stands elsewhere if it is turned by more, in degrees."""
RIVAL_RATIO = 0.75
"""Rated so high relative to the best, another place may be the right one. Beside the right place, wrong ones have
about half its rating."""


class PlacedGroup(NamedTuple):
    """Where a group stands."""

    camera_to_worlds: Float[Tensor, "k 3 4"]
    """Poses of all its images."""
    is_clear: bool
    """Whether nothing elsewhere is about as good."""


class RigidMotions(nn.Module):
    """Copies of a group, each moved as one about what it looks at, as the parameter ``tangents``; and of each copy, the
    poses of some images.

    Turns are in radians, shifts in units of the cameras' distance from what they look at, and the last number is the
    logarithm of the scale.
    """

    def __init__(self, copies: Float[Tensor, "copies k 3 4"], chosen: Bool[Tensor, "copies k"]) -> None:
        """
        Args:
            copies: the poses before.
            chosen: which images of each copy `forward` is to give.
        """
        super().__init__()
        self._copies, self._chosen = copies, chosen
        self._centers = torch.stack([axes_meet_at(poses.double()) for poses in copies]).to(copies)[:, None]
        distances = torch.linalg.vector_norm(copies[..., 3] - self._centers, dim=-1)
        self._reach = distances.median(dim=1).values[:, None]
        self.tangents = nn.Parameter(copies.new_zeros(len(copies), 7))

    def moved(self) -> Float[Tensor, "copies k 3 4"]:
        """All poses."""
        turns, shifts, scales = self.tangents[:, :3], self.tangents[:, 3:6], self.tangents[:, 6:].exp()
        rotations = roma.rotvec_to_rotmat(turns)[:, None]
        arms = scales[:, None] * (self._copies[..., 3] - self._centers)
        positions = (rotations @ arms[..., None])[..., 0] + self._centers + (self._reach * shifts)[:, None]
        return torch.cat([rotations @ self._copies[..., :3], positions[..., None]], dim=-1)

    def forward(self) -> Float[Tensor, "chosen 3 4"]:
        """Poses of the chosen images, those of the first copy first."""
        return self.moved()[self._chosen]


def place_group(
    search: PoseSearch, image_set: ImageSet, indices: Int[Tensor, "k"], relative: Float[Tensor, "k 3 4"]
) -> PlacedGroup:
    """Poses of all images of a group, moved as one to where the field shows most of them.

    Args:
        search: in the field.
        image_set: all images.
        indices: those of the group.
        relative: their poses, in a frame and unit of the group's own.
    """
    # In full precision: a group has to stay rigid.
    with torch.autocast(search.renderer.device.type, enabled=False):
        return _Group(search, image_set, indices, relative.to(search.renderer.device)).placed()


@dataclass(frozen=True)
class _Group:
    """What `place_group` is given. Copies of the group are poses of all its images, each moved as one."""

    search: PoseSearch
    image_set: ImageSet
    indices: Int[Tensor, "k"]
    relative: Float[Tensor, "k 3 4"]

    def placed(self) -> PlacedGroup:
        """The best of many proposals, a few of which are refined."""
        copies = self._proposals()
        judges = _spread(len(self.indices), MAX_RATING).to(self.indices.device)
        ratings = _rated(self._explained(copies[:, judges], self.indices[judges]))
        refined = []
        for count in FINALISTS:
            copies = self._refined(copies[ratings.topk(min(count, len(copies))).indices])
            ratings = _rated(self._explained(copies, self.indices))
            refined.append((copies, ratings))
        copies, ratings = (torch.cat(each) for each in zip(*refined, strict=True))
        best = int(ratings.argmax())
        turned = roma.rotmat_geodesic_distance(copies[:, 0, :, :3], copies[best, 0, :, :3].expand(len(copies), 3, 3))
        rivals = ratings[turned.rad2deg() > RIVAL_DEG]
        return PlacedGroup(copies[best], not bool((rivals >= RIVAL_RATIO * ratings[best]).any()))

    def _proposals(self) -> Float[Tensor, "proposals k 3 4"]:
        """Copies that stand where single images look most like the field."""
        search, relative = self.search, self.relative.double()
        bank = replace(search.config, bank_size=BANK_SIZE)
        wide = PoseSearch(bank, search.model, search.proposals.wider(), search.codec, search.ranks)
        proposing = _spread(len(self.indices), MAX_PROPOSING).to(self.indices.device)
        candidates, _ = wide.top_poses(self.image_set, NUM_PROPOSALS, self.indices[proposing])
        center = axes_meet_at(relative)
        found: List[Tensor] = []
        for own, poses in zip(relative[proposing], candidates.double(), strict=True):
            distance = torch.linalg.vector_norm(own[:, 3] - center).clamp_min(1e-9)
            for pose in poses:
                rotation = pose[:, :3] @ own[:, :3].mT
                scale = float(torch.linalg.vector_norm(pose[:, 3]) / distance)
                for factor in SCALES:
                    shift = pose[:, 3] - factor * scale * (rotation @ own[:, 3])
                    found.append(Similarity(rotation, factor * scale, shift).apply(relative))
        return torch.stack(found).to(candidates)

    def _refined(self, copies: Float[Tensor, "copies k 3 4"]) -> Float[Tensor, "copies k 3 4"]:
        """Where gradient descent brings them."""
        chosen = self._explained(copies, self.indices) > EXPLAINED_SHARE
        if not bool(chosen.any()):
            return copies
        motions, renderer = RigidMotions(copies, chosen), self.search.renderer
        of_copies = self.indices.expand(len(copies), -1)[chosen]
        hypotheses = Hypotheses(self.image_set, of_copies, copies[chosen], lambda camera_to_worlds: motions)
        refine_poses(REFINEMENT, renderer, PixelChoice(self.image_set, "random", renderer.background), hypotheses)
        return motions.moved().detach()

    def _explained(
        self, camera_to_worlds: Float[Tensor, "copies some 3 4"], indices: Int[Tensor, "some"]
    ) -> Float[Tensor, "copies some"]:
        """Which share of the contrast of some images the field shows, 0 where it shows none or something else."""
        costs, side, count = self.search.costs, self.search.config.image_side, len(camera_to_worlds)
        cost = costs.at(self.image_set, indices.repeat(count), camera_to_worlds.flatten(0, 1), side)
        return (1.0 - cost.view(count, -1) / costs.contrast(self.image_set, side)[indices]).clamp_min(0.0)


def _rated(explained: Float[Tensor, "copies k"]) -> Float[Tensor, "copies"]:
    """How good places are: a few images that are explained well say more than many that are explained a little, as
    they are from anywhere; and what is not explained says nothing, since the field may never have seen it."""
    return explained.square().mean(dim=1)


def _spread(count: int, most: int) -> Int[Tensor, "chosen"]:
    """All of so many rows, or `most` of them."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()
