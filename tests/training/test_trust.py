"""What is said of a run is in its checkpoints, in its poses, and in what `ns-eval` says."""

import json
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup
from tiny_run import build_trainer, pipeline_config, trainer_config

from gnerf_ns.cameras.pose_covariance import PoseSigmas
from gnerf_ns.training import confidence, placement
from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.training.run_report import report_contents
from gnerf_ns.training.trainer import GNeRFTrainerConfig
from gnerf_ns.training.trust import worst_first
from gnerf_ns.utils.checkpoints import TRUST_KEY


@pytest.fixture(scope="module")
def trained(tiny_scene: Path, tmp_path_factory) -> GNeRFTrainerConfig:
    config = trainer_config(tiny_scene, tmp_path_factory.mktemp("trained"), "transport")
    build_trainer(config).train()
    return config


def loaded(config: GNeRFTrainerConfig) -> GNeRFPipeline:
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    assert isinstance(pipeline, GNeRFPipeline)
    return pipeline


def test_what_is_in_the_checkpoint_is_what_is_beside_the_poses(trained: GNeRFTrainerConfig):
    trust = loaded(trained).trust
    assert trust.verdict is not None and {split: len(each) for split, each in trust.statuses.items()} == {
        "train": 7,
        "eval": 2,
    }
    meta = json.loads((trained.get_base_dir() / "estimated_poses" / "transforms.json").read_text())
    written = [*trust.statuses["train"], *trust.statuses["eval"]]
    for frame, status in zip(meta["frames"], written, strict=True):
        assert {name: frame[name] for name in status.entries} == status.entries
        assert frame["rotation_sigma_deg"] > 0.0 and frame["translation_sigma_relative"] > 0.0
        assert 0.0 <= frame["alternative_probability"] <= 1.0 and isinstance(frame["flagged"], bool)


def test_a_run_is_judged_the_same_again(trained: GNeRFTrainerConfig):
    pipeline = loaded(trained)
    before, verdict = pipeline.trust.statuses, pipeline.trust.verdict
    state = torch.get_rng_state()
    pipeline.trust.clear()
    pipeline.judge()
    assert pipeline.trust.verdict == verdict
    for split, statuses in pipeline.trust.statuses.items():
        for now, then in zip(statuses, before[split], strict=True):
            assert now.rotation_sigma_deg == pytest.approx(then.rotation_sigma_deg, rel=1e-3)
            assert now.alternative_probability == pytest.approx(then.alternative_probability, abs=0.1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("few", "origin", "by_matches", "expected"),
    [
        (7, PoseOrigin.APPEARANCE, 100.0, confidence.FEW_FACTOR * confidence.JOINT_FACTOR),
        (6, PoseOrigin.APPEARANCE, 100.0, confidence.JOINT_FACTOR),
        (7, PoseOrigin.MATCHES, 100.0, confidence.JOINT_FACTOR),
        (7, PoseOrigin.GIVEN, 100.0, confidence.JOINT_FACTOR),
        (7, PoseOrigin.APPEARANCE, 1.0, confidence.MATCHED_FACTOR),
    ],
    ids=["few", "many", "matched", "given", "as matches say"],
)
def test_colors_of_few_images_that_only_the_field_speaks_for_say_less(
    trained: GNeRFTrainerConfig, monkeypatch: pytest.MonkeyPatch, few, origin, by_matches, expected
):
    def all_of(value: float) -> PoseSigmas:
        return PoseSigmas(torch.full((7,), value), torch.full((7,), value))

    pipeline = loaded(trained)
    monkeypatch.setattr(placement, "FEW_ALONE", few)
    monkeypatch.setattr(confidence, "color_sigmas", lambda *arguments: all_of(0.0))
    monkeypatch.setattr(confidence, "_joint_sigmas", lambda *arguments: (all_of(1.0), all_of(by_matches)))
    found = confidence.training_confidence(
        pipeline.scene, pipeline.pose_search, pipeline.epipolar, torch.full((7,), origin)
    )
    assert found.rotation_sigma_deg.tolist() == pytest.approx([expected] * 7)
    distance = pipeline.cameras.poses("train")[:, :, 3].norm(dim=1).median()
    torch.testing.assert_close(found.translation_sigma_relative, torch.full((7,), expected) / distance)


