"""The groups of stalls that the supervisor keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from outrider.culprit import Culprit
from outrider.stall_report import Stall
from outrider_supervisor.stalls import LONGEST_NAME, LONGEST_STACK, MOST_GROUPS, Stalls

VIEW = Culprit("shop.views.checkout shop/views.py:41", "socket.create_connection socket.py:851", "the stack\n")


def as_sent(*entries: Any) -> Any:
    return json.loads(json.dumps(entries))


def test_reports_of_one_stall_add_up_to_one() -> None:
    stalls, stall = Stalls(), Stall(VIEW)
    stalls.note(7, as_sent(stall.tell(1.0, VIEW.stack)), 100.0)
    stalls.note(7, as_sent(stall.tell(4.0, "a later stack\n")), 103.0)
    stalls.note(7, as_sent(stall.tell(4.5)), 103.5)
    assert stalls.groups() == [
        {
            "frame": VIEW.frame,
            "hangs_in": VIEW.hangs_in,
            "count": 1,
            "seconds": 4.5,
            "longest": 4.5,
            "last": 103.5,
            "worker": 7,
            "stack": "a later stack\n",
        }
    ]


def test_stalls_of_all_workers_at_one_frame_are_one_group() -> None:
    stalls = Stalls()
    stalls.note(7, as_sent(Stall(VIEW).tell(3.0, "old\n")), 100.0)
    stalls.note(8, as_sent(Stall(VIEW).tell(1.5, "new\n")), 110.0)
    (group,) = stalls.groups()
    assert (group["count"], group["seconds"], group["longest"]) == (2, 4.5, 3.0)
    assert (group["last"], group["worker"], group["stack"]) == (110.0, 8, "new\n")


def test_function_that_computes_is_one_group_with_the_latest_line() -> None:
    stalls = Stalls()
    for line in (41, 40, 42):
        stalls.note(7, at(f"shop.views.pay shop/views.py:{line}"), 100.0)
    assert [(group["frame"], group["count"]) for group in stalls.groups()] == [("shop.views.pay shop/views.py:42", 3)]


def at(frame: str, seconds: float = 1.0) -> Any:
    return as_sent(Stall(Culprit(frame, "", "")).tell(seconds))


def test_latest_group_is_the_first_and_the_oldest_goes_when_there_are_many() -> None:
    stalls = Stalls()
    for number in range(MOST_GROUPS):
        stalls.note(7, at(f"frame {number}"), float(number))
    stalls.note(7, at("frame 0"), 50.0)
    stalls.note(7, at("frame new"), 51.0)
    frames = [group["frame"] for group in stalls.groups()]
    assert len(frames) == MOST_GROUPS
    assert frames[:3] == ["frame new", "frame 0", f"frame {MOST_GROUPS - 1}"]
    assert "frame 1" not in frames


def test_end_of_a_stall_whose_beginning_was_lost_is_a_stall() -> None:
    stalls, stall = Stalls(), Stall(VIEW)
    stall.tell(1.0)
    stalls.note(7, as_sent(stall.tell(3.0)), 100.0)
    assert [group["count"] for group in stalls.groups()] == [1]


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        "text",
        {"frame": "x"},
        [None],
        [{}],
        [[]],
        [{**at("x")[0], "count": "many"}],
        [{**at("x")[0], "count": float("inf")}],
        [{**at("x")[0], "seconds": None}],
        [{**at("x")[0], "seconds": float("inf")}],
        [{**at("x")[0], "longest": float("nan")}],
        [{**at("x")[0], "last": float("-inf")}],
    ],
)
def test_what_is_no_report_is_ignored(data: Any) -> None:
    stalls = Stalls()
    stalls.note(7, data, 100.0)
    stalls.take_state(data)
    assert stalls.groups() == []


def test_what_is_kept_of_a_report_has_a_bound() -> None:
    stalls = Stalls()
    entry = at("x" * 10_000)[0] | {"hangs_in": "y" * 10_000, "stack": "z" * 100_000 + "end"}
    stalls.note(7, [entry], 100.0)
    (group,) = stalls.groups()
    assert (len(group["frame"]), len(group["hangs_in"])) == (LONGEST_NAME, LONGEST_NAME)
    assert len(group["stack"]) == LONGEST_STACK
    assert group["stack"].endswith("zend")


def test_groups_are_taken_over_as_they_were() -> None:
    before, after = Stalls(), Stalls()
    before.note(7, as_sent(Stall(VIEW).tell(1.0, VIEW.stack)), 100.0)
    before.note(8, at("another"), 101.0)
    after.take_state(json.loads(json.dumps(before.groups())))
    assert after.groups() == before.groups()


def test_what_was_handed_out_does_not_change_the_groups() -> None:
    stalls = Stalls()
    stalls.note(7, at("x"), 100.0)
    stalls.groups()[0]["count"] = 99
    assert stalls.groups()[0]["count"] == 1
