"""Global search: the pose from which a rendering looks most like an image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Callable, Optional, Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import FocalScales
from gnerf_ns.cameras.look_at import aim_beside
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search.hypotheses import Hypotheses, learned_as
from gnerf_ns.pose_search.image_matching import (
    ImageMatching,
    Matches,
    PlainMatching,
    ShiftTolerantMatching,
    pyramid_features,
)
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pixel_sampling import PixelChoice
from gnerf_ns.pose_search.refinement import RefinementConfig, refine_poses


class PoseMatcher:
    """Draws poses from a prior; where that leaves open what cameras were aimed at, matching finds it.

    Attributes:
        prior: of the poses that are drawn, all aimed at the origin.
        matching: how images are compared with renderings there; all of one size.
    """

    def __init__(self, prior: PosePrior, radius: float, focal_scales: Optional[FocalScales] = None) -> None:
        """
        Args:
            prior: where images may have been taken from.
            radius: the camera distance that counts as 1 in the prior, in scene units; half the shorter side of a
                image sees one unit there.
            focal_scales: where focal lengths are learned; the camera distance grows with them.
        """
        self.prior = prior.centered
        self._radius = radius
        self._focal_scales = focal_scales
        jitter = prior.look_at_jitter * radius
        self.matching: ImageMatching = ShiftTolerantMatching(jitter) if jitter > 0.0 else PlainMatching()

    @property
    def radius(self) -> float:
        """The camera distance that counts as 1, in scene units, with the focal lengths as they are by now."""
        return self._radius if self._focal_scales is None else self._radius * float(self._focal_scales.typical)

    def sample(self, count: int, device: torch.device) -> Float[Tensor, "count 3 4"]:
        """Poses at which to render, all aimed at the origin."""
        return self.prior.sample(count, self.radius, device)

    def matched_poses(
        self, camera_to_worlds: Float[Tensor, "m 3 4"], matches: Matches, columns: Int[Tensor, "n *count"]
    ) -> Float[Tensor, "n *count 3 4"]:
        """Poses of images that are matched with renderings: the renderings', aimed as the images were.

        Args:
            camera_to_worlds: poses of the renderings.
            matches: of images (rows) with those.
            columns: which rendering(s) each image is matched with.
        """
        poses = camera_to_worlds[columns]
        if matches.shift is None:
            return poses
        rows = torch.arange(len(columns), device=columns.device).view(-1, *([1] * (columns.ndim - 1)))
        offsets = matches.shift[rows, columns] / self.radius
        return aim_beside(poses, offsets * offsets.new_tensor([1.0, -1.0]))


PoseRegressor = Callable[[ImageSet], Float[Tensor, "n 3 4"]]
"""An inversion network: images to poses in one pass."""

BANK_PER_CHUNK = 100
"""Renderings of the bank compared at a time; bounds memory."""


@dataclass
class PoseSearchConfig:
    """How poses are looked up."""

    bank_size: int = 1000
    """Poses drawn from the prior, each rendered and compared with every image."""
    image_side: int = 16
    """Longer side of those renderings, in pixels."""
    aim_temperature: float = 0.002
    """Cost that an image aimed elsewhere may have for being e times less likely, where the prior has jitter."""
    misfit_share: float = 0.1
    """Largest share of the images, those that fit worst, whose poses are searched again."""
    min_misfits: int = 8
    """So many of them may be, however few images there are."""
    misfit_cost_ratio: float = 1.5
    """An image is a misfit if its cost, relative to its own contrast, is more than so many times the median's."""
    num_hypotheses: int = 8
    """The bank's best poses of each of them, which are improved before they are held against the present one."""
    outlier_cost_ratio: float = 3.0
    """The worst of them is an outlier if its relative cost is more than so many times the median's."""
    num_outlier_hypotheses: int = 80
    """An outlier has so many hypotheses: it may show little that tells poses apart."""
    num_outlier_finalists: int = 8
    """So many of the bank's best, and those that improvement leaves, are refined before one is chosen."""
    outlier_refinement: RefinementConfig = field(
        default_factory=lambda: RefinementConfig(
            steps=60, rays_per_hypothesis=80, learning_rate=1e-2, final_learning_rate=2e-3, last_image_side=48
        )
    )
    """How they are: by gradient descent, all together."""
    improvement: Tuple[Tuple[float, int], ...] = ((0.06, 16), (0.04, 16), (0.03, 24), (0.02, 32))
    """Rounds by which hypotheses are improved: the standard deviation of random changes, as a share of the camera
    distance (and in radians for the rotation), and the longer side of the renderings, in pixels. The better half of
    the hypotheses survives a round."""
    changes_per_round: int = 6
    """How many changes of each hypothesis are tried in each round."""
    max_confirmation_side: int = 48
    """Longer side of the renderings by which misfits are told, and the best hypothesis is held against the present
    pose: that of the images as they are trained on by then, but at most so many pixels."""
    required_cost_ratio: float = 0.85
    """An image that has a pose already moves only if the best hypothesis lowers its cost to this share."""


