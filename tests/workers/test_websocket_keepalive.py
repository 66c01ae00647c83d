"""When a client is pinged, and when it has gone."""

from __future__ import annotations

from outrider.websocket_keepalive import FOREVER, KeepAlive, Step


def test_client_is_pinged_every_interval() -> None:
    keep_alive = KeepAlive(20, 20, 100)
    assert keep_alive.deadline == 120
    assert keep_alive.step(119, listens=True) is Step.WAIT
    assert keep_alive.step(120, listens=True) is Step.PING
    assert keep_alive.deadline == 140
    keep_alive.heard = True
    assert keep_alive.step(140, listens=True) is Step.PING


def test_silent_client_is_given_up() -> None:
    keep_alive = KeepAlive(20, 5, 100)
    keep_alive.heard = True  # before the ping, which proves nothing
    assert keep_alive.step(120, listens=True) is Step.PING
    assert keep_alive.deadline == 125
    assert keep_alive.step(125, listens=True) is Step.GIVE_UP


def test_client_that_is_heard_lives() -> None:
    keep_alive = KeepAlive(20, 5, 100)
    keep_alive.step(120, listens=True)
    keep_alive.heard = True
    assert keep_alive.step(125, listens=True) is Step.WAIT
    assert keep_alive.deadline == 140


def test_timeout_may_be_longer_than_interval() -> None:
    keep_alive = KeepAlive(10, 25, 100)
    assert [keep_alive.step(now, listens=True) for now in (110, 120, 130)] == [Step.PING] * 3
    assert keep_alive.deadline == 135
    assert keep_alive.step(135, listens=True) is Step.GIVE_UP


def test_client_that_is_not_listened_to_lives() -> None:
    keep_alive = KeepAlive(20, 5, 100)
    keep_alive.step(120, listens=True)
    assert keep_alive.step(125, listens=False) is Step.WAIT
    assert keep_alive.step(140, listens=False) is Step.PING
    assert keep_alive.step(145, listens=True) is Step.WAIT


def test_interval_of_0_means_no_pings() -> None:
    assert KeepAlive(0, 20, 100).deadline == FOREVER


def test_timeout_of_0_means_no_giving_up() -> None:
    keep_alive = KeepAlive(20, 0, 100)
    assert keep_alive.step(120, listens=True) is Step.PING
    assert keep_alive.deadline == 140
    assert keep_alive.step(1000, listens=True) is Step.PING
