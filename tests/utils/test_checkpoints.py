from typing import Dict, Optional

import pytest
import torch

from gnerf_ns.utils.checkpoints import check_keys, drop_other_held_out_poses
from gnerf_ns.utils.errors import InputError


def state(others: Optional[Dict[str, torch.Tensor]] = None, num_train: int = 8, num_eval: int = 3, code_dim: int = 3):
    return {
        "train_poses.codes": torch.zeros(num_train, code_dim),
        "eval_poses.codes": torch.zeros(num_eval, code_dim),
        "eval_poses_step": torch.tensor(7),
        "_model.radiance.field.hash_table": torch.zeros(16, 2),
        **(others or {}),
    }


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "!")) and error.value.code != 0
    return text


def test_the_same_keys_fit():
    check_keys(state(), state())


@pytest.mark.parametrize("other", [state(num_train=9), state(code_dim=9)])
def test_other_images_or_pose_mode(other):
    with pytest.raises(InputError, match="of other images or another pose mode") as error:
        check_keys(other, state())
    assert str(tuple(other["train_poses.codes"].shape)) in one_sentence(error)


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


def test_other_sizes_are_named():
    other = state({"_model.radiance.field.hash_table": torch.zeros(32, 2)})
    with pytest.raises(InputError, match=r"hash_table is \(32, 2\), not \(16, 2\)") as error:
        check_keys(other, state())
    assert "config.yml" in one_sentence(error)


@pytest.mark.parametrize("loaded", [state(num_eval=5), {"train_poses.codes": torch.zeros(8, 3)}])
def test_poses_of_other_held_out_images_are_dropped(loaded):
    own = state({"eval_poses_step": torch.tensor(-1)})
    kept = drop_other_held_out_poses(dict(loaded), own)
    assert kept["eval_poses.codes"] is own["eval_poses.codes"] and int(kept["eval_poses_step"]) == -1


def test_poses_of_the_same_number_of_held_out_images_stay():
    loaded = state()
    assert drop_other_held_out_poses(dict(loaded), state({"eval_poses_step": torch.tensor(-1)})) == loaded