class PoseSearch:
    """Looks images up in a bank of renderings at poses drawn from the prior."""

    def __init__(self, config: PoseSearchConfig, model: GNeRFModel, matcher: PoseMatcher, codec: PoseCodec) -> None:
        self.config = config
        self.model = model
        self.field = ImageRenderer(model)
        self.matcher = matcher
        self.codec = codec

    def best_poses(self, image_set: ImageSet) -> Tuple[Float[Tensor, "n 3 4"], Float[Tensor, "n"]]:
        """The bank's best pose for each image, and its cost as the matcher has it."""
        poses, cost = self.top_poses(image_set, 1)
        return poses[:, 0], cost[:, 0]

    @torch.no_grad()
    def top_poses(
        self, image_set: ImageSet, count: int, chosen: Optional[Int[Tensor, "n"]] = None
    ) -> Tuple[Float[Tensor, "n {count} 3 4"], Float[Tensor, "n {count}"]]:
        """The bank's `count` best poses for each image, or for chosen ones, best first, and their costs."""
        background = self.model.evaluation_background
        size = self._size(image_set)
        described = self.matcher.matching.describe(image_set.resized(*size, background, chosen), background)
        typical = image_set.directions.typical.to(self.model.device)
        costs, poses = [], []
        for start in range(0, self.config.bank_size, BANK_PER_CHUNK):
            level = self.matcher.sample(min(BANK_PER_CHUNK, self.config.bank_size - start), self.model.device)
            bank = self.codec.up.from_z_up(level)
            renderings = self.field.render_images(bank, image_set.directions, typical.expand(len(bank)), *size)
            matches = self.matcher.matching.compare(
                described, self.matcher.matching.describe(renderings, background), size, self.config.aim_temperature
            )
            lowest, best = matches.cost.topk(min(count, len(bank)), dim=1, largest=False)
            costs.append(lowest)
            poses.append(self.matcher.matched_poses(bank, matches, best))
        lowest, best = torch.cat(costs, dim=1).topk(count, dim=1, largest=False)
        return torch.cat(poses, dim=1)[torch.arange(len(best), device=best.device)[:, None], best], lowest

    @torch.no_grad()
    def cost_at(
        self,
        image_set: ImageSet,
        chosen: Int[Tensor, "n"],
        camera_to_worlds: Float[Tensor, "n 3 4"],
        image_side: Optional[int] = None,
        flipped: bool = False,
    ) -> Float[Tensor, "n"]:
        """Cost of chosen images, each at a pose of its own (`pyramid_features`' squared distance).

        Args:
            image_set: all of them.
            chosen: which ones, as often as poses are to be tried for them.
            camera_to_worlds: those poses.
            image_side: longer side of what is compared, in pixels; None for the bank's.
            flipped: whether images are compared with the renderings' mirror images, left for right.
        """
        background = self.model.evaluation_background
        size = self._size(image_set, image_side)
        renderings = self.field.render_images(
            camera_to_worlds, image_set.directions, chosen.to(self.field.device), *size
        )
        if flipped:
            renderings = renderings.flip(-1)
        images = image_set.resized(*size, background, chosen)
        return (pyramid_features(images) - pyramid_features(renderings)).square().sum(1)

    @torch.no_grad()
    def explained_variance(
        self, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"], image_side: Optional[int] = None
    ) -> float:
        """How much of what tells the images apart is also in renderings at their poses.

        Args:
            image_set: all of them.
            camera_to_worlds: their poses.
            image_side: as in `cost_at`.

        Returns:
            1 where every image is rendered as it is; 0 where all are rendered as the mean image, or with
            errors as large; less where renderings are empty.
        """
        everyone = torch.arange(len(image_set), device=camera_to_worlds.device)
        cost = self.cost_at(image_set, everyone, camera_to_worlds, image_side)
        return 1.0 - float(cost.mean() / self.variance(image_set, image_side).clamp_min(1e-12))

    @torch.no_grad()
    def relative_cost(
        self, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"], image_side: int
    ) -> Float[Tensor, "n"]:
        """Cost of every image at its pose, as in `cost_at`, in units of the image's own contrast."""
        everyone = torch.arange(len(image_set), device=camera_to_worlds.device)
        cost = self.cost_at(image_set, everyone, camera_to_worlds, image_side)
        return cost / self._contrast(image_set, image_side)

    def variance(self, image_set: ImageSet, image_side: Optional[int] = None) -> Float[Tensor, ""]:
        """Mean cost of images against the mean image, with the longer side in pixels as in `cost_at`."""
        size = self._size(image_set, image_side)
        images = pyramid_features(image_set.resized(*size, self.model.evaluation_background))
        return (images - images.mean(dim=0)).square().sum(dim=1).mean()

    @torch.no_grad()
    def improve(
        self, image_set: ImageSet, chosen: Int[Tensor, "n"], hypotheses: Float[Tensor, "n count 3 4"]
    ) -> Float[Tensor, "n survivors 3 4"]:
        """Random local search around several poses of each chosen image, and the best poses met, best first.

        What a bank offers is some degrees off; only the best nearby can be held against a pose that was refined.
        """
        poses, changes = hypotheses, self.config.changes_per_round
        for std, side in self.config.improvement:
            n, count = poses.shape[:2]
            tried = torch.cat(
                [poses[:, :, None], self.codec.perturb(poses[:, :, None].expand(-1, -1, changes, -1, -1), std)], dim=2
            )
            each = chosen.repeat_interleave(count * (changes + 1))
            cost = self.cost_at(image_set, each, tried.flatten(0, 2), side)
            lowest, winner = cost.view(n, count, changes + 1).min(dim=2)
            survivors = lowest.topk(math.ceil(count / 2), dim=1, largest=False).indices
            rows = torch.arange(n, device=poses.device)[:, None]
            poses = tried[rows, survivors, winner.gather(1, survivors)]
        return poses

    @torch.no_grad()
    def fitting_better(
        self, image_set: ImageSet, chosen: Int[Tensor, "n"], current: Float[Tensor, "n 3 4"]
    ) -> Tuple[Bool[Tensor, "n"], Float[Tensor, "better 3 4"]]:
        """Which of the chosen images fit better somewhere else, by however little, and their poses there.

        For a field that was not trained on them: in any other, the present poses have an advantage.

        Args:
            image_set: all of them.
            chosen: which are looked up.
            current: present poses of those.
        """
        hypotheses, _ = self.top_poses(image_set, self.config.num_hypotheses, chosen)
        poses = self.improve(image_set, chosen, hypotheses)[:, 0]
        better = self.cost_at(image_set, chosen, poses) < self.cost_at(image_set, chosen, current)
        return better, poses[better]

    @torch.no_grad()
    def better_poses(
        self, image_set: ImageSet, current: Float[Tensor, "n 3 4"], image_side: int
    ) -> Tuple[Int[Tensor, "moved"], Float[Tensor, "moved 3 4"]]:
        """Images that fit clearly better somewhere else, and their poses there.

        Args:
            image_set: all of them.
            current: their present poses.
            image_side: longer side, in pixels, up to which the field has detail.

        Returns:
            Indices of the images to move, and where to.
        """
        config = self.config
        side = max(config.image_side, min(image_side, config.max_confirmation_side))
        cost = self.relative_cost(image_set, current, side)
        relative = cost / cost.median()
        limit = max(config.min_misfits, math.ceil(config.misfit_share * len(image_set)))
        worst = relative.topk(min(limit, len(image_set))).indices
        misfits = worst[relative[worst] > config.misfit_cost_ratio]
        if len(misfits) == 0:
            return misfits, current[misfits]
        count = min(config.num_outlier_hypotheses, config.bank_size)
        hypotheses, _ = self.top_poses(image_set, count, misfits)
        poses = self.improve(image_set, misfits, hypotheses[:, : config.num_hypotheses])[:, 0]
        if relative[misfits[0]] > config.outlier_cost_ratio:
            poses[0] = self._best_refined(image_set, misfits[:1], hypotheses[:1], side)
        cost_there = self.cost_at(image_set, misfits, poses, side) / self._contrast(image_set, side)[misfits]
        moved = cost_there < config.required_cost_ratio * cost[misfits]
        return misfits[moved], poses[moved]

    def _best_refined(
        self, image_set: ImageSet, outlier: Int[Tensor, "1"], hypotheses: Float[Tensor, "1 count 3 4"], side: int
    ) -> Float[Tensor, "3 4"]:
        """Where gradient descent gets to from the best of what the bank and random search offer."""
        improved = self.improve(image_set, outlier, hypotheses)
        finalists = torch.cat([improved[0], hypotheses[0, : self.config.num_outlier_finalists]])
        each = outlier.expand(len(finalists))
        refined = Hypotheses(image_set, each, finalists, learned_as(self.codec))
        pixels = PixelChoice(image_set, "random", self.field.background)
        refine_poses(self.config.outlier_refinement, self.field, pixels, refined)
        poses = refined.poses()
        return poses[self.cost_at(image_set, each, poses, side).argmin()]

    def _contrast(self, image_set: ImageSet, image_side: int) -> Float[Tensor, "n"]:
        """Cost of each image against its mean color: little in a corner of the image has little."""
        images = image_set.resized(*self._size(image_set, image_side), self.model.evaluation_background)
        contrast = pyramid_features(images - images.mean(dim=(2, 3), keepdim=True)).square().sum(dim=1)
        return contrast.clamp_min(1e-9)

    def _size(self, image_set: ImageSet, image_side: Optional[int] = None) -> Tuple[int, int]:
        return image_set.size_at(image_side or self.config.image_side, multiple_of=4)
