"""Pictures of the procedural scene, rendered once for all tests."""

from pathlib import Path

import pytest

from gnerf_ns.data.procedural_scene import ProceduralSceneConfig, render_procedural_scene


@pytest.fixture(scope="session")
def tiny_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures to train on and two held-out ones, 16x16 RGBA, with true poses in Blender layout."""
    folder = tmp_path_factory.mktemp("tiny_scene")
    render_procedural_scene(folder, ProceduralSceneConfig(num_train=7, num_test=2, image_side=16, samples_per_side=2))
    return folder
