"""What happens at which step: phases A, AB and B as a function of the step (GNeRF section 3.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import List, Literal, Optional, Tuple

import tyro

from gnerf_ns.utils.annealing import geometric, linear
from gnerf_ns.utils.errors import InputError

FEW_IMAGES = 30
"""Of up to so many, each is a large part of what the field learns from."""

KNOWN_GROWTH = 5.0
"""Where poses are known to a degree or so, images need not begin smaller than by this factor."""

GROWTH_PER_RUNG = 1.15
"""Images that grow geometrically do so by about this factor at a time: a size is made of all images at once."""

FIRST_SEARCH = 150
"""Steps until a field that begins with known poses shows enough to find others in."""

GROUPS_AFTER = 0.4
"""Share of phase B after which images that matches place relative to each other, but not to the rest, are looked up.
The sharper the field, the better they fit: of two halves of fifty photographs, one came out 3 to 10 degrees off where
it was placed in a field of 150 steps, and less than 1 in one of 600. Once there, they take part in making the field."""

MIN_TO_LEAVE_OUT = 4
"""Fewer, without one of them, are no scene to look anything up in."""

POSE_BOOST_OF_FEW = 4.0
"""A field soon fits itself to poses of few images that move slowly. Twelve of Lego came to 0.34 degrees at the usual
rate, and to 0.25 and 0.21 at two and four times that; six, of which two were 5.4 degrees off, to 3.8 and 1.9 at most,
and to 3.0 at eight times."""

A_DOZEN, ENOUGH_FOR_DEPTH = 12, 25
"""Up to the first, images leave much open about depth; from the second on, holding matter together costs more
image quality than it gives accuracy of poses."""


@dataclass(frozen=True)
class StepPlan:
    """Everything that one training step needs to know about where training stands."""

    step: int
    """Training step, from 0."""
    phase: Literal["A", "B"]
    """A compares renderings at random poses with images; B fits each image at its own pose."""
    interleaved: bool
    """Whether the step lies in the stretch where A and B take turns (AB)."""
    phase_a_progress: float
    """Share of the pure A stretch that has passed, in [0, 1]."""
    phase_b_progress: float
    """Share of the pure B stretch that has passed, in [0, 1]."""
    image_side: int
    """Longer side that images are brought to, in pixels."""
    patch_scale: Tuple[float, float]
    """Range of the dynamic patches' scale, as a share of the image."""
    epsilon: float
    """Entropic regularization of the transport objective."""
    density_noise: float
    """Standard deviation of the noise on densities before activation."""
    active_levels: float
    """Share of the finer levels of detail that is switched on, in [0, 1]."""
    distortion_boost: float
    """How many times the model's own weight the distortion loss has."""
    searches_all_poses: bool
    """Whether every image's pose is looked up before this step, from nothing."""
    searches_misfit_poses: bool
    """Whether images are offered better poses before this step."""
    places_groups: bool
    """Whether groups of images without a pose are looked up before this step."""
    leave_out_rounds: int
    """Before this step, so often each image is looked up in a field that has not seen it."""

    @property
    def replaces_poses(self) -> bool:
        """Whether poses may be replaced before this step."""
        searches = self.searches_all_poses or self.searches_misfit_poses or self.places_groups
        return searches or self.leave_out_rounds > 0

    @property
    def name(self) -> str:
        """A, AB or B."""
        return "AB" if self.interleaved else self.phase


