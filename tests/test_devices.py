"""What depends on the device: the same training on each, and no code compiled for CPUs on any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from analytic_scene import TINY_RADIANCE
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from tiny_run import build_trainer, trainer_config

from gnerf_ns.fields.hash_radiance import HashRadiance, HashRadianceConfig
from gnerf_ns.training.left_out_in_turn import LeftOutInTurnConfig
from gnerf_ns.training.pipeline import GNeRFPipelineConfig
from gnerf_ns.training.recipe import fit_to_device, fit_to_images, for_any_device, keep_sizes, sizes_in_words
from gnerf_ns.utils.checkpoints import IN_OLDER_CHECKPOINTS, NOT_IN_OLDER_CHECKPOINTS

ANY_DEVICE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])


@ANY_DEVICE
@pytest.mark.parametrize("phase_a", ["transport", "adversarial"])
def test_all_phases_run_and_the_checkpoint_loads_anywhere(tiny_scene: Path, tmp_path: Path, device: Any, phase_a: Any):
    config = trainer_config(tiny_scene, tmp_path, phase_a)
    config.machine.device_type = device
    config.mixed_precision = device == "cuda"
    trainer = build_trainer(config)
    trainer.train()
    pipeline = trainer.pipeline
    assert {value.device.type for value in pipeline.parameters()} == {device}
    assert all(bool(value.isfinite().all()) for value in pipeline.parameters())
    on_cpu = trainer_config(tiny_scene, tmp_path / "again", phase_a, load_dir=trainer.checkpoint_dir)
    loaded = build_trainer(on_cpu).pipeline
    for (name, value), (_, there) in zip(loaded.named_parameters(), pipeline.named_parameters(), strict=True):
        assert torch.equal(value, there.cpu()), name


@ANY_DEVICE
@pytest.mark.parametrize("phase_a", [True, False])
def test_the_field_is_the_same_everywhere(device: str, phase_a: bool):
    torch.manual_seed(0)
    radiance = tiny_radiance()
    radiance.set_schedule(phase_a, phase_b_progress=1.0, active_levels=1.0, density_noise=0.0)
    radiance.eval()
    expected = radiance(rays("cpu"))
    shown = radiance.to(device)(rays(device))
    assert shown.rgb.device.type == device
    torch.testing.assert_close(shown.rgb.cpu(), expected.rgb, rtol=0, atol=2e-3)
    torch.testing.assert_close(shown.weights.cpu(), expected.weights, rtol=0, atol=2e-3)


@pytest.mark.parametrize("phase_a", [True, False])
def test_nothing_that_was_compiled_for_cpus_is_asked_on_another_device(phase_a: bool):
    """torch's device without memory has shapes only: whatever is on the CPU beside it fails."""
    radiance = tiny_radiance()
    radiance.set_schedule(phase_a, phase_b_progress=1.0, active_levels=1.0, density_noise=0.0)
    radiance.to("meta")
    shown = radiance(rays("meta"))
    (shown.rgb.sum() + shown.weights.sum()).backward()
    assert shown.rgb.device.type == "meta" and shown.rgb.shape[0] == 5
    assert all(value.grad is not None for value in radiance.field.mlp_base.parameters())


def tiny_radiance() -> HashRadiance:
    """A hash field in the unit ball."""
    box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    return HashRadianceConfig(**TINY_RADIANCE).setup(scene_box=box, num_train_data=1)


def rays(device: str) -> RayBundle:
    """Five, through the unit ball."""
    directions = torch.nn.functional.normalize(torch.tensor([[0.1 * i, 0.2, -1.0] for i in range(5)]), dim=-1)
    near = torch.full((5, 1), 1.2)
    return RayBundle(
        origins=-2.0 * directions,
        directions=directions,
        pixel_area=torch.full((5, 1), 1e-4),
        camera_indices=torch.zeros(5, 1, dtype=torch.long),
        nears=near,
        fars=near + 1.6,
    ).to(device)


# Sizes


