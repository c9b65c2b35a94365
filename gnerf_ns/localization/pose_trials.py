"""Poses of few photographs, tried in fields that begin anew.

Two of a dozen photographs can confirm each other in a wrong place: taken from behind, where nobody else has been, they
pass for pictures from in front, and whatever the field learns there keeps them. No comparison with that field tells.
But the photographs as a whole then make up a scene less well, and a field that begins anew shows it within a second
(`YoungField`). So each photograph is moved to wherever else it may belong, alone or with its neighbours, and stays
there if such a field explains all photographs better. Where that gains little in the end, nobody moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.pose_search import PoseSearch
from gnerf_ns.localization.young_field import Fit, YoungField, YoungFieldConfig
from gnerf_ns.models.gnerf import GNeRFModel

Moves = Dict[int, Float[Tensor, "3 4"]]
"""New poses by photograph."""


@dataclass
class PoseTrialsConfig:
    """Configuration of `PoseTrials`."""

    num_places: int = 3
    """How many other places are tried for a photograph: the best in a field that was not trained on it."""
    num_hypotheses: int = 80
    """Places are taken from so many of the bank's best poses."""
    min_angle_deg: float = 35.0
    """Places are at least so far apart, as seen from the origin; nearer poses are found by gradient descent."""
    neighbour_angle_deg: float = 30.0
    """Photographs that seem to have been taken nearer to it than this are tried elsewhere together with it, too."""
    max_neighbours: int = 3
    """The nearest; a field has to be learned from those that remain."""
    steps_without: int = 60
    """Steps from nothing, without the photograph and its neighbours; all its places are tried from there."""
    steps_with: int = 30
    """Steps with everybody, for each place that is tried."""
    steps_of_fit: int = 80
    """Steps from nothing by which a round is judged."""
    min_gain: float = 0.05
    """The first round counts only if a field from nothing then explains so much more, as a share of how photographs
    differ. Where all are in their place, chance makes up to half of that, and phase A's poses are as good."""
    young_field: YoungFieldConfig = field(default_factory=YoungFieldConfig)
    """The field that is learned."""


