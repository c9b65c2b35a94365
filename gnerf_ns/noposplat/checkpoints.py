"""Weights of the network: the official ones, our own, and MASt3R's to begin training from."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gnerf_ns.noposplat.network import NoPoSplatNetwork, NoPoSplatNetworkConfig
from gnerf_ns.utils.checkpoints import check_finite
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError

WHERE_WEIGHTS_ARE = (
    "official weights (re10k.ckpt, acid.ckpt, mixRe10kDl3dv.ckpt or mixRe10kDl3dv_512x512.ckpt for two images, "
    "re10k_3views.ckpt for three; 2.5 GB each) are at https://huggingface.co/botaoye/NoPoSplat"
)
"""They began from MASt3R's weights, which may not be used commercially, and do not come with this package."""

WHERE_MAST3R_IS = (
    "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric.pth is at "
    "https://download.europe.naverlabs.com/ComputerVision/MASt3R"
)
"""The checkpoint of MASt3R (Leroy et al., ECCV 2024) that official trainings begin from."""

NETWORK_FILE = "network.safetensors"
"""What trainings leave beside the checkpoints' folder: nerfstudio takes every file in the latter for a checkpoint."""

OTHER_RESOLUTION = 1.5
"""Images this many times larger or smaller than those of training, in the geometric mean of their sides, are worth a
remark. Other shapes of about the same area are not."""

_OFFICIAL_PREFIX = "encoder."
_CONFIG, _ALIASES, _STATE = "network_config", "aliases", "state_dict"
_RAY_READERS = ("backbone.patch_embed.proj.weight", "backbone.decoder_embed.weight")


# NoPoSplat's


def load_network(path: Path, config: Optional[NoPoSplatNetworkConfig] = None) -> NoPoSplatNetwork:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    The file is memory-mapped: it must not be written to while the network is in use (`save_network` puts another in its
    place instead). Training on does not change it.

    Args:
        path: an official checkpoint, or one that `save_network` has written.
        config: the network's sizes and kind of intrinsics. Official checkpoints do not tell theirs; None: those of the
            published ones. A file of `save_network` tells its own, and this is not looked at.

    Raises:
        InputError: there is no such file; it is a git-lfs pointer, damaged, or of something else; names or shapes are
            not those of the network; or a number is not finite.
    """
    contents = read_noposplat(path)
    state = contents[_STATE]
    if _CONFIG in contents:
        config = _config_from(contents[_CONFIG], path)
    elif config is None:
        config = NoPoSplatNetworkConfig(image_side=image_side_of(path))
    if any(name.startswith(_OFFICIAL_PREFIX) for name in state):  # beside whatever else training has saved
        state = {
            name[len(_OFFICIAL_PREFIX) :]: value for name, value in state.items() if name.startswith(_OFFICIAL_PREFIX)
        }
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced
        network = NoPoSplatNetwork(config)
    _check_fit(state, network.state_dict(), path)
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network.eval()


def read_noposplat(path: Path) -> Mapping[str, Any]:
    """What is in a checkpoint of NoPoSplat's; whether its weights fit is not looked at, nor are they read.

    Raises:
        InputError: there is no such file, or it is a git-lfs pointer, damaged, or of something else.
    """
    contents = _read(path, WHERE_WEIGHTS_ARE)
    if "pipeline" in contents:
        raise InputError(
            f"{path} is what a training goes on from; give the network itself, which NoPoSplat's trainings leave in "
            f"{path.absolute().parent.with_name(NETWORK_FILE)}."
        )
    if not isinstance(contents.get(_STATE), Mapping):
        raise InputError(f"{path} is not a checkpoint of NoPoSplat's (it has no {_STATE}); {WHERE_WEIGHTS_ARE}.")
    return contents


def save_network(network: NoPoSplatNetwork, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights and configuration to a file that `load_network` reads (safetensors), whole or not at all.

    Args:
        network: any.
        path: where to.
        dtype: of the numbers in the file; half precision makes it half as large.
    """
    names: Dict[int, str] = {}
    aliases: Dict[str, str] = {}
    state: Dict[str, Tensor] = {}
    for name, value in network.state_dict().items():  # weights with two names are written once
        first = names.setdefault(value.data_ptr(), name)
        if first == name:
            state[name] = value.to("cpu", dtype).contiguous()
        else:
            aliases[name] = first
    config = {key: getattr(network.config, key) for key in _config_keys()}
    written = path.with_name(f"{path.name}.new")
    save_file(state, written, {_CONFIG: json.dumps(config), _ALIASES: json.dumps(aliases)})
    written.replace(path)


def image_side_of(path: Path) -> int:
    """Side of the square images that an official checkpoint was trained on, in pixels: only its name tells it."""
    found = re.search(r"(\d+)x\1", path.stem)
    return int(found[1]) if found else NoPoSplatNetworkConfig().image_side


