"""Workers as processes: held by the supervisor although they are the masters' children."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from outrider_supervisor.processes import Children
from outrider_supervisor.worker_watch import WorkerWatch
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import is_running, read_process
from outrider_testing.waiting import until

FORKER = """\
import os, signal, sys
worker = os.fork()
if not worker:
    signal.pause()
print(worker, flush=True)
sys.stdin.read()
os.kill(worker, signal.SIGKILL)
os.waitpid(worker, 0)
"""


class Scene:
    def __init__(self, loop: ManualLoop) -> None:
        self.loop = loop
        self.children = Children(loop)
        self.gone: list[int] = []
        self.watch = WorkerWatch(self.children, self.gone.append)
        self.own: list[int] = []

    def own_child(self) -> int:
        """A worker whose master has died: the subreaper is its parent."""
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        self.own.append(pid)
        return pid

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> object:
            self.loop.run_ready()
            return condition()

        until(look, what=what)

    def close(self) -> None:
        for pid in self.own:
            if read_process(pid) is not None:
                os.kill(pid, signal.SIGKILL)
        self.children.close()
        for pid in self.own:
            if read_process(pid) is not None:
                os.waitpid(pid, 0)


@pytest.fixture
def scene(loop: ManualLoop) -> Iterator[Scene]:
    scene = Scene(loop)
    yield scene
    scene.close()


@pytest.fixture
def master() -> Iterator[tuple[int, int]]:
    """A master and its worker. The master ends the worker when the test is over."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())


def test_worker_of_its_master_is_signalled_and_missed(scene: Scene, master: tuple[int, int]) -> None:
    master_pid, worker = master
    scene.watch.add(worker, master_pid)
    assert scene.watch.signal(worker, 0)
    assert scene.gone == []
    assert scene.watch.signal(worker, signal.SIGKILL)
    scene.until(lambda: scene.gone == [worker], "news of the worker's end")
    assert not scene.watch.signal(worker, signal.SIGKILL)


def test_worker_that_was_inherited_is_watched_and_reaped(scene: Scene) -> None:
    worker = scene.own_child()
    scene.watch.add(worker, None)
    assert scene.watch.signal(worker, signal.SIGTERM)
    scene.until(lambda: scene.gone == [worker], "news of the worker's end")
    assert read_process(worker) is None


def test_worker_that_was_inherited_between_two_messages_is_watched(scene: Scene) -> None:
    worker = scene.own_child()
    scene.watch.add(worker, 1)  # its master was the process 1 when it said so
    assert scene.watch.signal(worker, 0)


def test_stranger_is_not_watched_but_reported_gone(scene: Scene, master: tuple[int, int]) -> None:
    _, stranger = master
    scene.watch.add(stranger, os.getppid())
    assert scene.gone == [stranger]
    assert not scene.watch.signal(stranger, signal.SIGKILL)
    assert is_running(stranger)


def test_worker_that_is_gone_is_reported_so(scene: Scene) -> None:
    worker = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(worker, 0)
    scene.watch.add(worker, os.getpid())
    assert scene.gone == [worker]


def test_worker_that_goes_while_it_is_looked_at_is_reported_gone(
    scene: Scene, master: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    master_pid, worker = master
    adopt = scene.children.adopt

    def adopt_and_lose(pid: int) -> object:
        process = adopt(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return process

    worker = scene.own_child()
    monkeypatch.setattr(scene.children, "adopt", adopt_and_lose)
    scene.watch.add(worker, master_pid)
    assert scene.gone == [worker]
    assert not scene.watch.signal(worker, signal.SIGKILL)


@contextlib.contextmanager
def no_descriptors(*, left: int) -> Iterator[None]:
    """Let this process open so many more, and no others."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(left)]
    with contextlib.ExitStack() as filled:
        filled.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), before[1]))  # noqa: PTH208  # names
        try:
            while True:
                filled.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
        yield


@pytest.mark.parametrize("left", [0, 1])
def test_worker_for_which_no_descriptor_is_left_is_watched_later(
    scene: Scene, master: tuple[int, int], left: int
) -> None:
    master_pid, worker = master
    with no_descriptors(left=left):
        scene.watch.add(worker, master_pid)
        scene.watch.catch_up()
    assert scene.gone == []
    assert not scene.watch.signal(worker, 0)
    scene.watch.catch_up()
    assert scene.watch.signal(worker, 0)
    assert scene.gone == []


def test_unknown_worker_is_not_signalled(scene: Scene) -> None:
    assert not scene.watch.signal(os.getpid(), signal.SIGKILL)
