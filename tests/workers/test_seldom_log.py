"""Messages of which there may be many, and how few of them are logged."""

from __future__ import annotations

from outrider.seldom_log import SeldomLog
from outrider_testing.fakes import FakeLog

PERIOD = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_first_message_is_logged_as_it_is() -> None:
    log = FakeLog()
    SeldomLog(log.info, Clock(), PERIOD)("%s is %d %%.", "this", 5)
    assert log.messages("info") == ["this is 5 %."]


def test_messages_within_the_period_are_counted_by_the_next_one() -> None:
    log, clock = FakeLog(), Clock()
    seldom = SeldomLog(log.warning, clock, PERIOD)
    for _ in range(4):
        seldom("again.")
        clock.now += PERIOD / 4
    seldom("again.")
    clock.now += PERIOD
    seldom("again.")
    assert log.messages("warning") == [
        "again.",
        "again. (not reported since the last one: 3 more of these)",
        "again.",
    ]


def test_burst_is_logged_in_each_period() -> None:
    log, clock = FakeLog(), Clock()
    seldom = SeldomLog(log.warning, clock, PERIOD, burst=2)
    for _ in range(2):
        for _ in range(5):
            seldom("again")
        clock.now += PERIOD
    more = " (not reported since the last one: 3 more of these)"
    assert log.messages("warning") == ["again", "again", f"again{more}", "again"]