@dataclass
class PhaseScheduleConfig:
    """Lengths of the phases, and what changes along them."""

    phase_a_steps: int = 200
    """Steps of phase A alone."""
    interleaved_steps: int = 0
    """Steps in which A and B take turns."""
    phase_b_steps: int = 1100
    """Steps of phase B alone."""
    phase_a_attempts: Optional[int] = None
    """Number of phase-A attempts, each with its own seed; the best one is kept. None: 4 for 4 to 30 training images,
    otherwise 1; 1 where poses are not looked up."""
    leave_out_rounds: Optional[int] = None
    """Rounds, after the last attempt, in which each image is left out once of fields that begin anew, and looked up in
    them (`LeftOutInTurn`). None for 3 with 4 to 30 training images, and none with more; none where poses are not
    looked up."""
    two_turns_are_an_iteration: tyro.conf.Suppress[bool] = False
    """Whether an A and a B step of AB count as one in what decays by the step, as GNeRF does both in one iteration."""
    phase_a_image_side: tyro.conf.Suppress[Tuple[int, int]] = (16, 16)
    """Longer side of images at the beginning and at the end of phase A, in pixels."""
    interleaved_image_side: tyro.conf.Suppress[Optional[Tuple[int, int]]] = None
    """Longer side of images at the beginning and at the end of AB, in pixels; None for what A ended with."""
    phase_b_image_side: Tuple[int, Optional[int]] = (24, None)
    """Longer side of images at the beginning of phase B and after `growth_fraction` of it, in pixels; None for as large
    as they are."""
    image_growth: tyro.conf.Suppress[Literal["geometric", "linear"]] = "geometric"
    """How images grow between those ends: by equal factors (in phase B a rung at a time), or by equal numbers of
    pixels."""
    growth_fraction: float = 0.6
    """Share of phase B over which image side and levels of detail grow."""
    grows_levels: tyro.conf.Suppress[bool] = True
    """Whether levels of detail grow, or all are in use from the beginning: detail misleads poses that are still being
    found."""
    min_patch_scale: tyro.conf.Suppress[float] = 0.8
    """Smallest scale of a dynamic patch at step 0."""
    patch_scale_decay: tyro.conf.Suppress[float] = 2e-4
    """Rate at which that scale shrinks, per step."""
    patch_scale_hold: tyro.conf.Suppress[int] = 0
    """Steps before it begins to shrink."""
    patch_scale_floor: tyro.conf.Suppress[Literal["current", "final"]] = "current"
    """It never gets smaller than where a patch pixel is an image pixel: of images as large as at the step, or as
    large as they will be in the end."""
    patch_side: tyro.conf.Suppress[int] = 16
    """Side of the adversarial patches, in pixels; bounds how small their scale may get."""
    epsilon: tyro.conf.Suppress[Tuple[float, float]] = (0.05, 0.003)
    """Entropic regularization at the beginning and at the end of phase A; geometric in between."""
    density_noise: tyro.conf.Suppress[float] = 1.0
    """Noise on densities at step 0."""
    density_noise_steps: tyro.conf.Suppress[int] = 80
    """Steps over which that noise falls to 0."""
    distortion_boost: Optional[Tuple[float, float]] = None
    """How many times the model's own weight the distortion loss has at the beginning and at the end of phase B;
    geometric in between, and 1 before. Matter spread along their rays lets few images be explained from wrong
    poses. None for 15 with up to 12 training images, falling to 1 with 25."""
    pose_boost: tyro.conf.Suppress[Optional[float]] = None
    """How many times its usual one the poses' learning rate is in phase B. None for 4 with 4 to 30 training images that
    are looked up, otherwise 1."""
    looks_up_poses: tyro.conf.Suppress[bool] = True
    """Whether every pose is looked up at the end of phase A. Without, the pose table goes on with what phase A has
    left in it, as GNeRF's does: adversarial training pulls it towards the inversion network all along."""
    known_poses: tyro.conf.Suppress[Literal["none", "rough", "matched"]] = "none"
    """What poses training begins with: none; rough ones, some degrees off; or those of matches, of which colors know
    little more. Set by `with_known_poses`."""
    misfit_search_steps: tyro.conf.Suppress[Tuple[int, ...]] = (60, 150, 300, 600, 900)
    """Steps of phase B before which misfits are offered better poses."""

    def settled(self, num_images: int, image_side: Optional[int] = None) -> PhaseScheduleConfig:
        """The same for a number of training images, with nothing left open.

        Args:
            num_images: how many there are.
            image_side: their longer side, in pixels; None leaves open what follows from it.

        Raises:
            InputError: a figure is out of range.
        """
        self._check()
        are_few = MIN_TO_LEAVE_OUT <= num_images <= FEW_IMAGES
        likely = (3, 4) if are_few else (0, 1)
        chosen = (self.leave_out_rounds, self.phase_a_attempts)
        first, last = self.phase_b_image_side[0], self.phase_b_image_side[1] or image_side
        if last is not None:
            first = min(last, max(first, round(last / KNOWN_GROWTH)) if self.known_poses == "matched" else first)
        rounds, attempts = (left if mine is None else mine for mine, left in zip(chosen, likely, strict=True))
        return replace(
            self,
            leave_out_rounds=rounds if num_images >= MIN_TO_LEAVE_OUT else 0,
            phase_a_attempts=attempts if self.looks_up_poses else 1,
            phase_b_image_side=(first, last),
            distortion_boost=self.distortion_boost or _likely_distortion_boost(num_images),
            pose_boost=self.pose_boost or (POSE_BOOST_OF_FEW if are_few and self.looks_up_poses else 1.0),
        )

    @property
    def settled_image_side(self) -> Tuple[int, int]:
        """`phase_b_image_side` with nothing left open."""
        first, last = self.phase_b_image_side
        assert last is not None, "the schedule has to know how large the images are"
        return first, last

    def for_handheld_cameras(self) -> PhaseScheduleConfig:
        """The same with twice as long a phase A, which has to find distances, aims and rolls, too."""
        return replace(self, phase_a_steps=2 * self.phase_a_steps, density_noise_steps=2 * self.density_noise_steps)

    def with_known_poses(self, known_poses: Literal["rough", "matched"]) -> PhaseScheduleConfig:
        """The same where poses are known from the start: phase B alone, and nobody looked up from nothing."""
        if self.known_poses != "none":
            return replace(self, known_poses=known_poses)
        return replace(
            self,
            known_poses=known_poses,
            phase_a_steps=0,
            interleaved_steps=0,
            phase_a_attempts=1,
            density_noise=0.0,
            leave_out_rounds=0,
            looks_up_poses=False,
            misfit_search_steps=self._searches_with_known_poses(),
        )

    def _searches_with_known_poses(self) -> Tuple[int, ...]:
        """The first one places images that have no pose, for which there has to be something to see; it is not left out
        of a short run."""
        first = min(FIRST_SEARCH, self.phase_b_steps // 3)
        return (first, *(step for step in self.misfit_search_steps if step > first))

    def _check(self) -> None:
        lengths = ("phase_a_steps", "interleaved_steps", "phase_b_steps", "density_noise_steps")
        counts = (*lengths, "leave_out_rounds")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"The schedule's {name} is {value}; give 0 or more.")
        if self.phase_a_attempts is not None and self.phase_a_attempts < 1:
            raise InputError(f"The schedule's phase_a_attempts is {self.phase_a_attempts}; give 1 or more.")
        if not 0.0 < self.growth_fraction <= 1.0:
            raise InputError(f"The schedule's growth_fraction is {self.growth_fraction:g}; give more than 0, up to 1.")
        for name in (
            "phase_a_image_side",
            "interleaved_image_side",
            "phase_b_image_side",
            "epsilon",
            "distortion_boost",
        ):
            ends = getattr(self, name)
            if ends is not None and min(end for end in ends if end is not None) <= 0:
                raise InputError(f"The schedule's {name} is {ends}; give two positive numbers.")