class PoseTrials:
    """Looks for poses at which few photographs make up one scene better."""

    def __init__(
        self,
        config: PoseTrialsConfig,
        model: GNeRFModel,
        photographs: Photographs,
        poses: PoseTable,
        pose_search: PoseSearch,
    ) -> None:
        """
        Args:
            config: how much is tried.
            model: the run's field; goes on from a young one if that explains more.
            photographs: all of them.
            poses: theirs.
            pose_search: how they are looked up.
        """
        self.config = config
        self._model, self._photographs, self._poses, self._search = model, photographs, poses, pose_search

    def run(self, rounds: int) -> bool:
        """Try other poses for each photograph in turn, those that fit worst first.

        Args:
            rounds: how often, at most; once nobody moves, that was all.

        Returns:
            Whether poses and field were replaced: only if a field from nothing explains clearly more in the end.
        """
        young = YoungField(self.config.young_field, self._model, self._photographs, self._search)
        seed = draw_seed()
        first = best = self._fit(young, self._poses().detach(), seed)
        weights = young.weights()
        for number in range(rounds):
            poses, num_moved = best.camera_to_worlds, 0
            worst_first = young.worst_first(poses)  # it is still what was fitted to them
            label = f"Trying other poses, round {number + 1} of at most {rounds}"
            quiet = not CONSOLE.is_terminal
            for photograph in track(worst_first, label, console=CONSOLE, transient=True, disable=quiet):
                better = self._somewhere_better(young, photograph, poses)
                if better is not None:
                    poses, num_moved = better, num_moved + 1
            if num_moved == 0:
                break
            present = self._fit(young, poses, seed)
            required = first.explained_share + self.config.min_gain if best is first else best.explained_share
            is_better = present.explained_share > required
            CONSOLE.print(
                f"Round {number + 1} of trying other poses moved {num_moved} of {len(poses)} photographs: a new field "
                f"explains {present.explained_share:.0%} of how they differ ({best.explained_share:.0%} before)"
                f"{'.' if is_better else ': too little, so they were moved back.'}"
            )
            if not is_better:
                break
            best, weights = present, young.weights()
        if best is first:
            return False
        self._poses.assign(torch.arange(len(self._photographs), device=self._model.device), best.camera_to_worlds)
        self._model.load_state_dict(weights)
        return True

    def _fit(self, young: YoungField, camera_to_worlds: Float[Tensor, "n 3 4"], seed: int) -> Fit:
        torch.manual_seed(seed)
        young.begin_anew()
        return young.fit(camera_to_worlds, self.config.steps_of_fit)

    def _somewhere_better(
        self, young: YoungField, photograph: int, camera_to_worlds: Float[Tensor, "n 3 4"]
    ) -> Optional[Float[Tensor, "n 3 4"]]:
        """Poses of all photographs after those moves that let the field explain most; None if that is no move."""
        neighbours = self._neighbours(photograph, camera_to_worlds)
        left_out = torch.zeros(len(camera_to_worlds), dtype=torch.bool, device=camera_to_worlds.device)
        left_out[[photograph, *neighbours]] = True
        young.begin_anew()
        young.learn(camera_to_worlds, self.config.steps_without, (~left_out).nonzero()[:, 0])
        without, seed = young.weights(), draw_seed()
        fits: List[Fit] = []
        for moves in [{}, *self._moves(young, photograph, neighbours, camera_to_worlds[photograph])]:
            young.put_back(without)
            tried = camera_to_worlds.clone()
            for moved, pose in moves.items():
                tried[moved] = pose
            torch.manual_seed(seed)  # or the best of several would be the luckiest
            fits.append(young.fit(tried, self.config.steps_with))
        best = max(fits, key=lambda fit: fit.explained_share)
        return None if best is fits[0] else best.camera_to_worlds

    def _neighbours(self, photograph: int, camera_to_worlds: Float[Tensor, "n 3 4"]) -> List[int]:
        angles = angles_deg(camera_to_worlds, camera_to_worlds[photograph])
        angles[photograph] = torch.inf
        nearest = angles.argsort()[: min(self.config.max_neighbours, len(angles) // 2 - 1)]
        return nearest[angles[nearest] < self.config.neighbour_angle_deg].tolist()

    def _moves(
        self, young: YoungField, photograph: int, neighbours: List[int], present: Float[Tensor, "3 4"]
    ) -> List[Moves]:
        """What to try: the photograph in each of the places where it fits best, alone and with its neighbours."""
        config, device = self.config, present.device
        chosen = torch.tensor([photograph, *neighbours], device=device)
        count = min(config.num_hypotheses, self._search.config.bank_size)
        (hypotheses, *of_neighbours), _ = young.search.top_poses(self._photographs, count, chosen)
        places: List[Float[Tensor, "3 4"]] = []
        for pose in hypotheses:
            if bool((angles_deg(torch.stack([present, *places]), pose) > config.min_angle_deg).all()):
                places.append(pose)
            if len(places) == config.num_places:
                break
        if not places:
            return []
        same = torch.full((len(places),), photograph, device=device)
        tries: List[Moves] = []
        for place in young.search.improve(self._photographs, same, torch.stack(places)[:, None])[:, 0]:
            alone: Moves = {photograph: place}
            together: Moves = dict(alone)
            for neighbour, candidates in zip(neighbours, of_neighbours, strict=True):
                near = candidates[angles_deg(candidates, place) < config.min_angle_deg]
                if len(near) > 0:
                    together[neighbour] = near[0]
            tries += [alone] if len(together) == 1 else [alone, together]
        return tries


def draw_seed() -> int:
    """A random number to draw the same random numbers from, as often as wanted."""
    return int(torch.randint(2**31, ()))


def angles_deg(camera_to_worlds: Float[Tensor, "n 3 4"], to: Float[Tensor, "3 4"]) -> Float[Tensor, "n"]:
    """Angles, in degrees, between the directions from the origin to cameras and to another one."""
    cosines = functional.cosine_similarity(camera_to_worlds[:, :, 3], to[None, :, 3], dim=1)
    return torch.rad2deg(torch.acos(cosines.clamp(-1.0, 1.0)))
