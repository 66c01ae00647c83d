"""`outrider status` for people."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from outrider_supervisor.status import StallStatus
from outrider_supervisor.status_view import MOST_EVENTS, MOST_STALLS, WIDTH, render_status
from outrider_testing.statuses import NOW, make_generation, make_status, make_worker


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_view_shows_the_service_at_a_glance() -> None:
    events = [{"at": NOW - 5, "level": "info", "text": "generation 3 is current, serving with 4 of 4 workers"}]
    text = render_status(make_status(make_generation(make_worker()), events=events), NOW)
    assert text == (
        "shop: serving, 3 of 4 workers ready\n"
        "outrider 0.1.0, pid 4242, up 3h12m, http://127.0.0.1:8000\n"
        "\n"
        "     PID STATE        AGE  IN-FLIGHT  REQUESTS    5XX     LAG    CPU   MEMORY\n"
        "generation 3: current, 12s, master 4700\n"
        "    4711 ready      3h12m          3      1.2k      0     2ms    12%      46M\n"
        "\n"
        "Latest events\n"
        "14:13:15  generation 3 is current, serving with 4 of 4 workers\n"
    )


def test_view_shows_each_generation_with_its_workers() -> None:
    old = make_generation(make_worker(1, state="draining"), number=2, state="rolling back")
    new = make_generation(make_worker(2), make_worker(3, state="booting"), number=3, state="canary")
    lines = render_status(make_status(old, new), NOW).splitlines()
    assert [line.split()[:2] for line in lines[4:]] == [
        ["generation", "2:"],
        ["1", "draining"],
        ["generation", "3:"],
        ["2", "ready"],
        ["3", "booting"],
    ]


def make_stall(frame: str, **changes: object) -> StallStatus:
    stall: StallStatus = {
        "frame": frame,
        "hangs_in": "",
        "count": 1,
        "seconds": 1.25,
        "longest": 1.25,
        "last": NOW - 60,
        "worker": 4711,
        "stack": "not shown",
    }
    stall.update(changes)  # type: ignore[typeddict-item]  # as above
    return stall


def test_view_shows_who_blocked_the_event_loops() -> None:
    hangs = "socket.create_connection socket.py:851"
    stalls = [
        make_stall("shop.views.pay shop/views.py:41", count=3, seconds=4.5, longest=2.0, hangs_in=hangs),
        make_stall("shop.stock shop/stock.py:7", last=NOW - 2 * 86400),
    ]
    text = render_status(make_status(make_generation(make_worker()), stalls=stalls), NOW)
    assert text.endswith(
        "\nBlocked event loops\n"
        "14:12:20  3 times, 4.5 s, longest 2.0 s, worker 4711: shop.views.pay\n"
        "          shop/views.py:41, in socket.create_connection socket.py:851\n"
        "09-19 14:13  1 time, 1.2 s, worker 4711: shop.stock shop/stock.py:7\n"
    )


def test_view_shows_the_latest_stalls_and_no_heading_without_any() -> None:
    stalls = [make_stall(f"frame {number}") for number in range(MOST_STALLS + 1)]
    text = render_status(make_status(make_generation(make_worker()), stalls=stalls), NOW)
    assert f"frame {MOST_STALLS - 1}" in text
    assert f"frame {MOST_STALLS}" not in text
    assert "Blocked" not in render_status(make_status(stalls=[]), NOW)


def test_view_shows_that_the_next_worker_waits() -> None:
    generation = make_generation(make_worker())
    generation["backoff"] = {"failures": 3, "until": NOW + 12}
    lines = render_status(make_status(generation), NOW).splitlines()
    assert lines[-1] == "       - backoff  3 failures in a row, the next worker is started in 12s"
    assert lines[3].startswith("     PID STATE ")


def test_view_can_show_the_status_of_a_supervisor_that_tells_of_no_backoff() -> None:
    generation = make_generation(make_worker())
    del generation["backoff"]  # type: ignore[misc]  # as an older one has it
    assert "backoff" not in render_status(make_status(generation), NOW)


def test_view_shows_what_is_not_known_as_a_dash() -> None:
    unknown = dict.fromkeys(("in_flight", "requests", "errors_5xx", "loop_lag_ms", "cpu_percent", "memory_bytes"))
    text = render_status(make_status(make_generation(make_worker(4711, **unknown))), NOW)
    assert re.search(r"4711 ready +3h12m +- +- +- +- +- +-$", text, re.MULTILINE)


def test_view_says_that_a_master_is_gone() -> None:
    generation = make_generation(make_worker())
    generation["master_pid"] = None
    assert "generation 3: current, 12s, its master is gone" in render_status(make_status(generation), NOW)


def test_view_shows_the_operation_under_way() -> None:
    operation = {"name": "reload", "since": NOW - 7, "progress": "generation 4: 1 of 4 workers ready"}
    text = render_status(make_status(operation=operation), NOW)
    assert "\nreload under way for 7s: generation 4: 1 of 4 workers ready\n" in text
    text = render_status(make_status(operation={"name": "scale", "since": None, "progress": ""}), NOW)
    assert "\nscale under way\n" in text


def test_view_shows_the_last_events_with_their_level_and_an_older_date() -> None:
    events = [{"at": NOW - 86400 * 3, "level": "warning", "text": f"event {number}"} for number in range(9)]
    text = render_status(make_status(events=events), NOW)
    assert re.findall(r"event \d", text) == [f"event {number}" for number in range(9 - MOST_EVENTS, 9)]
    assert "09-18 14:13  warning: event 8\n" in text


def test_view_fits_into_80_columns() -> None:
    worker = make_worker(
        4194304, state="draining", age=86400 * 400.0, in_flight=99999, requests=10**13, errors_5xx=10**8,
        loop_lag_ms=123456.0, cpu_percent=100.0, memory_bytes=1 << 45,
    )  # fmt: skip
    status = make_status(
        make_generation(worker, number=12345, state="rolling back"),
        addresses=[f"http://[2001:db8::{number}]:8000" for number in range(9)],
        operation={"name": "reload", "since": NOW, "progress": "word " * 100},
        events=[{"at": NOW, "level": "error", "text": "word " * 200 + "\n" + "x" * 300}],
    )
    lines = render_status(status, NOW).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) < 24
    assert lines[-1].endswith(" ...")


def test_view_colours_the_state_only_where_asked() -> None:
    status = make_status(make_generation(make_worker()), state="degraded")
    assert "\x1b" not in render_status(status, NOW)
    assert render_status(status, NOW, colour=True).startswith("shop: \x1b[31mdegraded\x1b[0m,")


def test_view_lets_no_text_steer_the_terminal() -> None:
    events = [{"at": NOW, "level": "error", "text": "a\x1b[2Jb"}]
    text = render_status(make_status(name="\x1b[31mshop", state="\x1b[0m", events=events), NOW, colour=True)
    assert "\x1b" not in text


def test_event_with_a_traceback_is_one_sentence() -> None:
    text = "reload refused: app raised KeyError: 1\nTraceback (most recent call last):\n  File x"
    shown = render_status(make_status(events=[{"at": NOW, "level": "error", "text": text}]), NOW)
    assert shown.endswith("error: reload refused: app raised KeyError: 1\n")


def test_service_without_an_address_has_no_comma_for_it() -> None:
    assert render_status(make_status(addresses=[], since=NOW - 76), NOW).splitlines()[1].endswith("up 1m16s")


def test_lag_of_a_worker_that_boots_is_not_known() -> None:
    booting = make_worker(state="booting", loop_lag_ms=0.0)
    assert "0ms" not in render_status(make_status(generations=[make_generation(booting)]), NOW)


def test_view_shows_what_the_autoscaler_goes_by() -> None:
    autoscaler = {
        "min": 1,
        "max": 8,
        "target": 4,
        "demand": 3.1,
        "utilisation": 0.8,
        "reason": "demand 3.10",
        "vetoes": [],
    }
    lines = render_status(make_status(autoscaler=autoscaler), NOW).splitlines()
    assert lines[2] == "autoscaler: 1 to 8 workers, demand 3.10"
    held = {**autoscaler, "reason": "", "vetoes": ["memory", "booting"]}
    lines = render_status(make_status(autoscaler=held), NOW).splitlines()
    assert lines[2] == "autoscaler: 1 to 8 workers, nothing measured yet; held by: memory, booting"
