"""Poses of few images, each looked up in fields that have not seen it.

A field learns to show an image from wherever it is believed to have been taken, and then shows it best from there.
With few images, each being a large part of what the field knows, a wrong pose confirms itself: no comparison with that
field tells. So images take turns in being left out of a field that begins anew (`FreshField`), and are looked up in
what the others have made of it.

Such a field also lets go of what all poses have in common of their errors. Phase A leaves few images too low: of twelve
of Lego, with 0.4 to 0.75 times the true tangent of elevation, a scene that is too tall and rendered much like the scene
itself. A field that has learned that holds the cameras there for a thousand steps and more; in fresh ones, they are
where they belong after a few hundred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Tuple

import torch
import tyro
from jaxtyping import Bool, Float, Int
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.pose_search.pose_search import PoseSearch
from gnerf_ns.training.fresh_field import FreshField, FreshFieldConfig
from gnerf_ns.training.misfits import Misfits, MisfitsConfig
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.utils.console import tracked
from gnerf_ns.utils.random_numbers import draw_from

LEFT_OUT_SHARE, MIN_LEFT = 3, 8
"""All images are left out once in a round, a third of them at a time, or fewer, that so many remain, down to one at a
time: what remains has to make up a scene. Poses that are learned from fewer drift, farther with each turn. Where fewer
remain even so, all are put back after each turn, but for an image that costs clearly less far from where it was,"""
MOST_UNEXPLAINED = 0.25
"""and of which no more than this is left unexplained there: of what the others do not show, they tell nothing. Half of
an image of Lego was unexplained wherever, by five others, and by chance it went to a place 119 degrees off; of one
that was rightly moved, a tenth."""


def num_parts(count: int) -> int:
    """In how many parts so many images are left out."""
    return math.ceil(count / max(1, min(count // LEFT_OUT_SHARE, count - MIN_LEFT)))


@dataclass
class LeftOutInTurnConfig:
    """Configuration of `LeftOutInTurn`."""

    steps: tyro.conf.Suppress[int] = 150
    """Steps from nothing, without those that are left out."""
    first: tyro.conf.Suppress[Tuple[int, float]] = (24, 2e-3)
    """Longer side of the images, in pixels, and learning rate of poses in the first round, in radians and camera
    distances;"""
    later: tyro.conf.Suppress[Tuple[int, float]] = (32, 1e-3)
    """and in later ones."""
    steps_of_all: tyro.conf.Suppress[int] = 200
    """Steps from nothing, with everybody, in the end: twice, and the second time poses learn half as fast."""
    share_of_bank: tyro.conf.Suppress[float] = 0.3
    """Those left out are looked up in such a share of a bank's poses: it is their turn several times, with others each
    time."""
    num_hypotheses: tyro.conf.Suppress[int] = 16
    """So many of the best are improved."""
    fresh_field: tyro.conf.Suppress[FreshFieldConfig] = field(default_factory=FreshFieldConfig)
    """The fields."""


class LeftOutInTurn:
    """Moves each image to where the others' field shows it (of very few, if it was in a wrong place altogether), and
    all together to where fresh fields bring them."""

    def __init__(
        self, config: LeftOutInTurnConfig, scene: TrainingScene, pose_search: PoseSearch, misfits: MisfitsConfig
    ) -> None:
        """
        Args:
            config: how much is learned.
            scene: images and their poses, which are replaced, and the field, which is, too.
            pose_search: how poses are looked up.
            misfits: how what is found is refined.
        """
        self.config = config
        self._model, self._image_set, self._cameras = scene.model, scene.image_set, scene.cameras
        self._search, self._misfits = pose_search.with_bank(config.share_of_bank), misfits

    def run(self, rounds: int) -> bool:
        """Leave each image out once in a round.

        Returns:
            Whether poses and field were replaced: not where a fresh field diverges.
        """
        config, count = self.config, len(self._image_set)
        fresh = FreshField(config.fresh_field, self._model, self._image_set, self._search)
        poses = self._cameras().detach()
        distance = _mean_distance(poses)
        unexplained = poses.new_zeros(count)
        nobody = torch.zeros(0, dtype=torch.long, device=poses.device)
        turns = [
            (config.steps, *(config.later if number else config.first), left_out)
            for number in range(rounds)
            for left_out in self._search.ranks.of_first(torch.randperm(count, device=poses.device)).tensor_split(
                num_parts(count)
            )
        ]
        side, pose_rate = config.later
        turns += [(config.steps_of_all, side, share * pose_rate, nobody) for share in (1.0, 0.5)]
        for steps, side, pose_rate, left_out in tracked(
            turns, "looking up all images in fields that have not seen them"
        ):
            # A field and all poses that were learned or found in it are of one scale, a little larger each time: what
            # they show has to fit into the field.
            start = _times_as_far(distance / _mean_distance(poses), poses)
            poses = self._learned(fresh, start, steps, side, pose_rate, left_out)
            if not self._is_finite(fresh, poses):
                CONSOLE.print("A field that began anew diverged: poses stay where phase A has put them.", style="red")
                return False
            if len(left_out) > 0:
                found, fit_elsewhere, unexplained[left_out] = self._looked_up(fresh, poses[left_out], left_out, side)
                if count - len(left_out) < MIN_LEFT:
                    others = _all_but(left_out, count)
                    found = _times_as_far(_mean_distance(start[others]) / _mean_distance(poses[others]), found)
                    poses, found = start, torch.where(fit_elsewhere[:, None, None], found, start[left_out])
                poses[left_out] = found
        explained = (1.0 - unexplained).clamp_min(0.0)
        CONSOLE.print(
            f"Fields that have not seen a typical image explain {float(explained.median()):.0%} of it, and "
            f"{float(explained.min()):.0%} of the one that they explain least."
        )
        self._cameras.assign(torch.arange(count, device=poses.device), poses)
        self._model.load_state_dict(fresh.weights())
        return True

    def _learned(
        self,
        fresh: FreshField,
        camera_to_worlds: Float[Tensor, "n 3 4"],
        steps: int,
        image_side: int,
        pose_learning_rate: float,
        left_out: Int[Tensor, "k"],
    ) -> Float[Tensor, "n 3 4"]:
        ranks, fewer = self._search.ranks, len(left_out) > 0
        others = _all_but(left_out, len(camera_to_worlds)).nonzero()[:, 0] if fewer else None
        fresh.begin_anew()
        learned = fresh.learn(camera_to_worlds, steps, image_side, pose_learning_rate, others)
        if ranks.count > 1:
            # Alike everywhere but for rounding, by which a ray may hit or miss: from here on it has to be the same.
            ranks.make_equal(fresh.search.model)
            learned = ranks.of_first(learned)
            draw_from(int(ranks.of_first(torch.randint(2**31, (), device=learned.device))), learned.device)
        return learned

    def _is_finite(self, fresh: FreshField, camera_to_worlds: Float[Tensor, "n 3 4"]) -> bool:
        return all(bool(value.isfinite().all()) for value in (camera_to_worlds, *fresh.search.model.parameters()))

    def _looked_up(
        self, fresh: FreshField, present: Float[Tensor, "k 3 4"], left_out: Int[Tensor, "k"], image_side: int
    ) -> Tuple[Float[Tensor, "k 3 4"], Bool[Tensor, "k"], Float[Tensor, "k"]]:
        """Where images fit best in a field that has not seen them, nearby where they were or wherever else; whether
        they fit clearly better there than nearby (`MisfitsConfig.required_cost_ratio`), and well (`MOST_UNEXPLAINED`);
        and what the field leaves unexplained of them there."""
        search, image_set = fresh.search, self._image_set
        hypotheses, _ = search.top_poses(image_set, min(self.config.num_hypotheses, search.config.bank_size), left_out)
        places = [search.improve(image_set, left_out, each)[:, 0] for each in (hypotheses, present[:, None])]
        each = left_out.repeat(len(places))
        refined = Misfits(self._misfits, search).refined(image_set, each, torch.cat(places))
        costs = search.costs.at(image_set, each, refined, image_side).view(len(places), -1).nan_to_num(torch.inf)
        lowest, best = costs.min(dim=0)
        found = refined.view(len(places), -1, 3, 4)[best, torch.arange(len(left_out), device=best.device)]
        unexplained = lowest / search.costs.contrast(image_set, image_side)[left_out]
        fit_elsewhere = lowest < self._misfits.required_cost_ratio * costs[-1]
        return found, fit_elsewhere & (unexplained < MOST_UNEXPLAINED), unexplained


def _all_but(left_out: Int[Tensor, "k"], count: int) -> Bool[Tensor, "count"]:
    return torch.ones(count, dtype=torch.bool, device=left_out.device).index_fill(0, left_out, False)


def _mean_distance(camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, ""]:
    return camera_to_worlds[:, :, 3].norm(dim=1).mean()


def _times_as_far(scale: Float[Tensor, ""], camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    return torch.cat([camera_to_worlds[:, :, :3], scale * camera_to_worlds[:, :, 3:]], dim=-1)
