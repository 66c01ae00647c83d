from __future__ import annotations

import pytest

from outrider_supervisor.backoff import CRASH_WINDOW, JITTER, LONGEST_BACKOFF, SETTLED_AFTER, Backoff


@pytest.fixture
def backoff() -> Backoff:
    return Backoff(restart_intensity=2, random=lambda: 0.0)


def fail_times(backoff: Backoff, count: int) -> list[float | None]:
    """Fail, wait, try again."""
    waits = []
    now = 0.0
    for _ in range(count):
        waits.append(backoff.note_failure(now, spawned_at=now))
        now = backoff.spawn_at
    return waits


def test_first_worker_is_spawned_at_once(backoff: Backoff) -> None:
    assert backoff.spawn_at < 0


def test_each_failure_doubles_the_wait_up_to_a_minute(backoff: Backoff) -> None:
    assert fail_times(backoff, 9) == [1, 2, 4, 8, 16, 32, LONGEST_BACKOFF, LONGEST_BACKOFF, LONGEST_BACKOFF]


def test_thousands_of_failures_do_not_overflow(backoff: Backoff) -> None:
    assert fail_times(backoff, 3000)[-1] == LONGEST_BACKOFF


def test_jitter_shortens_the_wait() -> None:
    backoff = Backoff(restart_intensity=2, random=lambda: 0.999)
    assert backoff.note_failure(10.0, 9.0) == pytest.approx(1 - JITTER, abs=0.001)
    assert backoff.spawn_at == pytest.approx(11 - JITTER, abs=0.001)


def test_workers_spawned_together_fail_once(backoff: Backoff) -> None:
    assert backoff.note_failure(1.0, spawned_at=0.0) == 1.0
    assert backoff.note_failure(1.1, spawned_at=0.0) is None
    assert backoff.failures == 1


def test_crashes_up_to_the_intensity_need_no_wait(backoff: Backoff) -> None:
    assert [backoff.note_crash(now, spawned_at=now) for now in (1.0, 2.0)] == [None, None]
    assert backoff.failures == 0


def test_crash_beyond_the_intensity_waits(backoff: Backoff) -> None:
    for now in (1.0, 2.0):
        backoff.note_crash(now, spawned_at=0.0)
    assert backoff.note_crash(3.0, spawned_at=0.0) == 1.0


def test_crashes_are_forgotten_after_the_window(backoff: Backoff) -> None:
    for now in (1.0, 2.0):
        backoff.note_crash(now, spawned_at=0.0)
    assert backoff.note_crash(1.1 + CRASH_WINDOW, spawned_at=0.0) is None


def test_intensity_of_zero_waits_for_no_crash() -> None:
    backoff = Backoff(restart_intensity=0, random=lambda: 0.0)
    assert all(backoff.note_crash(now, spawned_at=0.0) is None for now in range(100))


def test_worker_that_serves_for_a_while_ends_the_row(backoff: Backoff) -> None:
    fail_times(backoff, 3)
    backoff.note_service(100.0, spawned_at=50.0, ready_at=100.0 - SETTLED_AFTER)
    assert backoff.note_failure(100.0, spawned_at=99.0) == 1.0


@pytest.mark.parametrize("spawned_at, ready_at", [(0.0, 1.0), (50.0, 91.0)], ids=["older than the failure", "too new"])
def test_other_workers_do_not_end_the_row(backoff: Backoff, spawned_at: float, ready_at: float) -> None:
    fail_times(backoff, 3)
    backoff.note_service(100.0, spawned_at, ready_at)
    assert backoff.failures == 3


def test_row_goes_on_while_workers_crash(backoff: Backoff) -> None:
    for now in (80.0, 81.0, 82.0):
        backoff.note_crash(now, spawned_at=0.0)
    backoff.note_service(100.0, spawned_at=85.0, ready_at=86.0)
    assert backoff.failures == 1
