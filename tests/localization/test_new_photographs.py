import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gnerf_ns.errors import InputError
from gnerf_ns.localization.new_photographs import NewPhotographs, read_new_photographs


def read(path: Path, side: int = 64) -> NewPhotographs:
    return read_new_photographs(path, 40.0, side, torch.device("cpu"))


def write_picture(path: Path, width: int, height: int, brightness: int = 100) -> None:
    Image.fromarray(np.full((height, width, 3), brightness, np.uint8)).save(path)


def test_one_picture(tmp_path: Path):
    write_picture(tmp_path / "a.png", 40, 30)
    pictures = read(tmp_path / "a.png")
    ((indices, photographs),) = pictures.groups
    assert indices.tolist() == [0] and (photographs.images.width, photographs.images.height) == (40, 30)
    assert pictures.given_poses is None
    assert float(pictures.dataset.file_cameras.fx) == pytest.approx(20 / np.tan(np.radians(20.0)))


def test_focal_lengths_are_corrected_as_the_run_has_found(tmp_path: Path):
    write_picture(tmp_path / "a.png", 40, 30)
    pictures = read_new_photographs(tmp_path, 40.0, 20, torch.device("cpu"), focal_factor=1.5)
    focal = 1.5 * 20 / np.tan(np.radians(20.0))
    assert float(pictures.dataset.file_cameras.fx) == pytest.approx(focal)
    ((_, photographs),) = pictures.groups
    right = photographs.directions.at(torch.tensor([0]), torch.tensor([[[1.0, 0.0]]]))[0, 0]
    assert float(-right[0] / right[2]) == pytest.approx(20 / focal, rel=1e-3)


def test_pictures_of_several_sizes_keep_all_of_theirs(tmp_path: Path):
    sizes = {"a.png": (40, 30), "b.png": (30, 40), "c.png": (40, 30), "d.png": (160, 120)}
    for number, (name, size) in enumerate(sizes.items()):
        write_picture(tmp_path / name, *size, brightness=50 * number)
    pictures = read(tmp_path)
    assert len(pictures) == 4 and sorted(indices.tolist() for indices, _ in pictures.groups) == [[0, 2], [1], [3]]
    for indices, photographs in pictures.groups:
        width, height = sizes[sorted(sizes)[int(indices[0])]]
        scale = min(1.0, 64 / max(width, height))
        assert (photographs.images.width, photographs.images.height) == (width * scale, height * scale)
        assert photographs.images.pixels[:, 0, 0, 0].tolist() == [50 * index for index in indices.tolist()]


def test_a_transforms_json_gives_poses_and_intrinsics_of_all_that_it_lists(tmp_path: Path):
    frames = []
    for number in range(3):
        write_picture(tmp_path / f"{number}.png", 40, 30)
        matrix = np.eye(4)
        matrix[0, 3] = number
        frames.append({"file_path": f"{number}.png", "transform_matrix": matrix.tolist()})
    listed = {"train_filenames": ["0.png"], "test_filenames": ["1.png"], "val_filenames": ["2.png"]}
    content = {"fl_x": 55.0, "w": 40, "h": 30, "frames": frames, **listed}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "transforms.json"):
        pictures = read(path)
        assert pictures.given_poses is not None and pictures.given_poses[:, 0, 3].tolist() == [0.0, 1.0, 2.0]
        assert pictures.dataset.file_cameras.fx.flatten().tolist() == [55.0] * 3


@pytest.mark.parametrize("name, words", [("missing", "no folder"), ("note.txt", "is not a folder")])
def test_what_is_no_picture_gets_one_sentence(tmp_path: Path, name: str, words: str):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(InputError, match=words):
        read(tmp_path / name)
