"""A training of NoPoSplat as nerfstudio runs it: losses, groups, rates, resuming, what is left in the end."""

import copy
import math
from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict

import numpy as np
import pytest
import torch
import tyro
import yaml
from nerfstudio.configs import method_configs
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.scripts import train
from nerfstudio.utils.eval_utils import eval_setup
from skimage.metrics import structural_similarity
from tiny_noposplat import build_pipeline, build_trainer, network_config, pipeline_config, trainer_config
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from gnerf_ns.method_configs.noposplat import noposplat, noposplat_tiny  # pyright: ignore[reportMissingImports]
from gnerf_ns.noposplat.checkpoints import NETWORK_FILE, load_network, save_network
from gnerf_ns.noposplat.network import NoPoSplatNetwork
from gnerf_ns.noposplat.trainer import (
    NoPoSplatTrainer,
    NoPoSplatTrainerConfig,
    OptimizersClippedTogether,
    WarmUpCosineSchedulerConfig,
)
from gnerf_ns.noposplat.view_cameras import nerfstudio_cameras, rendered
from gnerf_ns.runs import progress_display
from gnerf_ns.scenes.view_sampling import Views
from gnerf_ns.utils.errors import InputError


def parameters_of(trainer: Any) -> Dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.pipeline.model.network.named_parameters()}


# Losses


def similarity(image: np.ndarray, truth: np.ndarray) -> float:
    """SSIM by scikit-image, of images that are mirrored at their borders."""
    padded = [np.pad(each, ((5, 5), (5, 5), (0, 0)), mode="reflect").astype(np.float64) for each in (image, truth)]
    options = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    return float(structural_similarity(*padded, channel_axis=-1, **options)[1][5:-5, 5:-5].mean())


def test_the_loss_by_hand():
    pipeline = build_pipeline(pipeline_config()).eval()
    example, batch = pipeline.datamanager.next_train(0)
    with torch.no_grad():
        outputs = pipeline.model(example)
        gaussians = pipeline.model.network(example.context.images, example.context.intrinsics)
    images, truth = rendered(gaussians, example.target), example.target.images
    torch.testing.assert_close(outputs["images"], images)
    losses = pipeline.model.get_loss_dict(outputs, batch)
    assert losses["rgb_loss"].item() == pytest.approx((images - truth).square().mean().item())
    pairs = [
        (one.movedim(0, -1).numpy(), two.movedim(0, -1).numpy())
        for one, two in zip(images.flatten(0, 1), truth.flatten(0, 1), strict=True)
    ]
    similarities = [similarity(*pair) for pair in pairs]
    expected = 0.05 * (1.0 - sum(similarities) / len(similarities))
    assert losses["perceptual_loss"].item() == pytest.approx(expected, abs=1e-5)
    psnrs = [-10.0 * math.log10(((one.clip(0, 1) - two) ** 2).mean()) for one, two in pairs]
    assert pipeline.model.get_metrics_dict(outputs, batch)["psnr"].item() == pytest.approx(sum(psnrs) / 4, abs=1e-4)


def test_points_come_before_images():
    pipeline = build_pipeline(pipeline_config(point_steps=1))
    of_points = {"point_loss", "matching_loss"}
    assert pipeline.get_train_loss_dict(0)[1].keys() == of_points
    assert pipeline.get_train_loss_dict(1)[1].keys() == of_points | {"rgb_loss", "perceptual_loss"}


# Optimization


