import argparse
import gzip
import json
import re
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
import torch
from noposplat_parity import fixed_images, fixed_intrinsics, fixed_network
from safetensors.torch import load_file, save_file
from torch import Tensor

from gnerf_ns.noposplat import checkpoints
from gnerf_ns.noposplat.checkpoints import (
    image_side_of,
    load_network,
    remark_on_resolution,
    save_network,
    start_from_mast3r,
)
from gnerf_ns.noposplat.network import NoPoSplatNetwork, NoPoSplatNetworkConfig, tiny_network
from gnerf_ns.utils.errors import InputError

OFFICIAL_WEIGHTS: Dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parent / "official_weights.json.gz").read_bytes())
)


@cache
def tiny_state() -> Dict[str, Tensor]:
    return fixed_network(tiny_network()).state_dict()


def write_official(path: Path, state: Dict[str, Any]) -> Path:
    """A file as official training writes it."""
    prefixed = {f"encoder.{name}": value for name, value in state.items()}
    torch.save({"epoch": 0, "global_step": 18751, "state_dict": {**prefixed, "losses.0.weight": torch.zeros(1)}}, path)
    return path


def test_an_official_checkpoint_is_loaded_whole(tmp_path: Path) -> None:
    # Each weight is one number seen many times over: names and shapes as published, in a small file.
    state = {name: torch.full((1,), 0.01).expand(shape) for name, shape in OFFICIAL_WEIGHTS.items()}
    network = load_network(write_official(tmp_path / "mixRe10kDl3dv_512x512.ckpt", state))
    assert network.config == NoPoSplatNetworkConfig(image_side=512)
    loaded = network.state_dict()
    assert {name: list(value.shape) for name, value in loaded.items()} == OFFICIAL_WEIGHTS
    assert all(value.dtype == torch.float32 and value.flatten()[0] == 0.01 for value in loaded.values())
    weights = dict(network.named_parameters(remove_duplicate=False))
    aliases = [name for name in weights if ".layer_rn." in name]
    assert len(aliases) == 16
    for name in aliases:
        number = int(name.split(".")[-2]) + 1
        assert weights[name] is weights[re.sub(r"layer_rn\.\d", f"layer{number}_rn", name)]
    assert not network.training and not network.backbone.mask_token.requires_grad


@pytest.mark.parametrize("prefix", ["encoder.", ""])
def test_weights_come_to_their_places(tmp_path: Path, prefix: str) -> None:
    network = fixed_network(tiny_network())
    path = tmp_path / "tiny.ckpt"
    torch.save({"state_dict": {prefix + name: value for name, value in network.state_dict().items()}}, path)
    before = path.read_bytes()
    loaded = load_network(path, tiny_network())
    inputs = fixed_images(2, 32, 32), fixed_intrinsics(2)
    for name, value in vars(network(*inputs)).items():
        assert torch.equal(getattr(loaded(*inputs), name), value)
    with torch.no_grad():
        for weight in loaded.parameters():
            weight.mul_(2.0)
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_own_files_tell_what_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    config = replace(tiny_network(), intrinsics="pixelwise", ray_degree=2, rays_join="decoder", image_side=96)
    network, path = fixed_network(config), tmp_path / "model.safetensors"
    path.write_text("an older one")
    save_network(network, path, dtype)
    loaded = load_network(path)
    assert loaded.config == config and [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    state = loaded.state_dict()
    for name, value in network.state_dict().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], value.to(dtype).float())
    count = sum(weight.numel() for weight in network.parameters())
    assert path.stat().st_size < 1.15 * count * dtype.itemsize  # those with two names once


def test_own_files_are_opened_by_others_without_running_anything(tmp_path: Path) -> None:
    network = fixed_network(tiny_network())
    save_network(network, tmp_path / "model.safetensors")
    given = load_file(tmp_path / "model.safetensors")
    state = network.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(given) < len(state)
    assert all(torch.equal(value, state[name]) for name, value in given.items())


def test_official_weights_may_be_safetensors_of_somebody(tmp_path: Path) -> None:
    state = {f"encoder.{name}": value.clone() for name, value in tiny_state().items()}
    save_file(state, tmp_path / "re10k.safetensors")
    loaded = load_network(tmp_path / "re10k.safetensors", tiny_network()).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in tiny_state().items())


def cut_off_safetensors(path: Path) -> None:
    save_network(fixed_network(tiny_network()), path)
    path.write_bytes(path.read_bytes()[:-5000])


def test_resolution_is_told_by_the_name() -> None:
    for name, side in (("re10k.ckpt", 256), ("re10k_3views.ckpt", 256), ("mixRe10kDl3dv_512x512.ckpt", 512)):
        assert image_side_of(Path("512x512") / name) == side


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [
        (256, 256, False),
        (192, 320, False),
        (176, 176, False),
        (512, 512, True),
        (128, 192, True),
    ],
)
def test_another_resolution_is_remarked_on(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, said: bool
) -> None:
    sentences = []
    monkeypatch.setattr(checkpoints, "remark", sentences.append)
    remark_on_resolution(NoPoSplatNetworkConfig(), height, width)
    assert len(sentences) == said
    assert not said or f"images of 256x256 pixels; what they make of {width}x{height} pixels" in sentences[0]


def lacking(path: Path) -> None:
    state = dict(tiny_state())
    del state["backbone.enc_norm.bias"], state["backbone.enc_norm.weight"]
    write_official(path, state)


def misshapen(path: Path) -> None:
    write_official(path, {**tiny_state(), "backbone.enc_norm.bias": torch.zeros(65)})


def cut_off(path: Path) -> None:
    write_official(path, tiny_state())
    path.write_bytes(path.read_bytes()[:-5000])


def with_a_program(path: Path) -> None:
    torch.save({"state_dict": {}, "callback": Path("x")}, path)


