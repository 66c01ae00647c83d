"""What is wanted of the service, and in which order it comes."""

from __future__ import annotations

import pytest

from outrider_supervisor.actions import Action, Code, Finish, Level, Log, Progress
from outrider_supervisor.agenda import Agenda
from outrider_supervisor.fleet import Outbox
from outrider_supervisor.intents import Intent, Recycle, Reload, Scale, Upgrade

SUPERSEDED = "a newer request of the same kind took its place"


class Scene:
    """An agenda, and what is told to who asked."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.agenda = Agenda(self.outbox)

    def add(self, *operations: Intent, has_started: bool = True) -> list[Action]:
        for operation in operations:
            self.agenda.add(operation, has_started=has_started)
        return self.outbox.take()

    def begin(self, *, has_master: bool = True) -> Intent | None:
        return self.agenda.take_next(has_master=has_master)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_operation_that_can_begin_at_once_is_told_of_no_wait(scene: Scene) -> None:
    assert scene.add(Scale(7, 3)) == []
    assert scene.begin() is scene.agenda.operation
    assert scene.agenda.asker == 7


def test_nothing_begins_while_an_operation_is_under_way(scene: Scene) -> None:
    scene.add(Scale(1, 3), Reload(2, canary=True))
    scene.begin()
    assert scene.begin() is None
    assert scene.agenda.waiting == (Reload(2, canary=True),)


def test_waiting_operation_is_told_what_it_waits_for(scene: Scene) -> None:
    assert scene.add(Upgrade(1), has_started=False) == [Progress(1, "waits until the service has started")]
    scene.begin()
    assert scene.add(Scale(2, 3), Scale(0, 3))[0] == Progress(2, "waits until the operation under way is over")


@pytest.mark.parametrize(
    "older, newer",
    [(Reload(1, canary=True), Reload(2, canary=False)), (Scale(1, 2), Scale(2, 3)), (Upgrade(1), Upgrade(2))],
)
def test_newest_of_a_kind_waits_alone(scene: Scene, older: Intent, newer: Intent) -> None:
    assert scene.add(older, newer) == [Finish(1, Code.SUPERSEDED, SUPERSEDED)]
    assert scene.agenda.waiting == (newer,)


def test_every_recycling_waits(scene: Scene) -> None:
    recyclings = [Recycle(number, 100 + number) for number in (1, 2, 3)]
    assert scene.add(*recyclings) == []
    assert [scene.begin(), *scene.agenda.waiting] == recyclings


def test_reload_alone_can_begin_without_a_master(scene: Scene) -> None:
    scene.add(Scale(1, 3), Recycle(2, 0), Upgrade(3))
    assert scene.begin(has_master=False) is None
    scene.add(Reload(4, canary=True))
    assert scene.begin(has_master=False) == Reload(4, canary=True)


def test_recovery_is_an_operation_that_nobody_waits_for(scene: Scene) -> None:
    scene.add(Scale(1, 3))
    assert scene.agenda.begin_recovery() is scene.agenda.operation
    assert scene.agenda.asker == 0
    assert scene.begin() is None


def test_only_what_clients_wait_for_is_given_up(scene: Scene) -> None:
    scene.add(Recycle(1, 101), Reload(0, canary=True), Scale(2, 3))
    assert scene.agenda.give_up_waiting() == [1, 2]
    assert scene.agenda.waiting == (Reload(0, canary=True),)
    assert scene.agenda.give_up_waiting() == []


@pytest.mark.parametrize(
    "waiting, kept",
    [
        ([Reload(0, canary=True), Reload(1, canary=False), Reload(2, canary=False)], Reload(0, canary=True)),
        ([Scale(0, 3), Scale(1, 5)], Scale(0, 3)),
        ([Scale(0, 3), Scale(1, 5), Scale(0, 6)], Scale(0, 6)),
    ],
)
def test_signal_is_not_given_up_with_the_client_that_took_its_place(
    scene: Scene, waiting: list[Intent], kept: Intent
) -> None:
    scene.add(*waiting)
    scene.agenda.give_up_waiting()
    assert scene.agenda.waiting == (kept,)


def test_signal_is_served_by_the_client_that_took_its_place(scene: Scene) -> None:
    scene.add(Reload(0, canary=True), Reload(1, canary=True))
    assert scene.begin() == Reload(1, canary=True)
    scene.add(Reload(2, canary=True))
    scene.agenda.give_up_waiting()
    assert scene.agenda.waiting == ()


def test_failure_is_logged_but_that_of_a_reload_which_has_said_so(scene: Scene) -> None:
    for operation in (Scale(1, 3), Reload(2, canary=True)):
        scene.agenda.add(operation, has_started=True)
        scene.begin()
        scene.agenda.end(Code.FAILED, "no", generation=4, blamed=5, details="Traceback")
    assert scene.outbox.take() == [
        Log(Level.WARNING, "no"),
        Finish(1, Code.FAILED, "no", 4, 5, "Traceback"),
        Finish(2, Code.FAILED, "no", 4, 5, "Traceback"),
    ]
    assert scene.agenda.operation is None


def test_end_without_an_operation_is_told_to_nobody(scene: Scene) -> None:
    scene.agenda.end(Code.FAILED, "no")
    assert scene.outbox.take() == []


def test_stop_gives_up_what_is_under_way_and_what_waits(scene: Scene) -> None:
    scene.add(Scale(1, 3), Reload(2, canary=True))
    scene.begin()
    scene.agenda.stop()
    told = "the service was told to stop"
    done = [each for each in scene.outbox.take() if isinstance(each, Finish)]
    assert done == [Finish(1, Code.STOPPING, told), Finish(2, Code.STOPPING, told)]
    assert (scene.agenda.operation, scene.agenda.waiting) == (None, ())
    assert scene.add(Upgrade(3)) == [Finish(3, Code.STOPPING, "the service is stopping")]


def test_all_who_wait_for_the_end_are_told_once(scene: Scene) -> None:
    for number in (1, 2):
        scene.agenda.await_stop(number)
    scene.agenda.tell_stops("1 left")
    scene.agenda.finish_stops()
    scene.agenda.finish_stops()
    assert scene.outbox.take() == [
        Progress(1, "1 left"),
        Progress(2, "1 left"),
        Finish(1, Code.DONE, "stopped"),
        Finish(2, Code.DONE, "stopped"),
    ]
