"""What nerfstudio gets: examples by their step, held-out scenes, and something to show."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_noposplat import pipeline_config

from gnerf_ns.data.images import ImageSize
from gnerf_ns.noposplat import datamanager as datamanager_module
from gnerf_ns.noposplat.datamanager import NoPoSplatDataManager, NoPoSplatDataManagerConfig
from gnerf_ns.scenes.evaluation_sets import EvaluationViews, write_evaluation_set
from gnerf_ns.scenes.made_scenes import FIRST_TRAINING_SEED, NUM_FRAMES, MadeScenes
from gnerf_ns.scenes.scene_data import UnusableScene
from gnerf_ns.scenes.view_sampling import Example
from gnerf_ns.splats.axes import inverse_poses
from gnerf_ns.utils.errors import InputError


def datamanager(**options) -> NoPoSplatDataManager:
    return pipeline_config(**options).datamanager.setup()


def assert_equal(one: Example, other: Example) -> None:
    torch.testing.assert_close(one.context.images, other.context.images, rtol=0.0, atol=0.0)
    torch.testing.assert_close(one.target.camera_to_worlds, other.target.camera_to_worlds, rtol=0.0, atol=0.0)
    assert (one.points is None) == (other.points is None)


def test_a_step_has_the_same_examples_whatever_came_before():
    through, resumed = datamanager(), datamanager()
    examples = [through.next_train(step)[0] for step in range(4)]
    assert_equal(resumed.next_train(2)[0], examples[2])
    assert_equal(resumed.next_train(3)[0], examples[3])
    assert not torch.equal(examples[2].context.images, examples[3].context.images)
    example, batch = through.next_train(4)
    assert batch["example"] is example and example.context.images.shape == (2, 2, 3, 32, 32)
    assert example.target.images.shape == (2, 2, 3, 32, 32)


def test_workers_change_nothing():
    alone, helped = datamanager(), datamanager(num_workers=2)
    for step in range(3, 6):
        assert_equal(helped.next_train(step)[0], alone.next_train(step)[0])


def test_processes_share_the_examples_of_a_step(monkeypatch):
    whole = datamanager(batch_size=4).next_train(7)[0].context.images
    processes = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 1)
    monkeypatch.setattr(datamanager_module, "distributed", processes)
    second = datamanager(batch_size=2)
    torch.testing.assert_close(second.next_train(7)[0].context.images, whole[2:])
    assert second.dropout_seed(7) != datamanager().dropout_seed(8)


def test_there_is_nothing_but_points_in_the_first_steps():
    manager = datamanager(point_steps=2)
    assert [manager.next_train(step)[0].target.images.shape[1] for step in range(4)] == [0, 0, 2, 2]
    assert all(manager.next_train(step)[0].points is not None for step in range(4))
    points = manager.next_train(0)[0].points
    assert points is not None and points.shape == (2, 2, 32, 32, 3)


def test_growth_can_be_set():
    rules = datamanager(growth_steps=7).example_config.rules
    assert {rule.growth_steps for rule in rules.values()} == {7}
    assert datamanager().example_config.rules["re10k"].growth_steps == 9375


def test_held_out_scenes_are_others():
    manager = datamanager(num_eval_scenes=3)
    keys = [key for key, _ in manager.eval_examples()]
    assert len(keys) == 3 and all(int(key) < FIRST_TRAINING_SEED for key in keys)
    assert all(int(key) >= FIRST_TRAINING_SEED for key in manager._train_groups[0].keys)


def test_a_file_says_what_is_evaluated(tmp_path: Path):
    path = tmp_path / "views.json"
    write_evaluation_set(path, {"2": EvaluationViews((3, 20), (10,), 0.4), "unknown": EvaluationViews((0, 1), (0,))})
    manager = datamanager(evaluation_views=path)
    [(key, example)] = manager.eval_examples()
    assert key == "2" and example.target.images.shape == (1, 1, 3, 32, 32)
    write_evaluation_set(path, {"unknown": EvaluationViews((0, 1), (0,))})
    with pytest.raises(InputError, match=r"as .*views\.json says"):
        datamanager(evaluation_views=path)


def test_scenes_that_cannot_be_read_are_passed_over(tmp_path: Path):
    path, missing = tmp_path / "views.json", EvaluationViews((3, 1000), (10,), 0.4)
    write_evaluation_set(path, {"1": missing, "2": EvaluationViews((3, 20), (10,), 0.4)})
    manager = datamanager(evaluation_views=path)
    assert manager.shown_scene == "2" and [key for key, _ in manager.eval_examples()] == ["2"]
    write_evaluation_set(path, {"1": missing})
    with pytest.raises(InputError, match=r"None of the held-out scenes of .* can be read"):
        datamanager(evaluation_views=path)


def test_the_viewer_gets_cameras_and_images():
    manager = datamanager()
    dataset = manager.train_dataset
    assert dataset is not None and len(dataset) == len(dataset.cameras) == 2 + 3
    item = dataset[0]
    torch.testing.assert_close(item["image"], manager.shown.context.images[0, 0].permute(1, 2, 0))
    assert manager.get_train_rays_per_batch() == 2 * 2 * 32 * 32 and manager.get_datapath() == Path()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"made_scenes": None}, "--data FOLDER"),
        ({"image_size": (40, 32)}, "multiples of 16"),
        ({"data": Path("nowhere")}, "no folder nowhere"),
        *(
            (
                {option: value, "data": Path("nowhere")},
                f"{option.replace('_', '-')} is {value}; give a number of {least}",
            )
            for option, value, least in (
                ("batch_size", 0, 1),
                ("num_targets", 0, 1),
                ("num_context", 1, 2),
                ("num_workers", -1, 0),
                ("growth_steps", -1, 0),
                ("point_steps", -1, 0),
                ("seed", -1, 0),
                ("num_eval_scenes", 0, 1),
            )
        ),
    ],
)
def test_what_cannot_be_used_is_refused(options, message: str):
    with pytest.raises(InputError, match=message):
        datamanager(**options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_ends_training_is_one_sentence_whoever_reads(num_workers: int, monkeypatch):
    manager = datamanager(num_workers=num_workers)

    def unusable(self, key: str):
        raise UnusableScene("a damaged file")

    monkeypatch.setattr(MadeScenes, "scene", unusable)
    with pytest.raises(InputError) as error:
        manager.next_train(5)
    assert str(error.value).startswith("At step 5, 200 scenes in a row could not be used")
    assert "200 for a damaged file" in str(error.value) and "\n" not in str(error.value)


def encoded(image: np.ndarray) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return torch.tensor(np.frombuffer(file.getvalue(), dtype=np.uint8))


def test_held_out_chunks_alone_are_enough_for_an_evaluation(tmp_path: Path):
    scene = MadeScenes(range(1), "balls-and-boxes", ImageSize(32, 32)).scene("0")
    intrinsics, poses = scene.cameras
    numbers = torch.zeros(NUM_FRAMES, 18)
    numbers[:, :4] = intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    numbers[:, 6:] = inverse_poses(poses).flatten(1)
    images = [encoded(scene.image(frame)) for frame in range(NUM_FRAMES)]
    (tmp_path / "test").mkdir()
    torch.save([{"key": "a", "cameras": numbers, "images": images}], tmp_path / "test" / "000000.torch")
    (tmp_path / "test" / "index.json").write_text(json.dumps({"a": "000000.torch"}))
    config = pipeline_config(data=tmp_path).datamanager
    manager = config.setup(test_mode="test")
    assert [key for key, _ in manager.eval_examples()] == ["a"]
    with pytest.raises(InputError, match="train/, which training learns from, is missing"):
        config.setup(test_mode="val")


def test_without_training_no_scenes_are_read_for_it():
    manager = NoPoSplatDataManagerConfig(
        made_scenes="other-solids", image_size=(32, 48), num_eval_scenes=1, num_workers=0
    ).setup(test_mode="test")
    assert manager._train_groups == [] and manager.shown.context.images.shape[-2:] == (48, 32)
