"""What all tests share: pictures of the procedural scene, rendered once, and no downloads."""

from pathlib import Path
from typing import Iterator
from urllib.error import URLError

import pytest

from gnerf_ns.data.procedural_scene import ProceduralSceneConfig, render_procedural_scene


@pytest.fixture(scope="session")
def tiny_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures to train on and two held-out ones, 16x16 RGBA, with true poses in Blender layout."""
    folder = tmp_path_factory.mktemp("tiny_scene")
    render_procedural_scene(folder, ProceduralSceneConfig(num_train=7, num_test=2, image_side=16, samples_per_side=2))
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_downloads() -> Iterator[None]:
    """LPIPS would fetch the weights of AlexNet, 230 MB."""
    import torchmetrics.image.lpip as lpip

    def refuse(*arguments, **options):
        raise URLError("tests download nothing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", refuse)
        yield