def test_what_mast3r_lacks_learns_faster():
    pipeline = build_pipeline(pipeline_config())
    names = {id(parameter): name for name, parameter in pipeline.model.network.named_parameters()}
    groups = {
        group: {names[id(parameter)] for parameter in parameters}
        for group, parameters in pipeline.get_param_groups().items()
    }
    trained = {name for name, parameter in pipeline.model.network.named_parameters() if parameter.requires_grad}
    assert groups["new_layers"] | groups["pretrained"] == trained
    assert groups["new_layers"] == {
        name
        for name in trained
        if name.split(".")[0] in ("gaussian_param_head", "gaussian_param_head2") or "intrinsic_encoder" in name
    }
    assert "backbone.intrinsic_encoder.weight" in groups["new_layers"]
    optimizers = noposplat.config.optimizers
    assert optimizers.keys() == groups.keys()
    assert optimizers["new_layers"]["optimizer"].lr == 2e-4 and optimizers["pretrained"]["optimizer"].lr == 2e-5
    made = optimizers["new_layers"]["optimizer"].setup([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(made, torch.optim.AdamW)
    assert made.defaults["betas"] == (0.9, 0.95) and made.defaults["weight_decay"] == 0.05
    assert noposplat.config.clip_norm == 0.5


def test_rates_warm_up_and_fall():
    new, old = (noposplat.config.optimizers[group]["scheduler"] for group in ("new_layers", "pretrained"))
    assert isinstance(new, WarmUpCosineSchedulerConfig) and isinstance(old, WarmUpCosineSchedulerConfig)
    total = noposplat.config.max_num_iterations
    assert new.factor(0, total) == pytest.approx(1 / 126) and new.factor(62, total) == pytest.approx(0.5)
    assert new.factor(125, total) == 1.0 and new.factor(total, total) == pytest.approx(0.1)
    assert new.factor(125 + (total - 125) // 2, total) == pytest.approx(0.55, abs=1e-3)
    assert {old.factor(step, total) for step in (125, 5000, total)} == {1.0}  # it ends where it is
    late = replace(new, first_step=1000)
    assert late.factor(999, total) == 0.0
    assert [late.factor(1000 + step, total + 1000) for step in (0, 62, 5000)] == [
        new.factor(step, total) for step in (0, 62, 5000)
    ]


@pytest.mark.parametrize("point_steps", [0, 3])
def test_what_images_teach_is_learned_from_the_first_of_them(tmp_path: Path, point_steps: int):
    config = trainer_config(tmp_path, steps=100, point_steps=point_steps)
    config.optimizers["new_layers"]["scheduler"] = WarmUpCosineSchedulerConfig(warm_up_steps=2, first_step=50)
    trainer: Any = SimpleNamespace(config=config, pipeline=build_pipeline(config.pipeline))
    schedulers = NoPoSplatTrainer.setup_optimizers(trainer).schedulers
    [late], [early] = (schedulers[group].lr_lambdas for group in ("new_layers", "pretrained"))
    assert [late(step) > 0.0 for step in range(6)] == [step >= point_steps for step in range(6)]
    assert early(0) > 0.0 and late(point_steps) == pytest.approx(1 / 3)


def test_groups_are_clipped_as_one():
    values = {"one": torch.nn.Parameter(torch.zeros(2)), "two": torch.nn.Parameter(torch.zeros(1))}
    config = {
        group: {"optimizer": copy.deepcopy(noposplat.config.optimizers["pretrained"]["optimizer"]), "scheduler": None}
        for group in values
    }
    optimizers = OptimizersClippedTogether(config, {group: [value] for group, value in values.items()}, clip_norm=0.5)
    values["one"].grad, values["two"].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    optimizers.optimizer_scaler_step_some(GradScaler(enabled=False), list(values))
    torch.testing.assert_close(values["one"].grad, torch.tensor([0.3, 0.0]))
    torch.testing.assert_close(values["two"].grad, torch.tensor([0.4]))
    assert values["two"].item() == pytest.approx(-2e-5, rel=1e-3)


# Whole trainings


def test_a_real_training_learns(tmp_path: Path):
    config = trainer_config(tmp_path, steps=32, lr=4e-3, num_targets=1, point_steps=16, growth_steps=1)
    trainer = build_trainer(config)
    in_points, in_images = (trainer.pipeline.datamanager.next_train(step)[0] for step in (0, 16))

    @torch.no_grad()
    def losses_of(example: Any, *names: str) -> float:
        model = trainer.pipeline.model.eval()
        losses = model.get_loss_dict(model(example), {"example": example})
        return sum(float(losses[name]) for name in names)

    of_images = "rgb_loss", "perceptual_loss"
    before, points_before = losses_of(in_images, *of_images), losses_of(in_points, "point_loss")
    for step in range(16):
        trainer.pipeline.train()
        trainer.train_iteration(step)
    assert losses_of(in_points, "point_loss") < 0.9 * points_before
    trainer._start_step = 16
    trainer.train()
    assert losses_of(in_images, *of_images) < 0.7 * before, before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer after five steps of an undisturbed training."""
    trainer = build_trainer(trainer_config(tmp_path_factory.mktemp("finished"), steps=5, point_steps=2))
    trainer.train()
    return trainer


def test_a_resumed_training_makes_the_same_steps(finished: Any, tmp_path: Path):
    stopped = build_trainer(trainer_config(tmp_path, steps=5, point_steps=2))
    for step in range(3):
        stopped.pipeline.train()
        stopped.train_iteration(step)
    stopped.save_checkpoint(2)
    config = trainer_config(tmp_path, steps=5, point_steps=2)
    config.load_dir = stopped.checkpoint_dir
    torch.manual_seed(1)
    resumed = build_trainer(config)
    resumed.train()
    assert resumed.step == 4
    expected = parameters_of(finished)
    for name, value in parameters_of(resumed).items():
        torch.testing.assert_close(value, expected[name], rtol=0.0, atol=0.0)


def test_the_network_is_left_in_a_file_of_its_own(finished: Any):
    path = finished.base_dir / NETWORK_FILE
    network = load_network(path)
    assert network.config.image_side == 32
    for name, value in network.named_parameters():
        assert torch.equal(value, parameters_of(finished)[name])
    finished.save_checkpoint(4)
    assert [file.name for file in finished.checkpoint_dir.iterdir()] == ["step-000000004.ckpt"]


def test_it_says_how_far_it_is_and_what_to_do_with_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(progress_display, "SECONDS_PER_LINE", 0.0)
    monkeypatch.chdir(tmp_path)
    config = trainer_config(tmp_path / "out", steps=6, point_steps=3)
    config.logging = progress_display.progress_logging()
    build_trainer(config).train()
    lines = capsys.readouterr().out.splitlines()
    assert any("million weights learns from scenes made by seed" in line for line in lines)
    (last,) = (line for line in lines if "step 6 of 6" in line)
    assert "End: saving the network; " in last and " elapsed, about " in last and "loss 0." in last
    assert sum("Points: learning positions" in line for line in lines) == 2
    end = lines[-4:]
    assert end[0].startswith("Done after 0:") and end[0].endswith(
        "the network is in out/run/noposplat-tiny/now/network.safetensors"
    )
    assert end[2] == "  gnerf-splat PHOTO PHOTO --checkpoint out/run/noposplat-tiny/now/network.safetensors"


def test_a_network_of_no_numbers_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trainer = build_trainer(trainer_config(tmp_path, steps=2))
    trainer.train_iteration(0)
    with torch.no_grad():
        next(trainer.pipeline.model.network.parameters()).fill_(math.nan)
    trainer.step = trainer._last_step = 1
    trainer._say_how_it_ended()
    assert trainer.has_failed and "FAILED at step 1" in capsys.readouterr().out


def test_ns_eval_opens_it(finished: Any, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(method_configs.all_methods, "noposplat-tiny", noposplat_tiny.config)
    config, opened, _, step = eval_setup(finished.base_dir / "config.yml")
    pipeline: Any = opened
    assert step == 4 and isinstance(config, NoPoSplatTrainerConfig) and config.pipeline.datamanager.point_steps == 2
    found = pipeline.get_average_eval_image_metrics(output_path=tmp_path / "images", get_std=True)
    assert found["num_scenes"] == 3 and found["psnr"] > 0.0 and found["psnr_std"] > 0.0
    assert 0.0 <= found["pose_auc_20deg"] <= 1.0 and any(name.startswith("psnr_") for name in found)
    assert len(list((tmp_path / "images").iterdir())) == 3
    expected = parameters_of(finished)
    assert all(torch.equal(value, expected[name]) for name, value in pipeline.model.network.named_parameters())


def test_another_checkpoint_is_refused(finished: Any):
    pipeline = build_pipeline(pipeline_config())
    state = {name: value for name, value in pipeline.state_dict().items() if "decoder_embed" not in name}
    with pytest.raises(InputError, match="does not fit"):
        pipeline.load_pipeline(state, 0)


def test_checkpoints_of_several_processes_are_opened_by_one(finished: Any):
    state = {
        name.replace("_model.", "_model.module.", 1): value for name, value in finished.pipeline.state_dict().items()
    }
    pipeline = build_pipeline(pipeline_config())
    pipeline.load_pipeline(state, 4)
    expected = parameters_of(finished)
    assert all(torch.equal(value, expected[name]) for name, value in pipeline.model.network.named_parameters())


# Weights to begin from


def test_a_training_begins_from_given_weights(tmp_path: Path):
    torch.manual_seed(3)
    given = NoPoSplatNetwork(network_config())
    save_network(given, tmp_path / "given.safetensors")
    pipeline = build_pipeline(pipeline_config(), begin=False)
    pipeline.model.config.checkpoint = tmp_path / "given.safetensors"
    pipeline.model.begin()
    assert all(
        torch.equal(value, given.state_dict()[name]) for name, value in pipeline.model.network.state_dict().items()
    )
    pipeline.model.config.checkpoint = tmp_path / "other.safetensors"
    heads = 2 * network_config().encoder_heads  # of which no shape of a weight tells
    for other in (network_config(head_channels=8), network_config(encoder_heads=heads)):
        save_network(NoPoSplatNetwork(other), tmp_path / "other.safetensors")
        with pytest.raises(InputError, match="other sizes, or is of another kind"):
            pipeline.model.begin()
    pipeline.model.config.mast3r = tmp_path / "mast3r.pth"
    with pytest.raises(InputError, match="give one"):
        pipeline.model.begin()


def test_a_training_begins_from_mast3r(tmp_path: Path):
    pipeline = build_pipeline(pipeline_config(), begin=False)
    own = {name: value.clone() for name, value in pipeline.model.network.state_dict().items()}
    theirs: Dict[str, Tensor] = {}
    for name, value in own.items():
        if not name.startswith(("gaussian_param_head", "backbone.intrinsic_encoder")):
            value = torch.cat([value, value[:1]]) if ".dpt.head.4." in name else value  # confidence
            theirs[name.removeprefix("backbone.")] = value + 1.0
    torch.save({"model": theirs}, tmp_path / "mast3r.pth")
    pipeline.model.config.mast3r = tmp_path / "mast3r.pth"
    pipeline.model.begin()
    for name, value in pipeline.model.network.state_dict().items():
        is_new = name.startswith(("gaussian_param_head", "backbone.intrinsic_encoder"))
        torch.testing.assert_close(value, own[name] + (0.0 if is_new else 1.0))


# What cannot be done


def refusal(config: NoPoSplatTrainerConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one sentence that ns-train ends with. Nothing is read or written before."""
    monkeypatch.setattr(train, "launch", lambda **_: pytest.fail("nothing was found wrong"))
    with pytest.raises(InputError) as error:
        train.main(config)
    assert not config.output_dir.exists() and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline.datamanager.batch_size": 0}, "batch-size is 0; give a number of 1 or more"),
        ({"pipeline.datamanager.image_size": (64, 60)}, "multiples of 16"),
        ({"machine.num_devices": 2}, f"a CUDA GPU each, and this machine has {torch.cuda.device_count()} to use"),
        ({"machine.num_machines": 2}, f"a CUDA GPU each, and this machine has {torch.cuda.device_count()} to use"),
        ({"machine.num_devices": 99, "machine.device_type": "cuda"}, "a CUDA GPU each, and this machine has"),
        ({"pipeline.model.checkpoint": Path("no.ckpt")}, "There is no file no.ckpt; official weights"),
        ({"pipeline.model.mast3r": Path("no.pth")}, "There is no file no.pth; MASt3R_ViTLarge"),
        ({"pipeline.model.checkpoint": Path("no.ckpt"), "pipeline.model.mast3r": Path("no.pth")}, "give one"),
    ],
)
def test_what_cannot_be_done_is_told_first(options: Dict[str, Any], message: str, tmp_path: Path, monkeypatch):
    config = trainer_config(tmp_path / "runs", steps=1)
    for name, value in options.items():
        *owners, option = name.split(".")
        setattr(reduce(getattr, owners, config), option, value)
    assert message in refusal(config, monkeypatch)


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("checkpoint", b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
        ("mast3r", b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
        ("checkpoint", {"model": {}}, "is not a checkpoint of NoPoSplat's"),
        ("mast3r", {"state_dict": {}}, "is not a checkpoint of MASt3R's"),
    ],
)
def test_files_of_other_kinds_are_told_first(option: str, content: Any, message: str, tmp_path: Path, monkeypatch):
    path = tmp_path / "weights"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    config = trainer_config(tmp_path / "runs", steps=1)
    setattr(config.pipeline.model, option, path)
    assert message in refusal(config, monkeypatch)


def test_a_resumed_training_needs_no_file_to_begin_from(finished: Any, tmp_path: Path):
    config = trainer_config(tmp_path, steps=5)
    config.pipeline.model.checkpoint, config.load_dir = tmp_path / "gone.ckpt", finished.checkpoint_dir
    config.set_timestamp()


# What is looked at


def test_the_viewer_sees_the_example_that_is_shown():
    pipeline = build_pipeline(pipeline_config(image_size=(32, 48))).eval()  # portrait
    model, example = pipeline.model, pipeline.datamanager.shown
    with torch.no_grad():
        gaussians = model.network(example.context.images, example.context.intrinsics)
        expected = rendered(gaussians, example.target)[0].clamp(0.0, 1.0)
    cameras = nerfstudio_cameras(Views(*(value[0] for value in vars(example.target).values())))
    for index, image in enumerate(expected):
        seen = model.get_outputs_for_camera(cameras[index : index + 1])
        assert seen["rgb"].shape == (48, 32, 3) and seen["depth"].shape == seen["accumulation"].shape == (48, 32, 1)
        torch.testing.assert_close(seen["rgb"].permute(2, 0, 1), image, atol=2e-4, rtol=1e-3)
    metrics, images = pipeline.get_eval_image_metrics_and_images(0)
    assert metrics["num_rays"] == 3 * 32 * 48 and images["img"].shape == (2 * 48, 5 * 32, 3)


def test_what_is_shown_changes_with_the_network():
    pipeline = build_pipeline(pipeline_config())
    camera = pipeline.datamanager.train_dataset.cameras[:1]  # type: ignore[union-attr]
    before = pipeline.eval().model.get_outputs_for_camera(camera)["rgb"]
    pipeline.train().get_train_loss_dict(0)
    with torch.no_grad():
        for parameter in pipeline.model.parameters():
            parameter.mul_(1.05)
    assert not torch.equal(pipeline.eval().model.get_outputs_for_camera(camera)["rgb"], before)


# Settings


@pytest.mark.parametrize("method", [noposplat, noposplat_tiny])
def test_settings_survive_yaml_and_the_command_line(method: MethodSpecification):
    config: Any = copy.deepcopy(method.config)
    read = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert read == config
    options = ["--pipeline.datamanager.batch-size", "3", "--clip-norm", "0.25", "--pipeline.model.network.image-side"]
    changed = tyro.cli(type(config), default=config, args=[*options, "96"])
    assert changed.pipeline.datamanager.batch_size == 3 and changed.clip_norm == 0.25
    assert changed.pipeline.model.network.image_side == 96
    assert {group: each["optimizer"].lr for group, each in changed.optimizers.items()} == {
        group: each["optimizer"].lr for group, each in config.optimizers.items()
    }
