"""Poses of few images, tried in fields that begin anew.

Two of a dozen images can confirm each other in a wrong place: taken from behind, where nobody else has been, they
pass for images from in front, and whatever the field learns there keeps them. No comparison with that field tells.
But the images as a whole then make up a scene less well, and a field that begins anew shows it within a second
(`ProbeField`): with its coarse levels alone it shows best what many images agree on, where a field that has been
trained for long shows every image from wherever it is believed to have been taken. So each image is moved to wherever
else it may belong, alone or with its neighbors, and stays there if such a field explains all images better. Where that
gains little in the end, nobody moves.

After that, all move together. A scene that is too tall, seen from too low, is rendered much like the scene itself: of
twelve images of Lego, the tangent of cameras' elevation came out at 0.4 to 0.75 of the true one. What the field has
learned of that holds them there for a thousand steps and more. So elevations are stretched as long as fresh fields
explain more, on average of a few; where nobody has moved before, only if that gains something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Dict, List, Optional

import torch
import tyro
from jaxtyping import Float, Int
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.look_at import stretch_poses
from gnerf_ns.cameras.pose_codec import PoseTable
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.models.gnerf import GNeRFModel, distortion_of
from gnerf_ns.pose_search.pixel_sampling import sample_pixel_rays
from gnerf_ns.pose_search.pose_search import PoseSearch
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.utils.console import tracked
from gnerf_ns.utils.fair_lock import give_way

GRADIENT_SCALE = 1024.0
"""Adam does not mind how large gradients are; tiny-cuda-nn's have half precision, in which small ones vanish."""


@dataclass
class ProbeFieldConfig:
    """Configuration of `ProbeField`."""

    image_side: tyro.conf.Suppress[int] = 24
    """Longer side of the images that it learns and that are compared with it, in pixels."""
    rays_per_step: tyro.conf.Suppress[int] = 1024
    """Random pixels of a step."""
    learning_rate: tyro.conf.Suppress[float] = 1e-2
    """Adam's learning rate on the field."""
    pose_learning_rate: tyro.conf.Suppress[float] = 2e-3
    """Adam's learning rate on poses, in radians and camera distances."""


@dataclass(frozen=True)
class Fit:
    """What a fresh field makes of images and poses."""

    camera_to_worlds: Float[Tensor, "n 3 4"]
    """Poses, trained together with the field."""
    explained_variance: float
    """`ImageCosts.explained_variance` of all images there."""


