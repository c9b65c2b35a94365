"""Where compiled kernels are kept."""

import os
import subprocess
import sys
from pathlib import Path

LOOK_UP = """
import torch
from gnerf_ns.fields.hash_encoding import CompiledHashEncoding
encoding = CompiledHashEncoding(num_levels=2, min_res=4, max_res=8, log2_hashmap_size=6, implementation="torch")
print(encoding(torch.rand(3, 3)).shape)
"""


def run(**environment: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", LOOK_UP], env={**kept, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_they_are_kept_in_the_users_cache_and_used_again(tmp_path: Path):
    run(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
    kept = list(tmp_path.rglob("*.nbc"))
    assert any("look_up" in path.name for path in kept)
    times = [path.stat().st_mtime_ns for path in kept]
    run(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
    assert [path.stat().st_mtime_ns for path in kept] == times and list(tmp_path.rglob("*.nbc")) == kept


def test_where_there_is_no_such_place_they_are_kept_elsewhere(tmp_path: Path):
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    run(XDG_CACHE_HOME=str(not_a_folder), HOME=str(not_a_folder), TMPDIR=str(tmp_path))
    assert any("look_up" in path.name for path in tmp_path.rglob("*.nbc"))
