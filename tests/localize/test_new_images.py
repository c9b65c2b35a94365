import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gnerf_ns.localize.new_images import NewImages, read_new_images
from gnerf_ns.utils.errors import InputError


def read(path: Path, side: int = 64) -> NewImages:
    return read_new_images(path, 40.0, side, torch.device("cpu"))


def write_image(path: Path, width: int, height: int, brightness: int = 100) -> None:
    Image.fromarray(np.full((height, width, 3), brightness, np.uint8)).save(path)


def test_one_image(tmp_path: Path):
    write_image(tmp_path / "a.png", 40, 30)
    images = read(tmp_path / "a.png")
    ((indices, image_set),) = images.groups
    assert indices.tolist() == [0] and (image_set.images.width, image_set.images.height) == (40, 30)
    assert images.given_poses is None
    assert float(images.dataset.file_cameras.fx) == pytest.approx(20 / np.tan(np.radians(20.0)))


def test_focal_lengths_are_corrected_as_the_run_has_found(tmp_path: Path):
    write_image(tmp_path / "a.png", 40, 30)
    images = read_new_images(tmp_path, 40.0, 20, torch.device("cpu"), focal_scale=1.5)
    focal = 1.5 * 20 / np.tan(np.radians(20.0))
    assert float(images.dataset.file_cameras.fx) == pytest.approx(focal)
    ((_, image_set),) = images.groups
    right = image_set.directions.at(torch.tensor([0]), torch.tensor([[[1.0, 0.0]]]))[0, 0]
    assert float(-right[0] / right[2]) == pytest.approx(20 / focal, rel=1e-3)


def test_images_of_several_sizes_keep_all_of_theirs(tmp_path: Path):
    sizes = {"a.png": (40, 30), "b.png": (30, 40), "c.png": (40, 30), "d.png": (160, 120)}
    for number, (name, size) in enumerate(sizes.items()):
        write_image(tmp_path / name, *size, brightness=50 * number)
    images = read(tmp_path)
    assert len(images) == 4 and sorted(indices.tolist() for indices, _ in images.groups) == [[0, 2], [1], [3]]
    for indices, image_set in images.groups:
        width, height = sizes[sorted(sizes)[int(indices[0])]]
        scale = min(1.0, 64 / max(width, height))
        assert (image_set.images.width, image_set.images.height) == (width * scale, height * scale)
        assert image_set.images.pixels[:, 0, 0, 0].tolist() == [50 * index for index in indices.tolist()]


def test_a_transforms_json_gives_poses_and_intrinsics_of_all_that_it_lists(tmp_path: Path):
    frames = []
    for number in range(3):
        write_image(tmp_path / f"{number}.png", 40, 30)
        matrix = np.eye(4)
        matrix[0, 3] = number
        frames.append({"file_path": f"{number}.png", "transform_matrix": matrix.tolist()})
    listed = {"train_filenames": ["0.png"], "test_filenames": ["1.png"], "val_filenames": ["2.png"]}
    content = {"fl_x": 55.0, "w": 40, "h": 30, "frames": frames, **listed}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "transforms.json"):
        images = read(path)
        assert images.given_poses is not None and images.given_poses[:, 0, 3].tolist() == [0.0, 1.0, 2.0]
        assert images.dataset.file_cameras.fx.flatten().tolist() == [55.0] * 3


@pytest.mark.parametrize("name, words", [("missing", "no folder"), ("note.txt", "is not a folder")])
def test_what_is_no_image_gets_one_sentence(tmp_path: Path, name: str, words: str):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(InputError, match=words):
        read(tmp_path / name)