def test_sizes_follow_the_device_in_use_and_not_what_was_chosen():
    from gnerf_ns.method_configs.gnerf import default_pipeline  # pyright: ignore[reportMissingImports] (a mapped folder)

    on_cpu, on_cuda = default_pipeline("cpu"), default_pipeline("cuda")
    assert on_cuda.photometric.rays_per_step > on_cpu.photometric.rays_per_step
    here = for_any_device(default_pipeline)
    fit_to_device(here, "cpu")
    assert (here.photometric, here.model, here.schedule) == (on_cpu.photometric, on_cpu.model, on_cpu.schedule)
    there = for_any_device(default_pipeline)
    there.schedule.phase_b_steps = 77  # chosen by a user
    fit_to_device(there, "cuda")
    assert (there.photometric, there.model) == (on_cuda.photometric, on_cuda.model)
    assert (there.schedule.phase_a_steps, there.schedule.phase_b_steps) == (on_cuda.schedule.phase_a_steps, 77)
    words = sizes_in_words(there, "cuda", 800, 77)
    assert "for a GPU: 8192 rays in 77 steps, 16 levels of up to 2048 cells a side" in words


@pytest.mark.parametrize(
    ("detail", "steps", "levels", "cells"),
    [(0.4, 1100, 8, 256), (1.01, 1100, 8, 256), (1.3, 1450, 8, 256), (2.0, 2350, 9, 512), (4.0, 5050, 10, 1024)],
)
def test_sizes_follow_the_images(detail: float, steps: int, levels: int, cells: int):
    from gnerf_ns.method_configs.gnerf import default_pipeline  # pyright: ignore[reportMissingImports] (a mapped folder)

    config = for_any_device(default_pipeline)
    fit_to_device(config, "cpu")
    assert fit_to_images(config, detail, 100) == (levels > 8)
    assert config.schedule.phase_b_steps == steps
    assert config.schedule.misfit_search_steps[-1] == round(900 * max(1.0, detail) ** 1.1)
    assert (config.model.radiance.num_levels, config.model.radiance.max_resolution) == (levels, cells)
    words = sizes_in_words(config, "cpu", round(100 * detail), steps)
    assert (
        f"images of {100 * detail:.0f} pixels" in words and f"{steps} steps, {levels} levels of up to {cells}" in words
    )
    chosen = for_any_device(default_pipeline)
    chosen.schedule.phase_b_steps, chosen.model.radiance.max_resolution = 77, 99
    fit_to_images(chosen, detail, 100)
    assert (chosen.schedule.phase_b_steps, chosen.model.radiance.max_resolution) == (77, 99)
    assert chosen.model.radiance.num_levels == 8


def test_few_images_are_sampled_all_along_by_half_the_rays_in_more_steps():
    from gnerf_ns.method_configs.gnerf import default_pipeline  # pyright: ignore[reportMissingImports] (a mapped folder)

    few, many, chosen = (for_any_device(default_pipeline) for _ in range(3))
    chosen.model.radiance.num_proposal_samples = 12
    assert fit_to_images(few, 1.0, 30) and not fit_to_images(many, 1.0, 31) and not fit_to_images(chosen, 1.0, 30)
    assert [each.model.samples_empty_space for each in (few, many, chosen)] == [True, False, True]
    assert [each.model.radiance.num_proposal_samples for each in (few, many, chosen)] == [40, 24, 12]
    assert [each.photometric.rays_per_step for each in (few, many)] == [1792, 3584]
    assert [each.schedule.phase_b_steps for each in (few, many)] == [2000, 1100]
    assert few.schedule.misfit_search_steps == many.schedule.misfit_search_steps
    large = for_any_device(default_pipeline)
    fit_to_images(large, 2.0, 30)
    assert large.schedule.phase_b_steps == 4250
    chosen.photometric.rays_per_step = 77
    fit_to_images(chosen, 1.0, 30)
    assert chosen.photometric.rays_per_step == 77


