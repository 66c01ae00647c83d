"""Signals to the supervisor process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_supervisor.handled_signals import HANDLED_SIGNALS
from outrider_supervisor.messages import ReopenLogs, SetTarget, Stop, WorkerReady
from outrider_testing.fake_masters import SupervisorScene
from outrider_testing.fakes import ManualLoop


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisorScene]:
    scene = SupervisorScene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


def test_hup_reloads(scene: SupervisorScene) -> None:
    scene.run()
    signal.raise_signal(signal.SIGHUP)
    scene.serve(2)
    scene.until(lambda: scene.supervisor.machine.operation is None, "the end of the reload")
    assert scene.notifier.told.count("reloading") == 1
    assert Stop(fast=False) in scene.masters[1].told()
    scene.end_generation(1)


def test_ttin_and_ttou_scale(scene: SupervisorScene) -> None:
    scene.run()
    signal.raise_signal(signal.SIGTTIN)
    scene.loop.run_ready()
    assert SetTarget(2) in scene.masters[1].told()
    pid = scene.spawn(1)
    scene.masters[1].say(WorkerReady(pid))
    scene.until(lambda: scene.supervisor.machine.operation is None, "the second worker")
    assert scene.notifier.told[-1] == "Serving with 2 of 2 workers (generation 1)"
    signal.raise_signal(signal.SIGTTOU)
    scene.loop.run_ready()
    assert SetTarget(1) in scene.masters[1].told()


def test_usr1_reopens_the_logs_of_all(scene: SupervisorScene) -> None:
    scene.run()
    scene.log.rename(scene.log.with_suffix(".1"))
    signal.raise_signal(signal.SIGUSR1)
    scene.loop.run_ready()
    assert "log files reopened" in scene.logged()
    assert ReopenLogs() in scene.masters[1].told()


def test_usr2_upgrades(scene: SupervisorScene) -> None:
    called: list[bool] = []

    async def upgrade() -> None:
        called.append(True)

    scene.supervisor.seam.upgrade = upgrade
    scene.run()
    signal.raise_signal(signal.SIGUSR2)
    scene.loop.run_ready()
    assert called == [True]


def test_winch_is_ignored(scene: SupervisorScene) -> None:
    scene.run()
    before = scene.logged()
    signal.raise_signal(signal.SIGWINCH)
    scene.loop.run_ready()
    assert scene.logged() == before


def test_strangers_are_reaped_on_chld(scene: SupervisorScene) -> None:
    scene.run()
    stranger = os.posix_spawn("/bin/true", ["true"], {})
    scene.until(lambda: not Path(f"/proc/{stranger}").exists(), "a reaped stranger")


def test_signals_that_were_blocked_are_let_through(scene: SupervisorScene) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    scene.supervisor.listen_to_signals()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(HANDLED_SIGNALS)


# -- the end


def test_second_term_stops_at_once(scene: SupervisorScene) -> None:
    task = scene.run()
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
        scene.loop.run_ready()
    assert [each for each in scene.masters[1].told() if isinstance(each, Stop)] == [Stop(fast=False), Stop(fast=True)]
    scene.end_generation(1)
    scene.until(task.done, "the end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_stop_at_once(scene: SupervisorScene, number: int) -> None:
    task = scene.run()
    signal.raise_signal(number)
    scene.loop.run_ready()
    assert Stop(fast=True) in scene.masters[1].told()
    scene.end_generation(1)
    scene.until(task.done, "the end")


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """The test changes what signals do."""
    before = {number: signal.getsignal(number) for number in HANDLED_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("restored_signals")
def test_signal_after_the_end_is_ignored(scene: SupervisorScene) -> None:
    scene.supervisor.listen_to_signals()
    scene.supervisor.ignore_signals()
    for number in HANDLED_SIGNALS:
        signal.raise_signal(number)
    assert {signal.getsignal(number) for number in HANDLED_SIGNALS if number != signal.SIGCHLD} == {signal.SIG_IGN}
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL  # children are reaped on
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(HANDLED_SIGNALS)
    scene.loop.run_ready()
    assert scene.supervisor.machine.waiting == ()
