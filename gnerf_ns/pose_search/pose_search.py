"""Global search: the pose from which a rendering looks most like an image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Callable, List, Optional, Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.cameras.look_at import aim_beside
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search.costs import ImageCosts
from gnerf_ns.pose_search.image_matching import ImageMatching, Matches, PlainMatching, ShiftTolerantMatching
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.utils.ranks import Ranks

PoseRegressor = Callable[[ImageSet], Float[Tensor, "n 3 4"]]
"""An inversion network: images to poses in one pass."""

BANK_PER_CHUNK, IMAGES_PER_CHUNK = 100, 256
"""So many renderings of a bank are compared with so many images at a time; bounds memory."""
WIDER_DEG, WIDER_RATIO, WIDER_JITTER = 50.0, 1.8, 0.3
"""How much higher, lower, nearer, farther and farther beside the middle other cameras may have been than known ones."""


class PoseProposals:
    """Poses to try, from a prior; where that leaves open what cameras were aimed at, matching finds it.

    Attributes:
        prior: of the poses that are drawn, all aimed at the origin.
        matching: how images are compared with renderings there; all of one size.
    """

    def __init__(
        self, prior: PosePrior, radius: Callable[[], float], canvas_radius: Optional[Callable[[], float]] = None
    ) -> None:
        """
        Args:
            prior: where images may have been taken from.
            radius: gives the camera distance that counts as 1 in the prior, in scene units; it may change with learned
                focal lengths.
            canvas_radius: gives the distance at which half the shorter side of the images, padding included, sees one
                unit; None where that is the same.
        """
        self.prior = prior.centered
        self._radius, self._canvas_radius = radius, canvas_radius or radius
        self._jitter = prior.look_at_jitter
        jitter = prior.look_at_jitter * self._canvas_radius()
        self.matching: ImageMatching = ShiftTolerantMatching(jitter) if jitter > 0.0 else PlainMatching()

    def wider(self) -> PoseProposals:
        """Cameras on all sides, higher and lower, nearer and farther than these, and aimed beside the middle."""
        low, high = self.prior.elevation_deg
        nearest, farthest = self.prior.radius
        prior = replace(
            self.prior,
            azimuth_deg=(0.0, 360.0),
            elevation_deg=(max(-90.0, low - WIDER_DEG), min(90.0, high + WIDER_DEG)),
            radius=(nearest / WIDER_RATIO, farthest * WIDER_RATIO),
            look_at_jitter=max(WIDER_JITTER, self._jitter),
        )
        return PoseProposals(prior, self._radius, self._canvas_radius)

    @property
    def radius(self) -> float:
        """The camera distance that counts as 1, in scene units, with the focal lengths as they are by now."""
        return self._radius()

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
        offsets = matches.shift[rows, columns] / self._canvas_radius()
        return aim_beside(poses, offsets * offsets.new_tensor([1.0, -1.0]))


@dataclass
class PoseSearchConfig:
    """How poses are looked up."""

    bank_size: int = 1000
    """Poses drawn from the prior, each rendered and compared with every image; a share of these where few images are
    looked up again and again."""
    image_side: int = 16
    """Longer side of those renderings, in pixels."""
    aim_temperature: float = 0.002
    """Cost that an image aimed elsewhere may have for being e times less likely, where the prior has jitter."""
    num_hypotheses: int = 8
    """The bank's best poses of each image, which are improved before they are compared with its present one."""
    improvement: Tuple[Tuple[float, int], ...] = ((0.06, 16), (0.04, 16), (0.03, 24), (0.02, 32))
    """Rounds by which hypotheses are improved: the standard deviation of random changes, as a share of the camera
    distance (and in radians for the rotation), and the longer side of the renderings, in pixels. The better half of
    the hypotheses survives a round."""
    changes_per_round: int = 6
    """How many changes of each hypothesis are tried in each round."""