def test_methods_of_one_size_keep_it_whatever_the_images():
    from gnerf_ns.method_configs.gnerf import tiny_pipeline  # pyright: ignore[reportMissingImports] (a mapped folder)

    config = for_any_device(tiny_pipeline)
    fit_to_images(config, 4.0, 100)
    assert config == for_any_device(tiny_pipeline)


def test_a_run_that_is_resumed_keeps_its_sizes():
    from gnerf_ns.method_configs.gnerf import default_pipeline  # pyright: ignore[reportMissingImports] (a mapped folder)

    began, resumed = for_any_device(default_pipeline), for_any_device(default_pipeline)
    fit_to_device(began, "cpu")
    keep_sizes(resumed, began)
    fit_to_device(resumed, "cuda")
    fit_to_images(resumed, 4.0, 100)
    assert (resumed.photometric, resumed.model, resumed.schedule) == (began.photometric, began.model, began.schedule)
    assert sizes_in_words(resumed, "cuda", 800, 5) == ""
    # Begun on a GPU, it goes on so on a CPU; what is given now counts.
    began, resumed = for_any_device(default_pipeline), for_any_device(default_pipeline)
    fit_to_device(began, "cuda")
    resumed.schedule.phase_b_steps = 77
    keep_sizes(resumed, began)
    assert resumed.model == began.model and resumed.schedule.phase_b_steps == 77


@pytest.mark.parametrize("method", ["default_pipeline", "tiny_pipeline"])
def test_what_was_found_out_from_the_images_is_kept_once(method: str):
    """A room makes the field grow: where the run goes on, it is not to grow again."""
    from gnerf_ns.method_configs import gnerf  # pyright: ignore[reportMissingImports] (a mapped folder)

    began, resumed = (for_any_device(getattr(gnerf, method)) for _ in range(2))
    fit_to_device(began, "cpu")
    began.model.extent, began.model.background_color = "unbounded", "last_sample"
    began.model.radiance, began.datamanager.max_image_side = began.model.radiance.for_surroundings(), 240
    asked = resumed.datamanager.max_image_side
    keep_sizes(resumed, began)
    assert resumed.model == began.model
    assert resumed.datamanager.max_image_side == (240 if asked == "auto" else asked)


def test_checkpoints_and_configurations_of_before_grids_and_devices_load(tiny_scene: Path, tmp_path: Path):
    config = trainer_config(tiny_scene, tmp_path, "transport")
    trainer = build_trainer(config)
    trainer.train()
    (file,) = trainer.checkpoint_dir.glob("*.ckpt")
    state = torch.load(file, weights_only=False)
    recent = {
        name for name in state["pipeline"] if name.rpartition(".")[2] in ("cost_in_vain", "densities", "occupied")
    }
    assert recent == set(NOT_IN_OLDER_CHECKPOINTS[1:])
    for name in recent:
        del state["pipeline"][name]
    for name in IN_OLDER_CHECKPOINTS:
        state["pipeline"][name] = torch.zeros(3)
    torch.save(state, file)
    loaded = build_trainer(trainer_config(tiny_scene, tmp_path / "again", "transport", load_dir=trainer.checkpoint_dir))
    assert bool(loaded.pipeline.model.occupancy.occupied.all())
    older = dict(config.pipeline.__dict__)
    del older["on_cuda"], older["left_out_in_turn"]
    pipeline = GNeRFPipelineConfig.__new__(GNeRFPipelineConfig)
    pipeline.__setstate__(older)
    assert pipeline.on_cuda == {} and pipeline.schedule == config.pipeline.schedule
    assert pipeline.left_out_in_turn == LeftOutInTurnConfig()


def test_configurations_with_pose_trials_load():
    """As runs of November 2026 have them."""
    lines = (
        "!!python/object:gnerf_ns.training.pose_trials.PoseTrialsConfig",
        "num_places: 3",
        "probe_field: !!python/object:gnerf_ns.training.pose_trials.ProbeFieldConfig {image_side: 24}",
    )
    assert yaml.load("\n".join(lines), Loader=yaml.Loader).probe_field is not None