def of_another_version(path: Path) -> None:
    torch.save({"network_config": {"widths": 3}, "state_dict": {}}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: None,
            r"There is no file .*tiny\.ckpt; official weights .*re10k\.ckpt.*huggingface.co/botaoye/NoPoSplat",
        ),
        (lambda path: path.mkdir(), "There is no file"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "is a git-lfs pointer",
        ),
        (lambda path: path.write_bytes(b""), "is not a whole checkpoint"),
        (lambda path: path.write_bytes(b"\x89PNG" * 100), "is not a whole checkpoint"),
        (cut_off, "is not a whole checkpoint"),
        (cut_off_safetensors, "is not a whole file of weights"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "is not a whole checkpoint"),
        (with_a_program, r"holds more than numbers and text \(pathlib"),
        (lambda path: torch.save([1], path), "it has no state_dict"),
        (lambda path: torch.save({"model": tiny_state()}, path), "it has no state_dict"),
        (lambda path: torch.save({"step": 0, "pipeline": {}}, path), r"give the network itself.*network\.safetensors"),
        (lambda path: torch.save({"state_dict": {}}, path), "881 of 881 weights are missing"),
        (lacking, r"2 of 881 weights are missing, for example backbone\.enc_norm\.bias"),
        (
            lambda path: write_official(path, {**tiny_state(), "more": torch.zeros(1)}),
            "1 weights are unknown, for example more",
        ),
        (misshapen, r"backbone\.enc_norm\.bias is \(65,\), not \(64,\)"),
        (
            lambda path: write_official(path, {**tiny_state(), "backbone.enc_norm.bias": "64"}),
            r"enc_norm\.bias is \(\), not",
        ),
        (
            lambda path: write_official(path, {**tiny_state(), "backbone.enc_norm.bias": torch.full((64,), torch.nan)}),
            r"not finite \(backbone\.enc_norm\.bias\)",
        ),
        (of_another_version, "was written by another version"),
    ],
)
def test_what_is_no_checkpoint_is_told_so(tmp_path: Path, write: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "tiny.ckpt"
    write(path)
    with pytest.raises(InputError, match=message) as raised:
        load_network(path, tiny_network())
    assert "\n" not in str(raised.value)


def test_official_weights_do_not_fit_another_kind_of_intrinsics(tmp_path: Path) -> None:
    path = write_official(tmp_path / "tiny.ckpt", tiny_state())
    with pytest.raises(InputError, match=r"2 weights are unknown, for example backbone\.intrinsic_encoder\.bias"):
        load_network(path, replace(tiny_network(), intrinsics="pixelwise", rays_join="decoder", ray_degree=0))


def write_mast3r(path: Path) -> Path:
    """A file as MASt3R's, of the tiny size."""
    state = {}
    for name, value in tiny_state().items():
        if name.startswith("gaussian_param_head") or "intrinsic_encoder" in name:
            continue
        if ".dpt.head.4." in name:
            value = torch.cat((value, torch.full_like(value[:1], 9.0)))
        state[name.removeprefix("backbone.")] = value
    state["downstream_head1.head_local_features.fc1.weight"] = torch.zeros(3, 3)
    torch.save({"args": argparse.Namespace(model="AsymmetricMASt3R", lr=1e-4), "model": state}, path)
    return path


def test_mast3r_s_weights_are_a_start(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NoPoSplatNetwork(tiny_network())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_from_mast3r(network, write_mast3r(tmp_path / "mast3r.pth"))
    theirs = tiny_state()
    for name, value in network.state_dict().items():
        own = name.startswith("gaussian_param_head") or "intrinsic_encoder" in name
        assert torch.equal(value, before[name] if own else theirs[name]), name
    assert network.training


@pytest.mark.filterwarnings("ignore:.*is a no-op")
def test_a_network_on_another_device_gets_mast3r_s_weights(tmp_path: Path) -> None:
    network = NoPoSplatNetwork(tiny_network()).to("meta")  # in place of a GPU: mixing devices is an error there, too
    start_from_mast3r(network, write_mast3r(tmp_path / "mast3r.pth"))


@pytest.mark.parametrize("rays_join", ["encoder", "decoder"])
def test_what_reads_rays_is_not_mast3r_s(tmp_path: Path, rays_join: Any) -> None:
    network = NoPoSplatNetwork(replace(tiny_network(), intrinsics="pixelwise", rays_join=rays_join))
    name = "backbone.patch_embed.proj.weight" if rays_join == "encoder" else "backbone.decoder_embed.weight"
    before = network.state_dict()[name].clone()
    start_from_mast3r(network, write_mast3r(tmp_path / "mast3r.pth"))
    theirs = tiny_state()[name]
    assert torch.equal(network.state_dict()[name][:, : theirs.shape[1]], theirs)
    assert torch.equal(network.state_dict()[name][:, theirs.shape[1] :], before[:, theirs.shape[1] :])


def test_what_is_not_mast3r_s_is_told_so(tmp_path: Path) -> None:
    network, path = NoPoSplatNetwork(tiny_network()), tmp_path / "mast3r.pth"
    with pytest.raises(InputError, match=r"There is no file .*; MASt3R_ViTLarge.*naverlabs"):
        start_from_mast3r(network, path)
    write_official(path, tiny_state())
    with pytest.raises(InputError, match="it has no model"):
        start_from_mast3r(network, path)
    write_mast3r(path)
    with pytest.raises(InputError, match=r"is \(.*\), not "):
        start_from_mast3r(NoPoSplatNetwork(replace(tiny_network(), encoder_width=32)), path)
    with pytest.raises(InputError, match="weights are missing"):
        start_from_mast3r(NoPoSplatNetwork(replace(tiny_network(), encoder_depth=3)), path)
