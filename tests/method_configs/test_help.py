"""What `ns-train METHOD --help` shows, and that what it hides is still in a config.yml."""

from __future__ import annotations

import contextlib
import io
import re
from functools import lru_cache
from pathlib import Path
from typing import List, Set
from unittest import mock

import pytest
import tyro
import yaml
from test_docs import named_options

ROOT = Path(__file__).resolve().parent.parent.parent

METHODS = (
    "gnerf-ns",
    "gnerf-ns-handheld",
    "gnerf-ns-tiny",
    "gnerf-ns-adversarial",
    "gnerf-ns-paper",
    "gnerf-ns-mip360",
    "gnerf-ns-mip360-small",
    "gnerf-splat",
    "noposplat",
    "noposplat-tiny",
)

MAX_OPTIONS = 110
"""nerfacto has 153."""

WIDTH, FIRST_SCREEN = 100, 50
"""Columns and lines of a terminal."""

BEFORE = Path(__file__).parent / "configs_of_version_0_1"
"""What `ns-train` and `gnerf-splat` wrote when their help showed nearly everything."""


@lru_cache
def help_of(method: str) -> List[str]:
    """Lines of `ns-train METHOD --help`, as a terminal breaks them."""
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # else there are no lines around groups
    wide = mock.patch.dict("os.environ", {"COLUMNS": str(WIDTH)})
    with wide, contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        tyro.cli(AnnotatedBaseConfigUnion, args=[method, "--help"], prog="ns-train")  # type: ignore[arg-type]
    assert ended.value.code == 0
    out.seek(0)
    lines = out.read().splitlines()
    return [line[start : start + WIDTH] for line in lines for start in range(0, max(1, len(line)), WIDTH)]


def options_in(lines: List[str]) -> Set[str]:
    return set(re.findall(r"^│ (--[a-z][a-z0-9.-]+)", "\n".join(lines), re.MULTILINE))


@pytest.mark.parametrize("method", METHODS)
def test_the_help_stays_readable(method: str):
    options = options_in(help_of(method))
    assert {"--data", "--output-dir", "--vis"} <= options
    assert len(options) <= MAX_OPTIONS, f"{len(options)} options: hide what only a method's author sets"


@pytest.mark.parametrize("method", ["gnerf-ns", "gnerf-ns-handheld"])
def test_what_the_readme_names_is_on_the_first_screen(method: str):
    named = {
        option.removesuffix(".*")
        for document in ("README.md", "docs/your-images.md")
        for command, option in named_options((ROOT / document).read_text("utf8"))
        if command in ("gnerf-ns", "any method")
    }
    assert {"--data", "--pipeline.poses", "--pipeline.focal-length", "--machine.seed"} <= named and len(named) >= 9
    shown = "\n".join(help_of(method)[:FIRST_SCREEN])
    for option in named - {"--help"}:
        group = option.rpartition(".")[0]
        assert f"{option} " in shown or f"{option}.*" in shown or f"{group}.*" in shown, f"{option} comes too late"


def test_options_of_other_methods_are_as_nerfstudio_has_them():
    assert {"--method-name", "--logging.steps-per-log", "--machine.num-devices", "--viewer.jpeg-quality"} <= options_in(
        help_of("nerfacto")
    )


def test_state_of_a_run_is_no_option():
    text = "\n".join(help_of("gnerf-ns"))
    assert "--pipeline.schedule.phase-a-steps" in text
    for name in ("begins-at", "attempts-left", "scheduler.schedule", "folder-of-runs", "published-cameras"):
        assert name not in text


@pytest.mark.parametrize("path", sorted(BEFORE.glob("*.yml")), ids=lambda path: path.stem)
def test_runs_from_before_options_were_hidden_still_load(path: Path):
    config = yaml.load(path.read_text("utf8"), Loader=yaml.Loader)
    assert config.method_name == path.stem
    assert config.machine.num_machines == 1 and config.logging.steps_per_log == 10
    again = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert vars(again).keys() == vars(config).keys() and again.pipeline == config.pipeline
    if path.stem == "gnerf-ns":
        assert config.pipeline.phase_a == "both" and config.pipeline.model.enable_collider is False
        assert config.optimizers["poses"]["optimizer"].eps == 1e-8
    if path.stem == "noposplat-tiny":
        assert config.clip_norm == 0.5 and config.pipeline.model.network.patch_side == 8