@dataclass(frozen=True)
class Schedule:
    """What happens at which step of a run: a pure function of the step."""

    config: PhaseScheduleConfig
    """Lengths and values, with nothing left open (`PhaseScheduleConfig.settled`)."""
    phase_b_steps: int
    """Steps of phase B; fewer than planned where phase A had to begin anew."""
    begins_at: int = 0
    """Step at which the present attempt at phase A began."""
    attempts_left: int = 0
    """Number of planned attempts after it."""

    @classmethod
    def of(cls, config: PhaseScheduleConfig, num_images: int, image_side: int) -> Schedule:
        """The schedule of a run that begins; see `PhaseScheduleConfig.settled`."""
        settled = config.settled(num_images, image_side)
        return cls(settled, settled.phase_b_steps, attempts_left=(settled.phase_a_attempts or 1) - 1)

    def begun_anew(self, step: int, attempts_left: int = 0) -> Schedule:
        """The same with phase A beginning at a step, and the end where it was: if unplanned, phase B is shorter."""
        anew = replace(self, begins_at=step, attempts_left=attempts_left)
        return replace(anew, phase_b_steps=max(0, self.phase_b_steps + self.total_steps - anew.total_steps))

    @property
    def total_steps(self) -> int:
        """Length of a whole run."""
        # The explained variance of an attempt shows in the step after it.
        return self.attempts_left * (self.config.phase_a_steps + 1) + self.phase_a_end + self.phase_b_steps

    @property
    def interleaved_start(self) -> int:
        """First step after phase A alone."""
        return self.begins_at + self.config.phase_a_steps

    @property
    def phase_a_end(self) -> int:
        """First step after phases A and AB."""
        return self.interleaved_start + self.config.interleaved_steps

    def at(self, step: int) -> StepPlan:
        """Plan of one step. Steps past the end are like the last one."""
        interleaved = self.interleaved_start <= step < self.phase_a_end
        # AB starts with an A step and takes turns from there.
        in_phase_a = step < self.interleaved_start or (interleaved and (step - self.interleaved_start) % 2 == 0)
        age = step - self.begins_at
        a_progress = min(1.0, age / max(1, self.config.phase_a_steps))
        b_step = step - self.phase_a_end
        b_progress = min(1.0, max(0.0, b_step / max(1, self.phase_b_steps)))
        growth = min(1.0, b_progress / self.config.growth_fraction)
        image_side = self._image_side(step, growth)
        # One step later: only then it is known which attempt was the best.
        leaves_out = self.config.looks_up_poses and step == max(self.phase_a_end, self.interleaved_start + 1)
        return StepPlan(
            step=step,
            phase="A" if in_phase_a else "B",
            interleaved=interleaved,
            phase_a_progress=a_progress,
            phase_b_progress=b_progress,
            image_side=round(image_side),
            patch_scale=(self._smallest_patch_scale(step, image_side), 1.0),
            epsilon=geometric(self.config.epsilon, a_progress),
            density_noise=self.config.density_noise * max(0.0, 1.0 - age / max(1, self.config.density_noise_steps)),
            active_levels=growth if self.config.grows_levels else 1.0,
            distortion_boost=1.0 if b_step < 0 else geometric(self.config.distortion_boost or (1.0, 1.0), b_progress),
            searches_all_poses=self.config.looks_up_poses and step == self.interleaved_start,
            searches_misfit_poses=b_step in self.config.misfit_search_steps,
            places_groups=b_step in self._group_searches,
            leave_out_rounds=(self.config.leave_out_rounds or 0) if leaves_out else 0,
        )

    def iterations_before(self, step: int) -> int:
        """How much of what decays by the step has passed at the beginning of one."""
        if not self.config.two_turns_are_an_iteration:
            return step
        return step - (min(max(0, step - self.interleaved_start), self.config.interleaved_steps) + 1) // 2

    def first_step_after(self, iterations: int) -> int:
        """The step at whose beginning so many of `iterations_before` have passed."""
        if not self.config.two_turns_are_an_iteration:
            return iterations
        return iterations + min(
            max(0, iterations - self.config.phase_a_steps), (self.config.interleaved_steps + 1) // 2
        )

    @property
    def _group_searches(self) -> List[int]:
        """Steps of phase B before which groups that still wait are looked up: by the first search that is late enough,
        but never by the last of several, since misfits among them are to be found after that; and by those after it,
        in a run that was made shorter meanwhile."""
        searches = [step for step in self.config.misfit_search_steps if step < self.phase_b_steps]
        but_the_last = searches[:-1] or searches
        late = [step for step in but_the_last if step >= GROUPS_AFTER * self.phase_b_steps] or but_the_last[-1:]
        return [step for step in searches if step >= late[0]] if late else []

    def _image_side(self, step: int, growth: float) -> float:
        is_geometric = self.config.image_growth == "geometric"
        if step >= self.phase_a_end:
            return (_by_rungs if is_geometric else linear)(self.config.settled_image_side, growth)
        between = geometric if is_geometric else linear
        if step >= self.interleaved_start and self.config.interleaved_image_side is not None:
            return between(
                self.config.interleaved_image_side, (step - self.interleaved_start) / self.config.interleaved_steps
            )
        return between(
            self.config.phase_a_image_side, min(1.0, (step - self.begins_at) / max(1, self.config.phase_a_steps))
        )

    def _smallest_patch_scale(self, step: int, image_side: float) -> float:
        bounding_side = image_side if self.config.patch_scale_floor == "current" else self.config.settled_image_side[1]
        shrinking = max(0, self.iterations_before(step) - self.begins_at - self.config.patch_scale_hold)
        return max(
            self.config.min_patch_scale * math.exp(-self.config.patch_scale_decay * shrinking),
            min(1.0, self.config.patch_side / bounding_side),
        )


def _by_rungs(ends: Tuple[float, float], progress: float) -> float:
    """Geometric interpolation that stays for a while at each of a few values."""
    rungs = round(abs(math.log(ends[1] / ends[0])) / math.log(GROWTH_PER_RUNG))
    return ends[1] if rungs == 0 else geometric(ends, min(rungs, int(progress * (rungs + 1))) / rungs)


def _likely_distortion_boost(num_images: int) -> Tuple[float, float]:
    share = min(1.0, max(0.0, (num_images - A_DOZEN) / (ENOUGH_FOR_DEPTH - A_DOZEN)))
    boost = geometric((15.0, 1.0), share)
    return boost, boost
