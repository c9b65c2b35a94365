"""Turns of threads at a lock."""

import threading
import time
from typing import List

import pytest

from gnerf_ns.utils.fair_lock import FairLock, give_way


def wait_until_awaited(lock: FairLock, count: int = 1) -> None:
    while len(lock._queue) <= count:
        time.sleep(0.001)


def waiting_threads(lock: FairLock, names: str, said: List[str]) -> List[threading.Thread]:
    """Threads that wait for a lock that the caller holds, in order."""

    def take(name: str) -> None:
        with lock:
            said.append(name)

    threads = []
    for count, name in enumerate(names):
        threads.append(threading.Thread(target=take, args=(name,), daemon=True))
        threads[-1].start()
        wait_until_awaited(lock, count + 1)
    return threads


def test_who_waits_comes_before_who_locks_again():
    lock, said = FairLock(), []
    with lock:
        threads = waiting_threads(lock, "abc", said)
    with lock:
        said.append("again")
    assert said == ["a", "b", "c", "again"]
    for thread in threads:
        thread.join(timeout=5)


def test_only_one_has_it():
    lock, inside, seen = FairLock(), [], []

    def work() -> None:
        for _ in range(200):
            with lock:
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert seen == [1] * 800 and not lock._queue


def test_a_long_work_gives_way_and_goes_on():
    lock, said = FairLock(), []
    with lock:
        give_way()  # nobody waits
        waiting_threads(lock, "ab", said)
        assert lock.is_awaited
        give_way()
        said.append("on")
        assert not lock.is_awaited
        assert len(lock._queue) == 1  # it is held again
    assert said == ["a", "b", "on"]


def test_who_holds_nothing_gives_no_way():
    lock = FairLock()
    give_way()
    with lock:
        thread = threading.Thread(target=give_way)
        thread.start()
        thread.join(timeout=5)
        assert not thread.is_alive() and len(lock._queue) == 1
    give_way()
    assert not lock._queue


class Interrupted(threading.Condition):
    """A condition whose first wait ends by Ctrl-C."""

    def __init__(self) -> None:
        super().__init__()
        self.is_due = True

    def wait(self, timeout=None):
        if self.is_due:
            self.is_due = False
            raise KeyboardInterrupt
        return super().wait(timeout)


def test_ctrl_c_while_waiting_leaves_the_queue():
    lock = FairLock()
    lock._queue.append(-1)  # somebody else holds it
    lock._condition = Interrupted()
    with pytest.raises(KeyboardInterrupt), lock:
        pytest.fail("it was never ours")
    assert list(lock._queue) == [-1]


def test_ctrl_c_while_giving_way_ends_with_the_lock_in_hand(monkeypatch: pytest.MonkeyPatch):
    lock, said = FairLock(), []
    acquire, interrupts = lock.acquire, [KeyboardInterrupt]

    def interrupted() -> bool:
        if interrupts:
            raise interrupts.pop()
        return acquire()

    with pytest.raises(KeyboardInterrupt), lock:
        threads = waiting_threads(lock, "a", said)
        monkeypatch.setattr(lock, "acquire", interrupted)
        give_way()
    for thread in threads:
        thread.join(timeout=5)
    assert said == ["a"] and not lock._queue
