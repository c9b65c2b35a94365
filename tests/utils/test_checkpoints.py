import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Optional

import pytest
import torch
from torch import nn

from gnerf_ns.utils.checkpoints import (
    IMAGES_KEY,
    check_finite,
    check_keys,
    find_checkpoint,
    fitting_state,
    for_more_images,
    latest_checkpoint,
    read_checkpoint,
    step_of,
)
from gnerf_ns.utils.errors import InputError

Rows = Dict[str, Any]


def images(train: str = "abcdefgh", held_out: str = "xyz") -> Rows:
    """One letter stands for a file's name and content."""
    return {
        "folder": "/data",
        "train": [[each, each, "", 1.2] for each in train],
        "held_out": [[each, each, "", 1.2] for each in held_out],
    }


def state(others: Optional[Rows] = None, num_train: int = 8, num_eval: int = 3, code_dim: int = 3) -> Rows:
    return {
        "cameras.codes": torch.zeros(num_train, code_dim),
        "cameras.eval_codes": torch.zeros(num_eval, code_dim),
        "cameras.eval_step": torch.tensor(7),
        "_model.radiance.field.hash_table": torch.zeros(16, 2),
        IMAGES_KEY: images(),
        **(others or {}),
    }


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


# Which one


def test_only_checkpoints_are_taken_for_checkpoints(tmp_path: Path):
    assert latest_checkpoint(tmp_path / "nowhere") is None and latest_checkpoint(tmp_path) is None
    names = ("step-000000004.ckpt", "step-000000011.ckpt")
    litter = (".DS_Store", "._step-000000020.ckpt", "step-000000011 (1).ckpt", "step-000000099.ckpt.part", "notes.txt")
    for name in (*names, *litter):
        (tmp_path / name).touch()
    latest = latest_checkpoint(tmp_path)
    assert latest == find_checkpoint(tmp_path) == tmp_path / names[1] and step_of(tmp_path / names[1]) == 11
    assert find_checkpoint(tmp_path, 4) == tmp_path / names[0]


@pytest.mark.parametrize(("step", "sentence"), [(None, "name the run's nerfstudio_models"), (3, "step-000000003.ckpt")])
def test_no_checkpoint(tmp_path: Path, step: Optional[int], sentence: str):
    with pytest.raises(InputError, match=sentence) as error:
        find_checkpoint(tmp_path, step)
    one_sentence(error)


# Whether it is whole


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def whole(path: Path) -> Path:
    torch.save({"step": 3, "pipeline": state()}, path)
    return path


def test_a_whole_checkpoint_is_read(tmp_path: Path):
    read = read_checkpoint(whole(tmp_path / "step-000000003.ckpt"))
    assert read["step"] == 3 and read["pipeline"].keys() == state().keys()
    assert read["pipeline"][IMAGES_KEY] == images()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no weights")


DAMAGES = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "its tail alone": lambda path: path.write_bytes(path.read_bytes()[path.stat().st_size // 2 :]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>404</html>"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"step": 3})),
    "a zip": write_zip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gets_one_sentence(tmp_path: Path, damage: str):
    path = whole(tmp_path / "step-000000003.ckpt")
    DAMAGES[damage](path)
    with pytest.raises(InputError, match="is not a whole checkpoint") as error:
        read_checkpoint(path)
    assert str(path) in one_sentence(error)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, [1, 2], {"step": 3, "pipeline": 5}, {"pipeline": {}}])
def test_a_file_of_another_program_gets_one_sentence(tmp_path: Path, content: Any):
    path = tmp_path / "step-000000003.ckpt"
    torch.save(content, path)
    with pytest.raises(InputError, match="is not a checkpoint of nerfstudio's") as error:
        read_checkpoint(path)
    one_sentence(error)