class ProbeField:
    """A field of its own beside that of a run, of the same kind.

    Attributes:
        search: looks poses up in it.
    """

    def __init__(
        self, config: ProbeFieldConfig, model: GNeRFModel, image_set: ImageSet, pose_search: PoseSearch
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

    def put_back(self, weights: Dict[str, Tensor]) -> None:
        """Go on from what it was."""
        self._model.load_state_dict(weights)

    def weights(self) -> Dict[str, Tensor]:
        """What it is, to be put back or to go on from in the run."""
        return {name: value.clone() for name, value in self._model.state_dict().items()}

    def learn(
        self, camera_to_worlds: Float[Tensor, "n 3 4"], steps: int, chosen: Optional[Int[Tensor, "chosen"]] = None
    ) -> Float[Tensor, "n 3 4"]:
        """Train the field, and with it the poses.

        Args:
            camera_to_worlds: where the poses begin.
            steps: of Adam, which begins anew.
            chosen: images to learn from; None for all.

        Returns:
            The poses. On average they are as far away as they were: while there is little to see, descent moves all
            cameras outwards.
        """
        table = PoseTable(camera_to_worlds, self.search.codec)
        field, poses = list(self._model.parameters()), list(table.parameters())
        adam = torch.optim.Adam(field, lr=self.config.learning_rate, eps=1e-15, betas=(0.9, 0.99), fused=True)
        adam.add_param_group({"params": poses, "lr": self.config.pose_learning_rate, "eps": 1e-8})
        side, num_rays = self.config.image_side, self.config.rays_per_step
        with torch.enable_grad(), torch.autocast(camera_to_worlds.device.type, enabled=False):
            for _ in range(steps):
                give_way()
                rays, colors = sample_pixel_rays(self._image_set, table(), num_rays, side, chosen)
                outputs = self._model.render(rays)
                loss = self._model.get_photometric_loss(outputs, colors)
                loss = loss + self._model.config.distortion_loss_mult * distortion_of(outputs["radiance"])
                adam.zero_grad()
                # Focal lengths, which the rays depend on as well, are not learned here.
                (GRADIENT_SCALE * loss).backward(inputs=field + poses)
                adam.step()
        learned = table().detach()
        far, was_far = (poses[:, :, 3].norm(dim=1).mean() for poses in (learned, camera_to_worlds))
        return torch.cat([learned[:, :, :3], learned[:, :, 3:] * (was_far / far)], dim=-1)

    def fit(self, camera_to_worlds: Float[Tensor, "n 3 4"], steps: int) -> Fit:
        """Learn from all images for a while, and see what that has come to."""
        learned = self.learn(camera_to_worlds, steps)
        return Fit(learned, self.search.costs.explained_variance(self._image_set, learned, self.config.image_side))

    def worst_first(self, camera_to_worlds: Float[Tensor, "n 3 4"]) -> List[int]:
        """Images by their cost at poses, in units of their own contrast."""
        cost = self.search.costs.relative(self._image_set, camera_to_worlds, self.config.image_side)
        return cost.argsort(descending=True).tolist()


Moves = Dict[int, Float[Tensor, "3 4"]]
"""New poses by image."""


@dataclass
class PoseTrialsConfig:
    """Configuration of `PoseTrials`."""

    num_places: tyro.conf.Suppress[int] = 3
    """How many other places are tried for an image: the best in a field that was not trained on it."""
    share_of_bank: tyro.conf.Suppress[float] = 0.3
    """An image is looked up in such a share of a bank's poses, in a field that was not trained on it;"""
    num_hypotheses: tyro.conf.Suppress[int] = 80
    """places are taken from so many of the best."""
    min_angle_deg: tyro.conf.Suppress[float] = 35.0
    """Places are at least so far apart, as seen from the origin; nearer poses are found by gradient descent."""
    neighbor_angle_deg: tyro.conf.Suppress[float] = 30.0
    """Images that seem to have been taken nearer to it than this are tried elsewhere together with it, too."""
    max_neighbors: tyro.conf.Suppress[int] = 3
    """The nearest; a field has to be learned from those that remain."""
    steps_without: tyro.conf.Suppress[int] = 60
    """Steps from nothing, without the image and its neighbors; all its places are tried from there."""
    steps_with: tyro.conf.Suppress[int] = 30
    """Steps with everybody, for each place that is tried."""
    steps_of_fit: tyro.conf.Suppress[int] = 80
    """Steps from nothing by which a round is judged."""
    stretch: tyro.conf.Suppress[float] = 2**0.5
    """In the end, the tangent of all elevations is multiplied by this factor or its inverse, as often as that helps;"""
    max_stretches: tyro.conf.Suppress[int] = 4
    """and no more than so often. 0: never."""
    fields_per_stretch: tyro.conf.Suppress[int] = 3
    """So many fresh fields tell whether it helps: what one of them explains differs by chance alone."""
    min_gain_of_stretch: tyro.conf.Suppress[float] = 0.01
    """Where no round counted, fields have to explain so much more in the end, as a share of how images differ: what
    phase A has learned is given up for it. Chance alone makes about as much."""
    min_gain: float = 0.05
    """The first round counts only if a field from nothing then explains so much more, as a share of how images
    differ. Where all are in their place, chance makes up to half of that, and phase A's poses are as good."""
    probe_field: tyro.conf.Suppress[ProbeFieldConfig] = field(default_factory=ProbeFieldConfig)
    """The field that is learned."""


class PoseTrials:
    """Looks for poses at which few images make up one scene better."""

    def __init__(self, config: PoseTrialsConfig, scene: TrainingScene, pose_search: PoseSearch) -> None:
        """
        Args:
            config: how much is tried.
            scene: images and their poses; the run's field is replaced by a fresh one if that explains more.
            pose_search: how poses are looked up.
        """
        self.config = config
        self._model, self._image_set, self._cameras = scene.model, scene.image_set, scene.cameras
        self._search = pose_search.with_bank(config.share_of_bank)

    def run(self, rounds: int) -> bool:
        """Try other poses for each image in turn, those that fit worst first.

        Args:
            rounds: how often, at most; once nobody moves, that was all.

        Returns:
            Whether poses and field were replaced: if a field from nothing explains clearly more, or if elevations
            were stretched.
        """
        probe = ProbeField(self.config.probe_field, self._model, self._image_set, self._search)
        seed = draw_seed()
        first = best = self._fit(probe, self._cameras().detach(), seed)
        weights = probe.weights()
        for number in range(rounds):
            poses, num_moved = best.camera_to_worlds, 0
            worst_first = probe.worst_first(poses)  # it is still what was fitted to them
            for image in tracked(worst_first, f"trying other poses, round {number + 1} of at most {rounds}"):
                better = self._somewhere_better(probe, image, poses)
                if better is not None:
                    poses, num_moved = better, num_moved + 1
            if num_moved == 0:
                break
            present = self._fit(probe, poses, seed)
            required = first.explained_variance + self.config.min_gain if best is first else best.explained_variance
            is_better = present.explained_variance > required
            CONSOLE.print(
                f"Round {number + 1} of trying other poses moved {num_moved} of {len(poses)} images: a new field "
                f"explains {present.explained_variance:.0%} of how they differ ({best.explained_variance:.0%} before)"
                f"{'.' if is_better else ': too little, so they were moved back.'}"
            )
            if not is_better:
                break
            best, weights = present, probe.weights()
        poses, min_gain = best.camera_to_worlds, 0.0
        if best is first:
            poses, min_gain = self._cameras().detach(), self.config.min_gain_of_stretch
        stretched = self._stretched(probe, poses, min_gain)
        if stretched is not None:
            fit = self._fit(probe, stretched, seed)
            if math.isfinite(fit.explained_variance):
                best, weights = fit, probe.weights()
        if best is first:
            return False
        self._cameras.assign(torch.arange(len(self._image_set), device=self._model.device), best.camera_to_worlds)
        self._model.load_state_dict(weights)
        return True

    def _stretched(
        self, probe: ProbeField, camera_to_worlds: Float[Tensor, "n 3 4"], min_gain: float
    ) -> Optional[Float[Tensor, "n 3 4"]]:
        """Poses with elevations stretched as long as fresh fields explain more; None if that gains too little."""
        if self.config.max_stretches == 0:
            return None
        upward = self._cameras.codec.up()[:, 2].detach()
        seeds = [draw_seed() for _ in range(self.config.fields_per_stretch)]

        def stretched(steps: int) -> Float[Tensor, "n 3 4"]:
            return stretch_poses(camera_to_worlds, upward, self.config.stretch**steps)

        def explained(steps: int) -> float:
            poses = stretched(steps)

            def by_some(some: slice) -> Float[Tensor, "some"]:
                shares = []
                for seed in seeds[some]:  # the same for all steps, for a fair comparison
                    torch.manual_seed(seed)
                    probe.begin_anew()
                    shares.append(probe.fit(poses, self.config.steps_of_fit).explained_variance)
                return poses.new_tensor(shares)

            return float(self._search.ranks.rows(len(seeds), by_some).mean())

        as_they_are = share = explained(0)
        best = 0
        for direction in (1, -1):
            while abs(best) < self.config.max_stretches:
                further = explained(best + direction)
                if not further > share:  # nor where it is no number
                    break
                best, share = best + direction, further
            if best != 0:
                break
        if best == 0 or share < as_they_are + min_gain:
            return None
        CONSOLE.print(
            f"With the tangent of elevations {self.config.stretch**best:.2f} times as large, new fields explain "
            f"{share:.0%} of how the images differ ({as_they_are:.0%} before)."
        )
        return stretched(best)

    def _fit(self, probe: ProbeField, camera_to_worlds: Float[Tensor, "n 3 4"], seed: int) -> Fit:
        torch.manual_seed(seed)
        probe.begin_anew()
        fit, ranks = probe.fit(camera_to_worlds, self.config.steps_of_fit), self._search.ranks
        explained = ranks.of_first(torch.tensor(fit.explained_variance, device=self._model.device))
        return Fit(ranks.of_first(fit.camera_to_worlds), float(explained))

    def _somewhere_better(
        self, probe: ProbeField, image: int, camera_to_worlds: Float[Tensor, "n 3 4"]
    ) -> Optional[Float[Tensor, "n 3 4"]]:
        """Poses of all images after those moves that let the field explain most; None if that is no move."""
        neighbors = self._neighbors(image, camera_to_worlds)
        left_out = torch.zeros(len(camera_to_worlds), dtype=torch.bool, device=camera_to_worlds.device)
        left_out[[image, *neighbors]] = True
        probe.begin_anew()
        probe.learn(camera_to_worlds, self.config.steps_without, (~left_out).nonzero()[:, 0])
        self._search.ranks.make_equal(probe.search.model)
        without, seed = probe.weights(), draw_seed()
        tries = [{}, *self._moves(probe, image, neighbors, camera_to_worlds[image])]

        def explained_and_poses(some: slice) -> Float[Tensor, "some values"]:
            rows = []
            for moves in tries[some]:
                probe.put_back(without)
                tried = camera_to_worlds.clone()
                for moved, pose in moves.items():
                    tried[moved] = pose
                torch.manual_seed(seed)  # the same random pixels for every candidate, for a fair comparison
                fit = probe.fit(tried, self.config.steps_with)
                rows.append(torch.cat([tried.new_tensor([fit.explained_variance]), fit.camera_to_worlds.flatten()]))
            return torch.stack(rows)

        fits = self._search.ranks.rows(len(tries), explained_and_poses)
        best = int(fits[:, 0].nan_to_num(-torch.inf).argmax())
        return None if best == 0 else fits[best, 1:].view(-1, 3, 4)

    def _neighbors(self, image: int, camera_to_worlds: Float[Tensor, "n 3 4"]) -> List[int]:
        angles = angles_deg(camera_to_worlds, camera_to_worlds[image])
        angles[image] = torch.inf
        nearest = angles.argsort()[: min(self.config.max_neighbors, len(angles) // 2 - 1)]
        return nearest[angles[nearest] < self.config.neighbor_angle_deg].tolist()

    def _moves(self, probe: ProbeField, image: int, neighbors: List[int], present: Float[Tensor, "3 4"]) -> List[Moves]:
        """What to try: the image in each of the places where it fits best, alone and with its neighbors."""
        config, device = self.config, present.device
        chosen = torch.tensor([image, *neighbors], device=device)
        count = min(config.num_hypotheses, self._search.config.bank_size)
        (hypotheses, *of_neighbors), _ = probe.search.top_poses(self._image_set, count, chosen)
        places: List[Float[Tensor, "3 4"]] = []
        for pose in hypotheses:
            if bool((angles_deg(torch.stack([present, *places]), pose) > config.min_angle_deg).all()):
                places.append(pose)
            if len(places) == config.num_places:
                break
        if not places:
            return []
        same = torch.full((len(places),), image, device=device)
        tries: List[Moves] = []
        for place in probe.search.improve(self._image_set, same, torch.stack(places)[:, None])[:, 0]:
            alone: Moves = {image: place}
            together: Moves = dict(alone)
            for neighbor, candidates in zip(neighbors, of_neighbors, strict=True):
                near = candidates[angles_deg(candidates, place) < config.min_angle_deg]
                if len(near) > 0:
                    together[neighbor] = near[0]
            tries += [alone] if len(together) == 1 else [alone, together]
        return tries


def draw_seed() -> int:
    """A random number to draw the same random numbers from, as often as wanted."""
    return int(torch.randint(2**31, ()))


def angles_deg(camera_to_worlds: Float[Tensor, "n 3 4"], to: Float[Tensor, "3 4"]) -> Float[Tensor, "n"]:
    """Angles, in degrees, between the directions from the origin to cameras and to another one."""
    cosines = functional.cosine_similarity(camera_to_worlds[:, :, 3], to[None, :, 3], dim=1)
    return torch.rad2deg(torch.acos(cosines.clamp(-1.0, 1.0)))
