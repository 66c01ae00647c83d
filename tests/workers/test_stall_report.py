"""What the records of stalls carry."""

from __future__ import annotations

from outrider.culprit import Culprit
from outrider.stall_report import LONGEST_STACK, MOST_MUTED_FRAMES, MutedStalls, Stall, as_extra

VIEW = Culprit("shop.views.checkout shop/views.py:41", "socket.connect socket.py:851", "the stack\n")


def test_stall_tells_what_is_new() -> None:
    stall = Stall(VIEW)
    first = stall.tell(1.0004, "the stack\n")
    assert first == {
        "frame": VIEW.frame,
        "hangs_in": VIEW.hangs_in,
        "count": 1,
        "seconds": 1.0,
        "longest": 1.0,
        "stack": "the stack\n",
    }
    assert stall.tell(3.5) == first | {"count": 0, "seconds": 2.5, "longest": 3.5, "stack": ""}


def test_stack_loses_its_outer_frames() -> None:
    stack = Stall(VIEW).tell(1.0, "x" * LONGEST_STACK + "end")["stack"]
    assert len(stack) == LONGEST_STACK
    assert stack.endswith("xend")


def test_muted_stalls_are_added_up_by_frame() -> None:
    muted = MutedStalls()
    for seconds in (1.5, 1.25):
        muted.add(Stall(VIEW).tell(seconds))
    muted.add(Stall(Culprit("elsewhere", "", "")).tell(2.0))
    assert [(each["frame"], each["count"], each["seconds"], each["longest"]) for each in muted.take()] == [
        (VIEW.frame, 2, 2.75, 1.5),
        ("elsewhere", 1, 2.0, 2.0),
    ]
    assert muted.take() == []


def test_muted_stalls_keep_the_latest_frames() -> None:
    muted = MutedStalls()
    for number in range(MOST_MUTED_FRAMES + 1):
        muted.add(Stall(Culprit(f"frame {number}", "", "")).tell(1.0))
    frames = [each["frame"] for each in muted.take()]
    assert len(frames) == MOST_MUTED_FRAMES
    assert "frame 0" not in frames


def test_record_says_what_it_carries() -> None:
    entry = Stall(VIEW).tell(1.0)
    assert as_extra([entry]) == {"report": "stall", "report_data": [entry]}
