from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator

import pytest

from outrider_supervisor.reports import (
    MOST_BYTES,
    MOST_CHARACTERS,
    Report,
    ReportHandler,
    ReportReader,
    encode_report,
    open_reports,
)

PID = os.getpid()


class Wire:
    """Both ends, and a logger with the handler."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.theirs = theirs
        self.handler = ReportHandler(theirs)
        self.log = logging.Logger("test")  # noqa: LOG001  # one of its own for each test
        self.log.addHandler(self.handler)
        self.reader = ReportReader()

    def read(self) -> list[Report]:
        reports = []
        self.ours.setblocking(False)
        while True:
            try:
                reports += self.reader.feed(self.ours.recv(MOST_BYTES))
            except BlockingIOError:
                return reports


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.ours.close()
    wire.theirs.close()


def test_handler_sends_warnings_and_errors_but_no_chatter(wire: Wire) -> None:
    wire.log.info("nothing")
    wire.log.warning("about %s", "a")
    wire.log.error("the end")
    assert wire.read() == [Report(PID, "WARNING", "about a", None), Report(PID, "ERROR", "the end", None)]


def test_handler_sends_the_traceback(wire: Wire) -> None:
    try:
        int("mine")
    except ValueError:
        wire.log.exception("it failed")
    (report,) = wire.read()
    assert report.text.startswith("it failed\nTraceback")
    assert report.text.endswith("with base 10: 'mine'")


def test_handler_sends_what_a_record_says_it_is(wire: Wire) -> None:
    wire.log.critical("stacks", extra={"report": "dump"})
    assert wire.read() == [Report(PID, "CRITICAL", "stacks", "dump")]


def test_handler_sends_the_data_of_a_record_whatever_the_length_of_its_text(wire: Wire) -> None:
    data = [{"frame": "shop.views", "seconds": 1.5}]
    wire.log.warning("blocked", extra={"report": "stall", "report_data": data})
    wire.log.warning("line\n" * 20_000, extra={"report": "stall", "report_data": data})
    assert [(report.report, report.data) for report in wire.read()] == [("stall", data)] * 2


def test_data_that_leaves_no_room_for_the_text_is_left_out() -> None:
    datagrams = list(encode_report(1, "ERROR", "x" * 40_000, "stall", ["é" * MOST_BYTES]))
    reader = ReportReader()
    (report,) = (report for datagram in datagrams for report in reader.feed(datagram))
    assert "data" not in json.loads(datagrams[1])
    assert (report.text, report.data) == ("x" * 40_000, None)
    assert max(map(len, datagrams)) <= MOST_BYTES


def test_report_whose_end_was_lost_keeps_its_data() -> None:
    reader = ReportReader()
    reader.feed(next(encode_report(1, "ERROR", "x" * 40_000, "stall", [1])))
    assert [report.data for report in reader.forget(1)] == [[1]]


def test_handler_sends_a_long_text_in_parts_that_the_reader_joins(wire: Wire) -> None:
    text = "line\n" * 20_000
    wire.log.warning(text)
    assert [report.text for report in wire.read()] == [text]


@pytest.mark.parametrize("character", ["x", "\n", "\0", "é", "😀", "\ud800"])
def test_no_datagram_is_too_large(character: str) -> None:
    text = character * MOST_CHARACTERS
    datagrams = list(encode_report(1, "ERROR", text, None))
    assert max(map(len, datagrams)) <= MOST_BYTES
    assert [json.loads(each)["part"] for each in datagrams] == list(range(len(datagrams)))
    assert [json.loads(each)["last"] for each in datagrams].count(True) == 1


def test_empty_text_is_a_report() -> None:
    (datagram,) = encode_report(1, "ERROR", "", None)
    assert ReportReader().feed(datagram) == [Report(1, "ERROR", "", None)]


def test_text_beyond_all_measure_loses_its_middle() -> None:
    text = "first" + "x" * 3 * MOST_CHARACTERS + "last"
    reader = ReportReader()
    reports = [report for datagram in encode_report(1, "ERROR", text, None) for report in reader.feed(datagram)]
    assert reports[0].text.startswith("first")
    assert reports[0].text.endswith("last")
    assert f"[… {len(text) - MOST_CHARACTERS} characters left out …]" in reports[0].text


def test_handler_waits_for_nobody(wire: Wire) -> None:
    for _ in range(1000):
        wire.log.warning("x" * 10_000)
    assert 0 < len(wire.read()) < 1000


def test_handler_survives_the_end_of_the_supervisor(wire: Wire) -> None:
    wire.ours.close()
    wire.log.warning("nobody hears")


def test_handler_survives_a_record_that_cannot_be_formatted(wire: Wire) -> None:
    wire.log.warning("%d", "no number")
    wire.log.warning("next")
    assert [report.text for report in wire.read()] == ["next"]


def test_opened_descriptor_is_not_inherited_by_programs() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    os.set_inheritable(right.fileno(), True)
    handler = open_reports(right.detach())
    assert not handler._sock.get_inheritable()
    left.close()
    handler._sock.close()


def parts(pid: int, text: str) -> list[bytes]:
    """A report in one part for each character."""
    return [
        json.dumps(
            {"pid": pid, "level": "ERROR", "text": each, "report": None, "part": part, "last": part == len(text) - 1}
        ).encode()
        for part, each in enumerate(text)
    ]


def test_reader_keeps_processes_apart() -> None:
    reader = ReportReader()
    one, two = parts(1, "ab"), parts(2, "cd")
    assert reader.feed(one[0]) == reader.feed(two[0]) == []
    assert reader.feed(one[1]) == [Report(1, "ERROR", "ab", None)]
    assert reader.feed(two[1]) == [Report(2, "ERROR", "cd", None)]


def test_reader_gives_what_there_is_of_a_report_whose_end_was_lost() -> None:
    reader = ReportReader()
    reader.feed(parts(1, "abc")[0])
    assert reader.feed(parts(1, "d")[0]) == [
        Report(1, "ERROR", "a\n[the rest was lost]", None),
        Report(1, "ERROR", "d", None),
    ]


def test_reader_ignores_a_part_whose_predecessor_was_lost() -> None:
    reader = ReportReader()
    datagrams = parts(1, "abc")
    assert reader.feed(datagrams[1]) == []
    reader.feed(datagrams[0])
    assert reader.feed(datagrams[2]) == []


def test_reader_forgets_a_process_that_is_gone() -> None:
    reader = ReportReader()
    reader.feed(parts(1, "abc")[0])
    assert reader.forget(1) == [Report(1, "ERROR", "a\n[the rest was lost]", None)]
    assert reader.forget(1) == []


@pytest.mark.parametrize("datagram", [b"", b"[]", b"{}", b"\xff", b'{"pid": "x"}', b"null"])
def test_reader_ignores_what_is_no_report(datagram: bytes) -> None:
    assert ReportReader().feed(datagram) == []
