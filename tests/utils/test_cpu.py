import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from gnerf_ns.utils import cpu
from gnerf_ns.utils.cpu import keep_freed_memory


def test_other_systems_are_left_alone(monkeypatch):
    def refuse(name):
        raise AssertionError("looked for glibc")

    monkeypatch.setattr(cpu.sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False


@pytest.mark.parametrize("missing", [OSError("libc.so.6: not found"), AttributeError("mallopt")])
def test_linux_without_glibc_is_left_alone(monkeypatch, missing: Exception):
    def fail(name):
        raise missing

    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert keep_freed_memory() is False


def test_a_refused_setting_is_reported(monkeypatch):
    class Refusing:
        @staticmethod
        def mallopt(name: int, value: int) -> int:
            return int(name != cpu.M_TOP_PAD)

    monkeypatch.setattr(cpu.sys, "platform", "linux")
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


class FakeTeam(cpu.IdleTeam):
    def __init__(self) -> None:
        self.started = False

    @property
    def exists(self) -> bool:
        return self.started

    def start(self) -> None:
        self.started = True

    def stop(self) -> None:
        self.started = False


def test_threads_spin_less_while_the_machine_is_crowded_and_again_once_it_has_been_quiet():
    times = [cpu.Waiting(0, 0)]
    team = FakeTeam()
    sharing = cpu.CoreSharing(team, look=lambda: times[-1])

    def after(running: int, waiting: int) -> bool:
        times.append(cpu.Waiting(times[-1].running_ns + running, times[-1].waiting_ns + waiting))
        sharing.update()
        return team.exists

    assert not after(1000, 10)
    assert not after(1000, 50), "neither crowded nor quiet"
    assert after(1000, 500)
    assert after(1000, 50)
    assert [after(1000, 0) for _ in range(cpu.QUIET_LOOKS)] == [True] * (cpu.QUIET_LOOKS - 1) + [False]
    times.append(cpu.Waiting(0, 0))  # threads that have ended
    sharing.update()
    assert not team.exists


@pytest.mark.skipif(not cpu.loaded_libgomps(), reason="torch brings no libgomp here")
def test_an_idle_team_has_threads_of_its_own_until_it_is_stopped():
    def num_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    torch.zeros(1_000_000).add_(1.0)  # torch's own threads are there from now on
    libraries = cpu.loaded_libgomps()
    team, before = cpu.IdleTeam(), num_threads()
    team.start()
    team.start()
    assert team.exists and num_threads() == before + 1 + len(libraries) * ((os.cpu_count() or 1) - 1)
    team.stop()
    for _ in range(200):
        if num_threads() == before:
            break
        time.sleep(0.01)
    assert not team.exists and num_threads() == before
    torch.testing.assert_close(torch.ones(1_000_000).sum(), torch.tensor(1e6))


def test_threads_of_this_process_have_been_running():
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("the system has no such figures")
    assert cpu.waiting_of_threads().running_ns > 0


def test_nothing_is_changed_where_the_environment_says_how_to_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    before = threading.active_count()
    assert cpu.share_cores.__wrapped__() is False
    assert threading.active_count() == before
