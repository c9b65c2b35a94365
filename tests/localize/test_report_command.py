"""Reports of runs of other methods, which tell nothing of their poses, and what cannot be reported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.models.base_model import Model
from tiny_run import build_pipeline, pipeline_config

from gnerf_ns.localize.report_command import Report, contents_of_any, explained_share
from gnerf_ns.report.page import report_html
from gnerf_ns.utils.errors import InputError


def test_explained_shares():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    assert explained_share(photo, photo) == 1.0
    mean = photo.mean(axis=(0, 1)).round().astype(np.uint8)
    assert explained_share(photo, np.broadcast_to(mean, photo.shape).copy()) == pytest.approx(0.0, abs=1e-3)
    assert explained_share(photo, 255 - photo) < -1.0
    assert np.isnan(explained_share(np.full((4, 4, 3), 7, np.uint8), np.zeros((4, 4, 3), np.uint8)))
    blocks = np.repeat(np.repeat(photo, 2, axis=0), 2, axis=1)
    assert explained_share(blocks, photo) == 1.0, "compared at the rendering's size"


class Shows(Model):
    """A model of some method, which shows each camera's image a little wrong: by how far it is from the first one."""

    def __init__(self, dataset: Any) -> None:
        torch.nn.Module.__init__(self)
        self.device_indicator_param = torch.nn.Parameter(torch.empty(0))
        self._dataset = dataset

    def get_outputs_for_camera(self, camera: Any, obb_box: Any = None) -> Any:
        """The picture of the training image that was taken from there; noise for others."""
        poses = self._dataset.cameras.camera_to_worlds
        same = (poses - camera.camera_to_worlds).abs().flatten(1).amax(dim=1) < 1e-6
        height, width = int(camera.height), int(camera.width)
        if not bool(same.any()):
            return {"rgb": torch.rand(height, width, 3)}
        index = int(same.nonzero()[0])
        return {"rgb": self._dataset.get_image_float32(index)[..., :3] * (1.0 - 0.1 * index)}


def test_a_run_of_another_method_is_shown_and_what_is_not_known_is_said(tiny_scene: Path, tmp_path: Path):
    datamanager = build_pipeline(pipeline_config(tiny_scene, "transport"), test_mode="val").datamanager
    train, held_out = datamanager.train_dataset, datamanager.eval_dataset
    for dataset, first in ((train, 0.0), (held_out, 100.0)):
        dataset.cameras.camera_to_worlds[:, 0, 3] = first + torch.arange(len(dataset))
    pipeline = SimpleNamespace(datamanager=datamanager, model=Shows(train))
    run = tmp_path / "outputs" / "scene" / "nerfacto" / "now"
    contents = contents_of_any(pipeline, run, "nerfacto")
    assert len(contents.images) == 9
    explained = [image.figures.explained for image in contents.images]
    assert explained == sorted(explained), "the least explained first"
    assert all(image.is_held_out for image in contents.images[:2]), "which it shows as noise"
    assert contents.images[-1].figures.explained > 0.99
    assert contents.images[-1].name.endswith(train.image_filenames[0].name)
    assert all(image.figures.is_flagged is None and image.alternative is None for image in contents.images)
    page = report_html(contents)
    assert "Not known: how far the poses can be trusted" in page and "No curves of the training were kept." in page
    assert [command.line.split()[0] for command in contents.commands] == ["ns-viewer", "ns-render"]
    assert contents.commands[0].line == "ns-viewer --load-config outputs/scene/nerfacto/now/config.yml"
    assert contents.commands_place == "the folder that it was trained in, which holds outputs/scene/nerfacto/now"
    assert str(tmp_path) not in page


def test_no_images_no_report(tmp_path: Path):
    pipeline = SimpleNamespace(datamanager=SimpleNamespace(), model=None)
    with pytest.raises(InputError, match="SimpleNamespace holds no training images"):
        contents_of_any(pipeline, tmp_path, "a run")


def test_bad_input_is_refused_at_once(tmp_path: Path):
    missing = tmp_path / "config.yml"
    with pytest.raises(InputError, match=r"There is no file .*config\.yml"):
        Report(missing).main()
    with pytest.raises(InputError, match=r"does not end in \.html"):
        Report(missing, tmp_path / "report.pdf").main()
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my own</p>")
    with pytest.raises(InputError, match="is not a report"):
        Report(missing, mine).main()
    assert mine.read_text() == "<p>my own</p>"