def test_a_checkpoint_of_before_is_loaded_and_judged_when_that_is_asked(tiny_scene: Path, trained: GNeRFTrainerConfig):
    state: Dict[str, Any] = torch.load(trained.get_checkpoint_dir() / "step-000000011.ckpt")["pipeline"]
    del state[TRUST_KEY]
    pipeline = pipeline_config(tiny_scene, "transport").setup(device="cpu", test_mode="inference")
    pipeline.load_pipeline(state, 11)
    assert pipeline.trust.verdict is None and not pipeline.trust.statuses
    pipeline.judge()
    assert pipeline.trust.verdict is not None and len(pipeline.trust.statuses["train"]) == 7


def test_held_out_images_at_other_poses_are_judged_anew(trained: GNeRFTrainerConfig):
    state: Dict[str, Any] = torch.load(trained.get_checkpoint_dir() / "step-000000011.ckpt")["pipeline"]
    pipeline = loaded(trained)
    pipeline.load_pipeline(state, 11)
    assert pipeline.trust.verdict is not None
    pipeline.load_pipeline({**state, "cameras.eval_step": torch.tensor(-1)}, 11)
    assert pipeline.trust.verdict is None
    pipeline.judge()
    assert len(pipeline.trust.statuses["eval"]) == 2
    shown = report_contents(pipeline, trained.get_base_dir(), "a run", max_rays=10_000).images
    assert sum(image.is_held_out for image in shown) == 2 and len(shown) == 9


def test_a_run_that_goes_on_is_judged_anew(trained: GNeRFTrainerConfig):
    state: Dict[str, Any] = torch.load(trained.get_checkpoint_dir() / "step-000000011.ckpt")["pipeline"]
    pipeline = trained.pipeline.setup(device="cpu", test_mode="val")
    pipeline.load_pipeline(state, 11)
    assert pipeline.trust.verdict is None and not pipeline.trust.statuses


def test_ns_eval_says_the_verdict_and_who_is_flagged(trained: GNeRFTrainerConfig):
    pipeline = loaded(trained)
    metrics = pipeline.get_average_eval_image_metrics()
    assert pipeline.trust.verdict is not None
    assert metrics["verdict"] == pipeline.trust.verdict.level
    assert metrics["verdict_sentence"] == pipeline.trust.verdict.sentence
    everyone = [*pipeline.trust.statuses["train"], *pipeline.trust.statuses["eval"]]
    assert len(metrics["flagged"]) == sum(status.is_flagged for status in everyone)
    assert metrics["rotation_sigma_deg_median"] > 0.0
    json.dumps(metrics)


def test_while_it_is_trained_nothing_is_said(tiny_scene: Path, tmp_path: Path):
    trainer = build_trainer(trainer_config(tiny_scene, tmp_path, "transport"))
    trainer.save_checkpoint(3)
    assert trainer.pipeline.trust.verdict is None and not trainer.pipeline.trust.statuses
    meta = json.loads((trainer.base_dir / "estimated_poses" / "transforms.json").read_text())
    assert "flagged" not in meta["frames"][0]


def test_flagged_images_come_first_then_those_that_are_least_sure():
    def status(is_flagged: bool, sigma: float, probability: float) -> PoseStatus:
        return PoseStatus(PoseOrigin.MATCHES, 0.9, is_flagged, sigma, 0.01, probability)

    statuses = [
        status(False, 0.1, 0.0),
        status(True, 0.1, 0.2),
        status(False, 0.3, 0.0),
        status(False, 0.1, 0.1),
        status(True, 0.1, 0.9),
    ]
    assert worst_first(statuses) == [4, 1, 3, 2, 0]