class PoseSearch:
    """Looks images up in a bank of renderings, and improves what it finds by local search.

    Attributes:
        costs: how well the field explains images at poses.
        proposals: poses of the bank.
        codec: what a pose may be.
        ranks: who shares the work.
    """

    def __init__(
        self,
        config: PoseSearchConfig,
        model: GNeRFModel,
        proposals: PoseProposals,
        codec: PoseCodec,
        ranks: Optional[Ranks] = None,
    ) -> None:
        self.config = config
        self.model = model
        self.ranks = ranks or Ranks()
        self.renderer = ImageRenderer(model)
        self.costs = ImageCosts(self.renderer, model.evaluation_background, self.ranks)
        self.proposals = proposals
        self.codec = codec

    def of(self, model: GNeRFModel) -> PoseSearch:
        """The same search in another field."""
        return PoseSearch(self.config, model, self.proposals, self.codec, self.ranks)

    def with_bank(self, share: float) -> PoseSearch:
        """The same search with a bank that is smaller by such a factor."""
        config = replace(self.config, bank_size=math.ceil(share * self.config.bank_size))
        return PoseSearch(config, self.model, self.proposals, self.codec, self.ranks)

    @torch.no_grad()
    def top_poses(
        self, image_set: ImageSet, count: int, image_indices: Optional[Int[Tensor, "n"]] = None
    ) -> Tuple[Float[Tensor, "n {count} 3 4"], Float[Tensor, "n {count}"]]:
        """The bank's `count` best poses for each image, or for some of them, best first, and their costs."""
        size, num_ranks = self.config.bank_size, self.ranks.count
        num_chunks = num_ranks * math.ceil(size / BANK_PER_CHUNK / num_ranks)  # as many for each
        banks = [
            self.codec.up.from_z_up(self.proposals.sample(end - start, self.renderer.device))
            for start, end in _chunks(size, math.ceil(size / num_chunks))
        ]

        def best_of(some: slice) -> Float[Tensor, "some n count 13"]:
            return torch.stack([self._best_of_bank(image_set, count, bank, image_indices) for bank in banks[some]])

        # Rows of the last, smaller chunk are filled up with what costs infinitely much.
        found = self.ranks.rows(len(banks), best_of).transpose(0, 1).flatten(1, 2)
        lowest, best = found[..., 0].topk(count, dim=1, largest=False)
        rows = torch.arange(len(best), device=best.device)[:, None]
        return found[rows, best, 1:].unflatten(-1, (3, 4)), lowest

    def _best_of_bank(
        self,
        image_set: ImageSet,
        count: int,
        bank: Float[Tensor, "m 3 4"],
        image_indices: Optional[Int[Tensor, "n"]],
    ) -> Float[Tensor, "n {count} 13"]:
        """Costs and poses, in one tensor, of the best of some poses for each image."""
        matches = match_bank(
            self.renderer,
            image_set,
            bank,
            self.config.image_side,
            self.proposals.matching,
            self.model.evaluation_background,
            self.config.aim_temperature,
            image_indices,
        )
        lowest, best = matches.cost.topk(min(count, len(bank)), dim=1, largest=False)
        found = lowest.new_full((len(lowest), count, 13), torch.inf)
        found[:, : lowest.shape[1], 0] = lowest
        found[:, : lowest.shape[1], 1:] = self.proposals.matched_poses(bank, matches, best).flatten(2)
        return found

    @torch.no_grad()
    def improve(
        self, image_set: ImageSet, image_indices: Int[Tensor, "n"], hypotheses: Float[Tensor, "n count 3 4"]
    ) -> Float[Tensor, "n survivors 3 4"]:
        """Random local search around several poses of some images, and the best poses met, best first.

        What a bank offers is some degrees off; only the best nearby can be compared with a pose that was refined.
        """
        poses, changes = hypotheses, self.config.changes_per_round
        for std, side in self.config.improvement:
            n, count = poses.shape[:2]
            tried = torch.cat(
                [poses[:, :, None], self.codec.perturb(poses[:, :, None].expand(-1, -1, changes, -1, -1), std)], dim=2
            )
            each = image_indices.repeat_interleave(count * (changes + 1))
            cost = self.costs.at(image_set, each, tried.flatten(0, 2), side)
            lowest, winner = cost.view(n, count, changes + 1).min(dim=2)
            survivors = lowest.topk(math.ceil(count / 2), dim=1, largest=False).indices
            rows = torch.arange(n, device=poses.device)[:, None]
            poses = tried[rows, survivors, winner.gather(1, survivors)]
        return poses

    @torch.no_grad()
    def fitting_better(
        self, image_set: ImageSet, image_indices: Int[Tensor, "n"], current: Float[Tensor, "n 3 4"]
    ) -> Tuple[Bool[Tensor, "n"], Float[Tensor, "better 3 4"]]:
        """Which of some images fit better somewhere else, by however little, and their poses there.

        For a field that was not trained on them: in any other, the present poses have an advantage.

        Args:
            image_set: all of them.
            image_indices: which are looked up.
            current: present poses of those.
        """
        count = min(self.config.num_hypotheses, self.config.bank_size)
        hypotheses, _ = self.top_poses(image_set, count, image_indices)
        poses = self.improve(image_set, image_indices, hypotheses)[:, 0]
        side = self.config.image_side
        cost_there = self.costs.at(image_set, image_indices, poses, side)
        better = cost_there < self.costs.at(image_set, image_indices, current, side)
        return better, poses[better]


def _chunks(count: int, size: int) -> List[Tuple[int, int]]:
    """Where chunks of a size, the last of which may be smaller, begin and end."""
    return [(start, min(count, start + size)) for start in range(0, count, size)]


@torch.no_grad()
def match_bank(
    renderer: ImageRenderer,
    image_set: ImageSet,
    bank: Float[Tensor, "m 3 4"],
    image_side: int,
    matching: ImageMatching,
    background: Float[Tensor, "3"],
    temperature: float = 1.0,
    image_indices: Optional[Int[Tensor, "n"]] = None,
) -> Matches:
    """Compare images with renderings at poses that all of them share; all are taken to have a typical lens.

    Args:
        renderer: shows the field.
        image_set: all images.
        bank: poses to render.
        image_side: longer side of the renderings, in pixels.
        matching: how images are compared with renderings.
        background: color that transparent pixels of the images are laid over.
        temperature: see `ImageMatching.compare`.
        image_indices: which images; None for all.

    Returns:
        Matches of images (rows) with renderings.
    """
    size = image_set.size_at(image_side, multiple_of=4)
    typical = image_set.directions.typical.to(renderer.device)
    renderings = renderer.render_images(bank, image_set.directions, typical.expand(len(bank)), *size)
    described = matching.describe(renderings, background)
    everyone = torch.arange(len(image_set), device=bank.device) if image_indices is None else image_indices
    found = [
        matching.compare(
            matching.describe(image_set.resized(*size, background, some), background),
            described,
            size,
            temperature,
            image_set.validity(*size, some),
        )
        for some in everyone.split(IMAGES_PER_CHUNK)
    ]
    shifts = [matches.shift for matches in found if matches.shift is not None]
    return Matches(torch.cat([matches.cost for matches in found]), torch.cat(shifts) if shifts else None)
