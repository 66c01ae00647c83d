"""Where the log records of masters and workers arrive."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from outrider_supervisor.report_inbox import MOST_AT_ONCE, ReportInbox
from outrider_supervisor.reports import Report, encode_report
from outrider_testing.fakes import ManualLoop


@pytest.fixture
def reports() -> list[Report]:
    return []


@pytest.fixture
def inbox(loop: ManualLoop, reports: list[Report]) -> Iterator[ReportInbox]:
    inbox = ReportInbox(loop, reports.append)
    yield inbox
    inbox.close()


def writer(inbox: ReportInbox) -> Callable[[bytes], int]:
    """What a process does with the descriptor that it is given."""
    return lambda datagram: os.write(inbox.write_end, datagram)


def report(text: str, pid: int = 7) -> list[bytes]:
    return list(encode_report(pid, "ERROR", text, None))


def test_report_arrives_by_the_loop(loop: ManualLoop, inbox: ReportInbox, reports: list[Report]) -> None:
    for datagram in report("hello"):
        writer(inbox)(datagram)
    loop.run_ready()
    assert reports == [Report(7, "ERROR", "hello", None)]


def test_read_takes_all_that_has_arrived_at_once(inbox: ReportInbox, reports: list[Report]) -> None:
    for number in range(5):
        writer(inbox)(report(f"{number}")[0])
    inbox.read()
    assert [each.text for each in reports] == ["0", "1", "2", "3", "4"]


def test_datagram_that_is_no_report_is_ignored(inbox: ReportInbox, reports: list[Report]) -> None:
    writer(inbox)(b"\xff")
    inbox.read()
    assert reports == []


def test_report_without_end_is_what_there_is_once_its_process_is_gone(
    inbox: ReportInbox, reports: list[Report]
) -> None:
    writer(inbox)(report("x" * 50_000)[0])
    inbox.read()
    assert reports == []
    inbox.forget(8)
    assert reports == []
    inbox.forget(7)
    (only,) = reports
    assert only.text.endswith("[the rest was lost]")


def test_process_that_never_stops_writing_does_not_keep_the_loop(loop: ManualLoop) -> None:
    count = 0

    def note(_report: Report) -> None:
        nonlocal count
        count += 1
        os.write(endless.write_end, report("more")[0])

    endless = ReportInbox(loop, note)
    os.write(endless.write_end, report("first")[0])
    endless.read()
    assert count == MOST_AT_ONCE
    endless.close()


def test_queue_of_the_kernel_is_read_at_one_go(inbox: ReportInbox, reports: list[Report]) -> None:
    os.set_blocking(inbox.write_end, False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            writer(inbox)(report("x")[0])
            sent += 1
    inbox.read()
    assert len(reports) == sent < MOST_AT_ONCE


def test_pair_of_another_supervisor_is_taken_over(loop: ManualLoop, reports: list[Report]) -> None:
    inbox = ReportInbox(loop, reports.append)
    writer(inbox)(report("before")[0])
    pair = (inbox.pair[0].dup(), inbox.pair[1].dup())
    inbox.close()
    successor = ReportInbox(loop, reports.append, pair)
    writer(successor)(report("after")[0])
    loop.run_ready()
    assert [each.text for each in reports] == ["before", "after"]
    successor.close()


def test_processes_that_are_started_do_not_inherit_it_by_accident(inbox: ReportInbox) -> None:
    assert not any(end.get_inheritable() for end in inbox.pair)


def test_closed_inbox_is_not_read(loop: ManualLoop, reports: list[Report]) -> None:
    inbox = ReportInbox(loop, reports.append)
    with socket.socket(fileno=os.dup(inbox.write_end)) as theirs:
        inbox.close()
        with pytest.raises(ConnectionRefusedError):
            theirs.send(b"x")
    loop.run_ready()
    assert reports == []
