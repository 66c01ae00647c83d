"""What the log says of a reload that changes more than code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider_supervisor import events
from outrider_testing.fake_masters import SupervisorScene
from outrider_testing.fakes import ManualLoop
from outrider_testing.services import make_service


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisorScene]:
    scene = SupervisorScene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


def reload(scene: SupervisorScene, number: int, **fields: Any) -> None:
    scene.service = make_service(errorlog=str(scene.log), canary=False, workers=1, **fields)
    scene.supervisor.enqueue(events.ReloadAsked(0, canary=False))
    scene.serve(number)


def test_changed_proc_name_waits_for_the_next_start(scene: SupervisorScene) -> None:
    scene.start()
    reload(scene, 2, name="store")
    assert "[WARNING] proc_name is 'store' now: the name stays shop until the next start\n" in scene.logged()


def test_listeners_that_a_reload_opens_and_closes_are_told(scene: SupervisorScene) -> None:
    scene.start()
    (before,) = scene.supervisor.seam.listeners.descriptions()
    reload(scene, 2, addresses=(("127.0.0.2", 0),))
    (after,) = scene.supervisor.seam.listeners.descriptions()
    assert f"[INFO] listener opened: {after}\n" in scene.logged()
    assert f"[INFO] listener closed: {before}\n" in scene.logged()


def test_reload_without_another_listener_tells_of_none(scene: SupervisorScene) -> None:
    scene.start()
    reload(scene, 2)
    assert "proc_name" not in scene.logged()
    assert "] listener " not in scene.logged()
