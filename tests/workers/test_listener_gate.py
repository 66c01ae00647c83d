"""The accept gate: how the connections of one listener spread over workers."""

from __future__ import annotations

import pytest

from outrider.balance import LEAD, LEAD_PART
from outrider.listener import MOST_AT_ONCE, STEP_ASIDE
from outrider.scoreboard import Field, WorkerState
from outrider_testing.server_fakes import MakeScene, Scene, eventually


def step_aside(make_scene: MakeScene, connections: int) -> Scene:
    """A worker that has taken its lead of so many connections, beside a peer that has none."""
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(connections)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    return scene


def test_worker_without_peers_takes_everything(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.connect(3 * MOST_AT_ONCE)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 3 * MOST_AT_ONCE)


def test_worker_takes_a_bounded_number_before_it_does_other_work(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.connect(MOST_AT_ONCE + 1)
    scene.listener.resume()
    scene.sock.accepts = 0
    scene.loop.call_soon(scene.loop.stop)
    scene.loop.run_forever()
    assert scene.sock.accepts == MOST_AT_ONCE


def test_worker_takes_its_lead_and_steps_aside(make_scene: MakeScene) -> None:
    scene = step_aside(make_scene, LEAD + 3)
    assert scene.held == LEAD


def test_lead_grows_with_the_number_of_connections(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=2 * LEAD_PART)
    scene.connect(3 * LEAD_PART)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 2 * LEAD_PART + LEAD + 2)
    assert scene.held == 2 * LEAD_PART + LEAD + 2


def test_freer_worker_takes_what_the_others_leave(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=100)
    scene.neighbours.add(connections=90)
    scene.connect(20)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 20)


def test_batch_doubles_after_each_fruitless_wait(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(100)
    scene.listener.resume()
    expected = LEAD
    eventually(scene.loop, lambda: scene.held == expected)
    for batch in (2, 4, 8, MOST_AT_ONCE, MOST_AT_ONCE):
        expected += batch
        scene.loop.advance(STEP_ASIDE)
        assert scene.held == expected


def test_worker_stays_aside_while_a_freer_one_accepts(make_scene: MakeScene) -> None:
    scene = make_scene()
    peer = scene.neighbours.add(connections=0)
    scene.connect(100)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    scene.loop.advance(STEP_ASIDE)
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 2 + 4
    for count in (1, 2, 3):
        peer[Field.CONNECTIONS] = count
        scene.loop.advance(STEP_ASIDE)
        assert scene.held == LEAD + 2 + 4
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 2 + 4 + 2, "the batch begins anew"


def test_worker_takes_its_share_when_the_others_have_caught_up(make_scene: MakeScene) -> None:
    scene = make_scene()
    peer = scene.neighbours.add(connections=0)
    scene.connect(100)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    peer[Field.CONNECTIONS] = 4
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 4


def test_empty_queue_resets_the_batch(make_scene: MakeScene) -> None:
    scene = step_aside(make_scene, LEAD + 3)
    scene.loop.advance(STEP_ASIDE)
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 3
    scene.connect(10)
    scene.loop.run_ready()
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 3 + 2


@pytest.mark.parametrize(
    "state, heartbeat_age",
    [
        (WorkerState.READY, 2.5),
        (WorkerState.SPAWNED, 0.0),
        (WorkerState.BOOTING, 0.0),
        (WorkerState.DRAINING, 0.0),
        (WorkerState.EXITED, 0.0),
    ],
)
def test_worker_that_can_not_accept_is_not_waited_for(
    make_scene: MakeScene, state: WorkerState, heartbeat_age: float
) -> None:
    scene = make_scene()
    scene.neighbours.add(0, state, heartbeat_age)
    scene.connect(2 * LEAD)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 2 * LEAD)


def test_released_worker_is_not_waited_for(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0).release()
    scene.connect(2 * LEAD)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 2 * LEAD)


def test_worker_with_a_private_row_steps_aside_too(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.neighbours.row.release()
    assert scene.neighbours.row.index is None
    scene.connect(2 * LEAD)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    assert scene.held == LEAD


def test_gate_can_be_switched_off(make_scene: MakeScene) -> None:
    scene = make_scene(accept_gate=False)
    scene.neighbours.add(connections=0)
    scene.connect(3 * MOST_AT_ONCE)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 3 * MOST_AT_ONCE)


def test_listener_paused_while_aside_stays_away_until_resumed(make_scene: MakeScene) -> None:
    scene = step_aside(make_scene, LEAD + 1)
    scene.listener.pause()
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD
    scene.listener.resume()
    scene.loop.run_ready()
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 1


def test_listener_resumed_while_aside_keeps_waiting(make_scene: MakeScene) -> None:
    scene = step_aside(make_scene, LEAD + 1)
    scene.listener.pause()
    scene.listener.resume()
    assert scene.held == LEAD
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 1