def remark_on_resolution(config: NoPoSplatNetworkConfig, height: int, width: int) -> None:
    """Say so if images are much larger or smaller than those that weights were trained on; they go through, though.

    Args:
        config: of the network that has the weights.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    factor = (height * width) ** 0.5 / config.image_side
    if not 1.0 / OTHER_RESOLUTION <= factor <= OTHER_RESOLUTION:
        remark(
            f"The weights were trained on images of {config.image_side}x{config.image_side} pixels; what they make of "
            f"{width}x{height} pixels may be poor."
        )


def _config_keys() -> List[str]:
    return [field.name for field in fields(NoPoSplatNetworkConfig) if field.name != "_target"]


def _config_from(values: Any, path: Path) -> NoPoSplatNetworkConfig:
    if not isinstance(values, Mapping) or set(values) != set(_config_keys()):
        raise InputError(f"{path} was written by another version of this package; use a checkpoint of this one.")
    given: Dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return NoPoSplatNetworkConfig(**given)


# MASt3R's


def start_from_mast3r(network: NoPoSplatNetwork, path: Path) -> None:
    """Give an untrained network MASt3R's weights, where MASt3R has such.

    These are the backbone and the heads of the centers. MASt3R's confidence (the last channel of those heads) and its
    local features are left out. The encoder of lenses, the heads of the other parameters, and what reads viewing rays
    keep their own weights.

    Args:
        network: of MASt3R's sizes, which are the official ones.
        path: of the checkpoint.

    Raises:
        InputError: there is no such file; it is a git-lfs pointer, damaged, or of something else; names or shapes are
            not those of the network; or a number is not finite.
    """
    given = read_mast3r(path)
    own = {
        name: parameter.detach()
        for name, parameter in network.named_parameters()
        if not name.startswith(("gaussian_param_head", "backbone.intrinsic_encoder"))
    }
    names = {name.removeprefix("backbone."): name for name in own}
    state = {names[name]: value for name, value in given.items() if name in names}
    for name, value in state.items():
        if ".dpt.head.4." in name:
            state[name] = value[:3]
        elif name in _RAY_READERS and value.shape[0] == own[name].shape[0] and value.shape[1] < own[name].shape[1]:
            # The network may be on a GPU.
            state[name] = torch.cat((value, own[name][:, value.shape[1] :].to(value)), dim=1)
    _check_fit(state, own, path)
    network.load_state_dict(state, strict=False)


def read_mast3r(path: Path) -> Mapping[str, Any]:
    """The weights in a checkpoint of MASt3R's; whether they fit is not looked at, nor are they read.

    Raises:
        InputError: there is no such file, or it is a git-lfs pointer, damaged, or of something else.
    """
    weights = _read(path, WHERE_MAST3R_IS).get("model")
    if not isinstance(weights, Mapping):
        raise InputError(f"{path} is not a checkpoint of MASt3R's (it has no model); {WHERE_MAST3R_IS}.")
    return weights


# Both


def _read(path: Path, where_it_is_had: str) -> Mapping[str, Any]:
    """What is in a file; tensors are read when they are used."""
    if not path.is_file():
        raise InputError(f"There is no file {path}; {where_it_is_had}: download one to there.")
    with path.open("rb") as file:
        start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise InputError(
                f"{path} is a git-lfs pointer instead of the file that it stands for; run git lfs pull beside it, or "
                "download it by the browser."
            )
    if start[8:9] == b"{":  # after the length of what is to come
        return _read_safetensors(path)
    try:
        # MASt3R's training options; they are attributes without code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever an unpickler makes of bytes that are none of its own
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise InputError(
                f"{path} was not opened: it holds more than numbers and text ({forbidden[1]}), which may run any "
                "program; use a checkpoint from where it is published."
            ) from error
        raise InputError(
            f"{path} is not a whole checkpoint (it is cut off, damaged or none of PyTorch's); download it again."
        ) from error
    return contents if isinstance(contents, Mapping) else {}


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    """The same of a file of `save_network`'s, or of somebody's official weights in this format."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            notes = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole file of weights (it is cut off or damaged); get it again.") from error
    state.update({alias: state[name] for alias, name in json.loads(notes.get(_ALIASES, "{}")).items()})
    return {_STATE: state, **({_CONFIG: json.loads(notes[_CONFIG])} if _CONFIG in notes else {})}


def _check_fit(state: Mapping[str, Any], own: Mapping[str, Tensor], path: Path) -> None:
    """Compare names and shapes, and look for numbers that are none."""
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reason = ""
    if missing:
        reason = f"{len(missing)} of {len(own)} weights are missing, for example {missing[0]}"
    elif unknown:
        reason = f"{len(unknown)} weights are unknown, for example {unknown[0]}"
    else:
        for name, value in own.items():
            if not isinstance(state[name], Tensor) or state[name].shape != value.shape:
                shape = tuple(getattr(state[name], "shape", ()))
                reason = f"{name} is {shape}, not {tuple(value.shape)}"
                break
    if reason:
        raise InputError(
            f"{path} does not fit this network ({reason}); use one of the same sizes and kind of intrinsics, or, for a "
            "training, set those (--pipeline.model.network.*) to what it was trained with."
        )
    check_finite(state)