@pytest.mark.parametrize("as_zip", [True, False])
def test_what_would_run_a_program_is_not_opened(tmp_path: Path, as_zip: bool):
    path = tmp_path / "step-000000003.ckpt"
    torch.save({"step": 3, "pipeline": Harmful()}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(InputError) as error:
        read_checkpoint(path)
    text = one_sentence(error)
    assert "weights_only" not in text and ("may run any program" in text or not as_zip)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none(number: float):
    check_finite(state())
    spoiled = state({"_model.weight": torch.tensor([0.0, number])})
    with pytest.raises(InputError, match=r"not finite \(_model\.weight\)") as error:
        check_finite(spoiled)
    one_sentence(error)
    with pytest.raises(InputError, match="not finite"):
        fitting_state(spoiled, state({"_model.weight": torch.zeros(2)}))


# Whether it fits


def test_the_same_keys_fit():
    check_keys(state(), state())


def test_other_images_are_named_even_where_their_number_differs():
    own = state({IMAGES_KEY: images("abcefghn")})
    with pytest.raises(InputError, match=r"The images in /data are not those .* d is missing, n is new") as error:
        fitting_state(state(), own)
    one_sentence(error)
    with pytest.raises(InputError, match="n is new"):
        fitting_state(state(), state({IMAGES_KEY: images("abcdefghn")}, num_train=9))


def test_poses_of_the_same_held_out_images_are_kept():
    assert fitting_state(state(), state({"cameras.eval_step": torch.tensor(-1)}))["cameras.eval_step"] == 7


@pytest.mark.parametrize("held_out", ["xyw", "xyzw"])
def test_poses_of_other_held_out_images_are_left_out(held_out: str):
    """Be there as many as before or not."""
    own = state({"cameras.eval_step": torch.tensor(-1), IMAGES_KEY: images(held_out=held_out)}, num_eval=len(held_out))
    kept = fitting_state(state(), own)
    assert kept["cameras.eval_codes"] is own["cameras.eval_codes"] and int(kept["cameras.eval_step"]) == -1
    assert kept["cameras.codes"] is not own["cameras.codes"]


def test_another_pose_mode_is_named():
    with pytest.raises(InputError, match=r"cameras\.codes is \(8, 9\), not \(8, 3\)") as error:
        fitting_state(state(code_dim=9), state())
    assert "config.yml" in one_sentence(error)


@pytest.mark.parametrize(
    ("swapped", "advice"),
    [
        (False, "on a machine with a GPU and tiny-cuda-nn, or train anew with {option}"),
        (True, "resume it with {option}, or open it after setting implementation: torch in its config.yml"),
    ],
)
def test_the_other_hash_grid_implementation_is_named_with_a_way_out(swapped: bool, advice: str):
    tcnn = state()
    tcnn["_model.radiance.field.tcnn_encoding.params"] = tcnn.pop("_model.radiance.field.hash_table")
    loaded, own = (state(), tcnn) if swapped else (tcnn, state())
    with pytest.raises(InputError, match="tiny-cuda-nn") as error:
        check_keys(loaded, own)
    assert advice.format(option="--pipeline.model.radiance.implementation torch") in one_sentence(error)


def test_missing_and_unknown_keys_are_named():
    with pytest.raises(InputError, match=r"adversarial\.discriminator\.weight is missing") as error:
        check_keys(state(), state({"adversarial.discriminator.weight": torch.zeros(1)}))
    one_sentence(error)
    with pytest.raises(InputError, match=r"adversarial\.discriminator\.weight is unknown"):
        check_keys(state({"adversarial.discriminator.weight": torch.zeros(1)}), state())


def test_a_checkpoint_that_does_not_list_its_images():
    loaded = state()
    del loaded[IMAGES_KEY]
    with pytest.raises(InputError, match="does not fit this configuration"):
        fitting_state(loaded, state())


def test_other_sizes_are_named():
    other = state({"_model.radiance.field.hash_table": torch.zeros(32, 2)})
    with pytest.raises(InputError, match=r"hash_table is \(32, 2\), not \(16, 2\)") as error:
        check_keys(other, state())
    assert "config.yml" in one_sentence(error)


# A run that grows


class Run(nn.Module):
    """A pipeline with what has a row for each image."""

    def __init__(self, num_images: int, start: float, device: str = "cpu") -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.full((num_images, 3), start, device=device))
        self.embedding = nn.Embedding(num_images, 2, device=device)
        self.field = nn.Linear(2, 2, device=device)


def trainer_of(run: Run) -> Any:
    groups = {"poses": [run.codes], "fields": [*run.embedding.parameters(), *run.field.parameters()]}
    return SimpleNamespace(pipeline=run, optimizers=SimpleNamespace(parameters=groups))


def checkpoint_of(run: Run) -> Rows:
    groups = trainer_of(run).optimizers.parameters
    optimizers = {name: torch.optim.Adam(parameters, lr=0.1) for name, parameters in groups.items()}
    sum(parameter.square().sum() for parameter in run.parameters()).backward()  # type: ignore[union-attr]
    for optimizer in optimizers.values():
        optimizer.step()
    saved = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
    return {"step": 3, "pipeline": run.state_dict(), "optimizers": saved}


def test_rows_for_more_images_are_new_poses_and_mean_embeddings():
    old, new = Run(4, 1.0), Run(6, 5.0)
    loaded = checkpoint_of(old)
    grown = for_more_images(loaded, trainer_of(new))
    torch.testing.assert_close(grown["pipeline"]["codes"], torch.cat([old.codes, new.codes[4:]]).detach())
    weight = old.embedding.weight.detach()
    mean = weight.mean(dim=0, keepdim=True)
    torch.testing.assert_close(grown["pipeline"]["embedding.weight"], torch.cat([weight, mean, mean]))
    torch.testing.assert_close(grown["pipeline"]["field.weight"], old.field.weight.detach())
    moments = grown["optimizers"]["poses"]["state"][0]["exp_avg"]
    assert moments.shape == (6, 3) and bool((moments[:4] != 0).all()) and bool((moments[4:] == 0).all())


def test_rows_for_more_images_on_another_device_than_the_checkpoint_s():
    """Such as a GPU; checkpoints are read to the CPU."""
    grown = for_more_images(checkpoint_of(Run(4, 1.0)), trainer_of(Run(6, 5.0, device="meta")))
    shapes = {name: tuple(value.shape) for name, value in grown["pipeline"].items()}
    assert shapes == {"codes": (6, 3), "embedding.weight": (6, 2), "field.weight": (2, 2), "field.bias": (2,)}
