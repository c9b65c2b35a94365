import shutil
from pathlib import Path

import pytest
from tiny_run import build_pipeline, pipeline_config

from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.utils.errors import InputError


def test_evaluation_without_held_out_images_ends_on_one_sentence(tiny_scene: Path, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted(tiny_scene.rglob("*.png"))):
        shutil.copy(path, folder / f"{number}.png")
    data = UnposedDataManagerConfig(data=folder, max_image_side=16, dataparser=UnposedDataParserConfig(eval_interval=0))
    pipeline = build_pipeline(pipeline_config(folder, "transport", datamanager=data))
    with pytest.raises(InputError, match=r"no held-out images to evaluate on; .*--eval-interval") as error:
        pipeline.get_average_eval_image_metrics(output_path=tmp_path, get_std=True)
    assert "\n" not in str(error.value)
