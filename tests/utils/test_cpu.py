import ctypes
import subprocess
import sys

import pytest

from gnerf_ns.utils import cpu as freed_memory
from gnerf_ns.utils.cpu import keep_freed_memory


def test_other_systems_are_left_alone(monkeypatch):
    def refuse(name):
        raise AssertionError("looked for glibc")

    monkeypatch.setattr(freed_memory.sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False


@pytest.mark.parametrize("missing", [OSError("libc.so.6: not found"), AttributeError("mallopt")])
def test_linux_without_glibc_is_left_alone(monkeypatch, missing: Exception):
    def fail(name):
        raise missing

    monkeypatch.setattr(freed_memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert keep_freed_memory() is False


def test_a_refused_setting_is_reported(monkeypatch):
    class Refusing:
        @staticmethod
        def mallopt(name: int, value: int) -> int:
            return int(name != freed_memory.M_TOP_PAD)

    monkeypatch.setattr(freed_memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing)
    assert keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_large_tensors_come_from_kept_memory():
    """Page faults tell: memory that is mapped afresh for each tensor is zeroed by the kernel page by page."""
    code = (
        "import resource, sys, torch\n"
        "from gnerf_ns.utils.cpu import keep_freed_memory\n"
        "if sys.argv[1] == 'keep' and not keep_freed_memory(): print('no glibc'); raise SystemExit\n"
        "for _ in range(10): torch.ones(10 * 2**20)\n"  # 40 MiB each; the heap grows to its final size
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): torch.ones(10 * 2**20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {}
    for choice in ("keep", "return"):
        run = subprocess.run([sys.executable, "-c", code, choice], capture_output=True, text=True, check=True)
        faults[choice] = run.stdout.strip()
    if faults["keep"] == "no glibc":
        pytest.skip("no glibc")
    assert int(faults["keep"]) < 0.2 * int(faults["return"])
