"""Where held-out images were taken: found with the field frozen, from matches, from others nearby, or from nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import List, NamedTuple, Optional, Sequence, Tuple

import roma
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.hypotheses import learned_as
from gnerf_ns.pose_search.pose_search import PoseRegressor, PoseSearch
from gnerf_ns.pose_search.refinement import Localization, LocalizationConfig, RefinementConfig, localize_images
from gnerf_ns.training.placement import PoseOrigin, are_sure

MAX_TURN_DEG = 1.0
"""Matches know how an image was turned to within less than this: to 0.6 degrees in all of seven sets of photographs,
where held-out images came to be turned by up to 11 when only colors were compared."""
MAX_PLACES = 40
"""An image is tried where so many others were taken, at most,"""
BESIDE_OTHERS = LocalizationConfig(
    survivors=8, first=replace(LocalizationConfig().first, final_learning_rate=2e-3, last_image_side=48)
)
"""as this says: of a carton, four survivors were too few once in six times, and where they were chosen by renderings of
32 pixels, 8 of 36 images without a pose or with a wrong one went to the wrong side; by 48 pixels, 8 of 60;"""
MAX_COST_RATIO = 0.85
"""and goes elsewhere only if that lowers its squared color error to this share, as misfits in training do."""
FEWEST_TO_COMPARE, COMPARED_SIDE, USUAL = 4, 48, 0.75
"""With so many images that matches are sure of, one in doubt is compared with them, in so many pixels of its longer
side: it is to be shown as well as three quarters of them."""
STEPS_FROM_ONE = 200
"""Steps from the only pose that an image may have: in 300, held-out images of Lego came no nearer (0.10 degrees after
either)."""
IMAGES_PER_BATCH = 25
"""Held-out images refined together; bounds memory, which would grow without end. Fewer take as many steps, and those
take hardly less time."""
TRIED_TOGETHER = 4
"""The same of images that are tried beside others, each with as many hypotheses as there are places: about as many rays
as above."""


@dataclass
class EvalPosesConfig:
    """How poses of held-out images are estimated."""

    num_hypotheses: int = 4
    """Poses per image that are tried side by side, the best of the search."""
    localization: LocalizationConfig = field(
        default_factory=lambda: LocalizationConfig(
            survivors=1,
            first=RefinementConfig(
                steps=100, rays_per_hypothesis=40, final_learning_rate=1e-3, first_image_side=24, last_image_side=48
            ),
            second=RefinementConfig(steps=0),
            last=RefinementConfig(),
            # The search begins near enough, and what runs are compared by was measured with all pixels alike.
            ray_selection="random",
            comparison_side=16,
        )
    )
    """Their refinement; with so many hypotheses from a search, one round of pruning is enough."""


class HeldOutGuess(NamedTuple):
    """What is known of where held-out images were taken, in a run that began with known poses."""

    camera_to_worlds: Float[Tensor, "m 3 4"]
    """Where they were taken if they are where training has brought those around them; NaN where nothing is known."""
    origins: Int[Tensor, "m"]
    """Where these are from: `PoseOrigin`."""
    are_matches_sharp: bool
    """Whether matches know poses better than colors do."""
    are_fixed: bool
    """Whether those that are known stay as they are."""
    others: Float[Tensor, "n 3 4"]
    """Poses of the images that the field was trained on."""


def find_held_out_poses(
    config: EvalPosesConfig,
    image_set: ImageSet,
    search: PoseSearch,
    regress: Optional[PoseRegressor] = None,
    guess: Optional[HeldOutGuess] = None,
) -> Tuple[Float[Tensor, "m 3 4"], Int[Tensor, "m"]]:
    """Where held-out images were taken, and where each pose is from (`PoseOrigin`); the field is frozen.

    Without a guess they are looked up. With one, those that are in doubt are tried where others were taken, too, and
    none ends far from where sharp matches put it.

    Args:
        config: how they are looked up.
        image_set: the held-out images.
        search: global search over the prior in the trained field.
        regress: the run's inversion network, if it has one.
        guess: what is known of them.
    """
    if guess is None:
        poses = looked_up(config, image_set, search, regress)
        return poses, torch.full((len(poses),), PoseOrigin.LOOKED_UP, device=poses.device)
    known, is_known = guess.camera_to_worlds, guess.camera_to_worlds.isfinite().all(dim=(1, 2))
    if guess.are_fixed and bool(is_known.all()):
        return known, guess.origins
    poses, is_held = known.clone(), is_known & _are_held(guess.origins, guess.are_matches_sharp)
    if bool(is_held.any()):
        # Those would not be believed anywhere else, so that nothing else is tried.
        begun = is_known.nonzero()[:, 0]
        poses[begun] = refined(config, image_set[begun], search, known[begun][:, None])
        is_settled = is_held | shown_as_well(image_set, search, poses, is_known, is_known & are_sure(guess.origins))
        unsure = (~is_settled).nonzero()[:, 0]
        starts = starting_poses(config, image_set[unsure], search, regress) if len(unsure) > 0 else poses[unsure, None]
    else:
        poses = looked_up(config, image_set, search, regress, known if bool(is_known.any()) else None)
        unsure = unsure_images(poses, known, guess.origins, guess.are_matches_sharp)
        starts, begun = poses[unsure, None], unsure[is_known[unsure]]
        poses[begun] = refined(config, image_set[begun], search, known[begun][:, None])
    poses[unsure] = tried_beside_others(image_set[unsure], search, poses[unsure], starts, guess.others)
    if guess.are_fixed:
        poses = torch.where(is_known[:, None, None], known, poses)
    return held_to_guess(poses, known, guess.origins, guess.are_matches_sharp)


def shown_as_well(
    image_set: ImageSet,
    search: PoseSearch,
    camera_to_worlds: Float[Tensor, "m 3 4"],
    is_known: Bool[Tensor, "m"],
    is_sure: Bool[Tensor, "m"],
) -> Bool[Tensor, "m"]:
    """Which images the field shows as well from their poses as it shows those that matches are sure of: there is no
    reason to look for them elsewhere, which takes as long for one as for all of those.

    Args:
        image_set: the held-out images.
        search: in the trained field.
        camera_to_worlds: of images that have a pose.
        is_known: which these are.
        is_sure: which of them matches are sure of.
    """
    if int(is_sure.sum()) < FEWEST_TO_COMPARE:
        return torch.zeros_like(is_sure)
    known = is_known.nonzero()[:, 0]
    cost = search.costs.contrast(image_set, COMPARED_SIDE)
    cost[known] = search.costs.at(image_set, known, camera_to_worlds[known], COMPARED_SIDE) / cost[known]
    return is_known & (cost <= cost[is_sure].quantile(USUAL))


def looked_up(
    config: EvalPosesConfig,
    image_set: ImageSet,
    search: PoseSearch,
    regress: Optional[PoseRegressor] = None,
    guess: Optional[Float[Tensor, "m 3 4"]] = None,
) -> Float[Tensor, "m 3 4"]:
    """Poses of images that the field was not trained on, from nothing, the field frozen (GNeRF section 3.4).

    Args:
        config: how.
        image_set: the held-out images.
        search: global search over the prior in the trained field.
        regress: the run's inversion network, if it has one; its pose is one more hypothesis.
        guess: another one for each image, NaN for none.
    """
    starts = starting_poses(config, image_set, search, regress)
    if guess is not None:
        starts = torch.cat([torch.where(guess.isfinite(), guess, starts[:, 0])[:, None], starts], dim=1)
    return refined(config, image_set, search, starts)


def starting_poses(
    config: EvalPosesConfig, image_set: ImageSet, search: PoseSearch, regress: Optional[PoseRegressor] = None
) -> Float[Tensor, "m hypotheses 3 4"]:
    """A few poses of each image that a global search finds likely, and the one that the inversion network says."""
    starts = search.top_poses(image_set, config.num_hypotheses)[0]
    return starts if regress is None else torch.cat([regress(image_set)[:, None], starts], dim=1)


def refined(
    config: EvalPosesConfig, image_set: ImageSet, search: PoseSearch, starts: Float[Tensor, "m hypotheses 3 4"]
) -> Float[Tensor, "m 3 4"]:
    """Where the best of some poses of each image leads; of a single one, without a round by which it is found."""
    if len(starts) == 0:
        return starts[:, 0]
    localization = config.localization
    if starts.shape[1] == 1:
        last = replace(localization.last, steps=min(localization.last.steps, STEPS_FROM_ONE))
        localization = replace(localization, first=RefinementConfig(steps=0), last=last)
    return _poses(_localized(localization, image_set, search, starts, IMAGES_PER_BATCH))


def _localized(
    config: LocalizationConfig,
    image_set: ImageSet,
    search: PoseSearch,
    starts: Float[Tensor, "m hypotheses 3 4"],
    together: int,
) -> List[Localization]:
    """Images refined a few together."""
    found: List[Localization] = []
    for some in torch.arange(len(image_set), device=starts.device).split(together):
        found += localize_images(config, search.renderer, image_set[some], starts[some], learned_as(search.codec))
    return found


def _poses(found: Sequence[Localization]) -> Float[Tensor, "m 3 4"]:
    return torch.stack([localization.camera_to_world for localization in found])


def unsure_images(
    camera_to_worlds: Float[Tensor, "m 3 4"],
    guess: Float[Tensor, "m 3 4"],
    origins: Int[Tensor, "m"],
    are_matches_sharp: bool,
) -> Int[Tensor, "unsure"]:
    """Held-out images whose place nobody told, or matches that are in doubt, or rough ones that colors do not confirm.

    Args:
        camera_to_worlds: as estimated in the field.
        guess: where estimation began; NaN for images that were looked up.
        origins: where the guesses are from: `PoseOrigin`.
        are_matches_sharp: whether matches know poses better than colors do.
    """
    unsure = (PoseOrigin.LOOKED_UP, PoseOrigin.DOUBTFUL_MATCHES, PoseOrigin.DOUBTFUL_GROUP)
    is_unsure = torch.isin(origins, torch.tensor(unsure).to(origins))
    is_rough = (origins == PoseOrigin.MATCHES) | (origins == PoseOrigin.GROUP)
    if not are_matches_sharp:
        is_unsure |= is_rough & ~_have_stayed(camera_to_worlds, guess)
    return is_unsure.nonzero()[:, 0]


def _have_stayed(camera_to_worlds: Float[Tensor, "m 3 4"], guess: Float[Tensor, "m 3 4"]) -> Bool[Tensor, "m"]:
    turned = torch.rad2deg(roma.rotmat_geodesic_distance(camera_to_worlds[..., :3], guess[..., :3].nan_to_num(0.0)))
    return (turned < MAX_TURN_DEG) & guess.isfinite().all(dim=(1, 2))


def tried_beside_others(
    image_set: ImageSet,
    search: PoseSearch,
    near: Float[Tensor, "m 3 4"],
    estimated: Float[Tensor, "m hypotheses 3 4"],
    others: Float[Tensor, "n 3 4"],
) -> Float[Tensor, "m 3 4"]:
    """Poses of images where they are, or, if they fit clearly better there, near where others were, or where they are
    estimated to have been.

    Photos are taken near each other, from where a walk around the object led and as the hands held the camera then: few
    other poses are so likely, and a bank of level ones may have none that is near.

    Args:
        image_set: these images.
        search: whose field is frozen.
        near: the best poses near where they are guessed to have been taken; NaN where there is no guess.
        estimated: others that they may have.
        others: poses of the images that the field was trained on.
    """
    if len(near) == 0:
        return near
    some = others[torch.linspace(0, len(others) - 1, min(MAX_PLACES, len(others))).round().long()]
    starts = torch.cat([estimated, some.expand(len(near), -1, -1, -1)], dim=1)
    elsewhere = _localized(BESIDE_OTHERS, image_set, search, starts, TRIED_TOGETHER)
    near = torch.where(near.isfinite(), near, _poses(elsewhere))
    none = RefinementConfig(steps=0)
    # No pixels are chosen, so that no keypoints need be found.
    only_compared = replace(BESIDE_OTHERS, first=none, second=none, last=none, ray_selection="random")
    as_it_is = _localized(only_compared, image_set, search, near[:, None], TRIED_TOGETHER)
    pairs = zip(as_it_is, elsewhere, strict=True)
    return _poses([there if there.error**2 < MAX_COST_RATIO * here.error**2 else here for here, there in pairs])


def held_to_guess(
    camera_to_worlds: Float[Tensor, "m 3 4"],
    guess: Float[Tensor, "m 3 4"],
    origins: Int[Tensor, "m"],
    are_matches_sharp: bool,
) -> Tuple[Float[Tensor, "m 3 4"], Int[Tensor, "m"]]:
    """Poses of held-out images, none far from where sharp matches say that it was taken; and where they are from.

    A field's image of what it was not trained on is no better a judge than hundreds of matched points.

    Args:
        camera_to_worlds: as estimated in the field.
        guess: where estimation began; NaN for images that were looked up.
        origins: where the guesses are from: `PoseOrigin`.
        are_matches_sharp: whether matches know poses better than colors do.
    """
    has_stayed = _have_stayed(camera_to_worlds, guess)
    is_sure = _are_held(origins, are_matches_sharp)
    is_kept = (is_sure & ~has_stayed) | (origins == PoseOrigin.CONFIRMED)
    # Where even the colors do not agree with matches that are in doubt, it is all the more in doubt.
    is_doubtful = (origins == PoseOrigin.DOUBTFUL_MATCHES) | (origins == PoseOrigin.DOUBTFUL_GROUP)
    return (
        torch.where(is_kept[:, None, None], guess, camera_to_worlds),
        torch.where(is_kept | is_sure | is_doubtful | has_stayed, origins, PoseOrigin.LOOKED_UP),
    )


def _are_held(origins: Int[Tensor, "m"], are_matches_sharp: bool) -> Bool[Tensor, "m"]:
    """Which images are believed nowhere but near where matches put them."""
    return (are_sure(origins) | (origins == PoseOrigin.GROUP)) & are_matches_sharp
