"""How many rays a run renders, and when: what a run costs, without a clock."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
import torch
from analytic_scene import RADIUS, Nothing, cameras, model_of
from nerfstudio.cameras.rays import RayBundle
from tiny_run import SCHEDULE, build_trainer, trainer_config

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search import image_renderer, refinement
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.training.held_out_poses import IMAGES_PER_BATCH, EvalPosesConfig, looked_up
from gnerf_ns.training.schedule import PhaseScheduleConfig

TRAIN, HELD_OUT = 7, 2
BANK, SMALL = 10, 8 * 8
"""Poses that are looked up in, and the pixels of images that searches compare, as the tiny run has them."""
IMPROVED = 2 * (2 + 1) * SMALL
"""Two hypotheses, each with two changes, of one image."""
REFINED = 3 * 4
"""Steps and rays of a refinement of one hypothesis."""


@pytest.fixture
def rays_by_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Dict[Any, Counter]]:
    """Has a trainer count the rays that it renders: of each step by mode, and of what comes after the last."""

    def count(trainer: Any) -> Dict[Any, Counter]:
        counts: Dict[Any, Counter] = {}
        now: list = ["before"]
        render, step_of = GNeRFModel.render, trainer.pipeline.get_train_loss_dict

        def counted(model: GNeRFModel, rays: RayBundle, **options: Any) -> Any:
            kind = "training" if model.training else "searching"
            counts.setdefault(now[0], Counter())[kind] += len(rays)
            return render(model, rays, **options)

        def counted_step(step: int) -> Any:
            now[0] = step
            result = step_of(step)
            now[0] = f"after {step}"
            return result

        monkeypatch.setattr(GNeRFModel, "render", counted)
        monkeypatch.setattr(trainer.pipeline, "get_train_loss_dict", counted_step)
        return counts

    return count


def test_a_run_renders_the_rays_that_its_schedule_says_and_no_others(
    tiny_scene: Path, tmp_path: Path, rays_by_step: Any
):
    """Nothing is rendered between the steps, as long as nerfstudio is not told to evaluate."""
    config = trainer_config(tiny_scene, tmp_path, "transport", steps_per_eval_image=10**9, steps_per_save=10**9)
    trainer = build_trainer(config)
    pipeline = trainer.pipeline
    # All images are misfits, and one is an outlier.
    pipeline.config.misfits.cost_ratio = pipeline.config.misfits.outlier_cost_ratio = -1.0
    counts = rays_by_step(trainer)
    trainer.train()
    assert counts.keys() == {*range(12), "after 11"}

    training = [counts[step]["training"] for step in range(12)]
    assert training == [*[5 * 8 * 8] * 3, 5 * 12 * 12, *[64] * 8]
    searching = {step: counts[step]["searching"] for step in range(12) if counts[step]["searching"]}
    look_up = BANK * SMALL + TRAIN * SMALL  # and what the poses explain
    # Costs where they are and where they were found, at the side that images are trained on; the bank; hypotheses
    # improved, in ten places more for the outlier; its finalists refined and compared.
    detail, finalists = 12 * 12, 5 + 8
    misfits = 2 * TRAIN * detail + BANK * SMALL + TRAIN * IMPROVED
    misfits += BANK * (2 + 1) * SMALL + finalists * (REFINED + detail)
    assert searching == {3: look_up, 7: misfits}

    # The bank, two hypotheses refined and compared, one of them twice more; surface points; whole images, for their
    # PSNR; then the ambiguity of the poses.
    compared = 16 * 16
    held_out = BANK * SMALL + HELD_OUT * (4 * (REFINED + compared) + compared)
    surface = int((pipeline.datamanager.train_images.pixels[..., 3] >= 128).sum())
    ambiguity = counts["after 11"]["searching"] - held_out - surface
    assert counts["after 11"]["training"] == 0
    # At least costs at present; at most all turns and the mirror image, at both sizes.
    assert 0 <= ambiguity <= TRAIN * 2 * 13 * compared


@pytest.mark.parametrize("attempts", [1, 3])
def test_attempts_and_rounds_cost_what_the_schedule_says(
    tiny_scene: Path, tmp_path: Path, rays_by_step: Any, attempts: int
):
    config = trainer_config(
        tiny_scene, tmp_path, "transport", steps_per_eval_image=10**9, steps_per_save=10**9, max_num_iterations=None
    )
    config.pipeline.schedule = PhaseScheduleConfig(
        **{
            **SCHEDULE,
            "phase_a_attempts": attempts,
            "leave_out_rounds": 2,
            "misfit_search_steps": (),
            "interleaved_steps": 0,
            "phase_b_steps": 2,
        }
    )
    in_turn = config.pipeline.left_out_in_turn
    trainer = build_trainer(config)
    counts = rays_by_step(trainer)
    trainer.train()
    last = 4 * (attempts - 1)
    searching = {step: count["searching"] for step, count in counts.items() if count["searching"]}
    look_up = BANK * SMALL + TRAIN * SMALL
    # For each, since seven are left out one at a time, a share of the bank. All places of that and where it was are
    # improved, the best of either refined and compared.
    bank = math.ceil(in_turn.share_of_bank * BANK)
    each = (bank + 1) * (2 + 1) * SMALL + 2 * (REFINED + SMALL)
    expected = {**dict.fromkeys(range(3, last + 4, 4), look_up), last + 4: 2 * TRAIN * (bank * SMALL + each)}
    assert {step: rays for step, rays in searching.items() if isinstance(step, int)} == expected
    # In steps of training; in a field for each; in two of everybody.
    rays = attempts * (3 * 320 + 64) + 64
    rays += (2 * TRAIN * in_turn.steps + 2 * in_turn.steps_of_all) * in_turn.fresh_field.rays_per_step
    assert sum(count["training"] for count in counts.values()) == rays


@pytest.mark.parametrize("count", [IMAGES_PER_BATCH, 5 * IMAGES_PER_BATCH])
def test_held_out_estimation_never_renders_more_at_once_however_many_images_there_are(
    count: int, monkeypatch: pytest.MonkeyPatch
):
    """With gradients, no more than one batch; without, no more than a chunk."""
    model = model_of(Nothing(num_samples=2))
    at_once: Dict[bool, int] = {True: 0, False: 0}
    total = 0
    render = GNeRFModel.render

    def counted(model: GNeRFModel, rays: RayBundle) -> Any:
        nonlocal total
        has_gradients = torch.is_grad_enabled() and rays.origins.requires_grad
        at_once[has_gradients] = max(at_once[has_gradients], len(rays))
        total += len(rays)
        return render(model, rays)

    monkeypatch.setattr(GNeRFModel, "render", counted)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
    images = ImageSet(ImageStack(pixels), CameraDirections(cameras(count)))
    proposals = PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS)
    search = PoseSearch(PoseSearchConfig(bank_size=20), model, proposals, PoseCodec("look_at", RADIUS))
    config = EvalPosesConfig()
    localization = config.localization
    localization.first.steps = localization.last.steps = 2
    looked_up(config, images, search)

    first, last = localization.first.rays_per_hypothesis, localization.last.rays_per_hypothesis
    assert at_once[True] == IMAGES_PER_BATCH * max(config.num_hypotheses * first, last)
    assert at_once[False] <= max(image_renderer.RAYS_PER_CHUNK, refinement.RAYS_PER_CHUNK)
    side = localization.comparison_side
    per_image = config.num_hypotheses * (2 * first + side**2) + side**2 + 2 * last + side**2
    assert total == 20 * 16 * 16 + count * per_image
