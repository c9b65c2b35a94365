"""What all tests share: images of the procedural scene, rendered once, no downloads, and no plots at every save."""

import ast
import os
import sys
from pathlib import Path
from typing import Any, Iterator, List
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import _import_hook

if sys.version_info < (3, 11):
    # The last jaxtyping for Python 3.10 checks functions without types, too, and numba cannot compile what it makes of
    # them; newer ones leave them alone. Before anything of the package is imported.
    _visit: Any = _import_hook.JaxtypingTransformer.visit_FunctionDef

    def _visit_typed(self: Any, node: ast.FunctionDef) -> ast.FunctionDef:
        return node if "no_type_check" in map(ast.unparse, node.decorator_list) else _visit(self, node)

    _import_hook.JaxtypingTransformer.visit_FunctionDef = _visit_typed

from gnerf_ns.cameras import plots
from gnerf_ns.demo.scene import ProceduralSceneConfig, render_procedural_scene
from gnerf_ns.training import evaluation, pipeline

LONGEST = "test_end_to_end.py"

settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """The file that takes longest goes first, so that no worker waits for it in the end; what needs CUDA is skipped
    where there is none."""
    items.sort(key=lambda item: item.path.name != LONGEST)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


def pytest_configure(config: pytest.Config) -> None:
    """Workers run side by side and inherit this: waiting threads of one would take the core of another."""
    if config.getoption("numprocesses", None):
        for library in ("OMP", "MKL", "NUMBA"):
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images to train on and two held-out ones, 16x16 RGBA, with true poses in Blender layout."""
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


@pytest.fixture(scope="session", autouse=True)
def blank_plots() -> Iterator[None]:
    """Plots take longer than all else that a tiny training does; `drawn_plots` has them back."""
    blank = np.zeros((8, 12, 3), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "plot_cameras", lambda *arguments: blank)
        patch.setattr(pipeline, "plot_pose_distribution", lambda *arguments: blank)
        yield


@pytest.fixture
def drawn_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test whose plots are those of a real run."""
    monkeypatch.setattr(evaluation, "plot_cameras", plots.plot_cameras)
    monkeypatch.setattr(pipeline, "plot_pose_distribution", plots.plot_pose_distribution)
