"""Log records on their way to the supervisor, so that it can tell the caller of `reload` why a worker failed.

The master and its workers share one end of a datagram socketpair, whose descriptor is in the environment. It is lossy:
a process that must serve never waits for the supervisor, and the log has every record as well.

A record is one JSON object a datagram: `{"pid": 1, "level": "ERROR", "text": "…", "report": null, "part": 0, "last":
true}`. A long text comes in parts, numbered from 0; the first may have `data`, which is for programs.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

REPORTS_FD = "OUTRIDER_SUPERVISOR_REPORTS_FD"
MOST_BYTES = 32 * 1024
"""Size of the largest datagram."""
MOST_CHARACTERS = 200_000
"""Of a longer text the middle is left out. The kernel queues about ten datagrams for a reader."""
_CHARACTERS_PER_PART = MOST_BYTES - 512
_MOST_DATA = MOST_BYTES - 8 * 1024


class ReportHandler(logging.Handler):
    """Sends records of level WARNING and above. It never waits and never raises.

    A record may say what it is with `extra={"report": "dump"}`, and have what JSON can carry as `report_data`.
    """

    never_waits = True

    def __init__(self, sock: socket.socket) -> None:
        """Take the socket, which must be a connected datagram socket; it stays the caller's."""
        super().__init__(logging.WARNING)
        self._sock = sock

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record with its traceback."""
        # Whatever is wrong with the record, the other handlers say it.
        with suppress(Exception):
            kind, data = getattr(record, "report", None), getattr(record, "report_data", None)
            self.send(record.levelname, self.format(record), kind, data)

    def send(self, level: str, text: str, report: str | None = None, data: Any = None) -> None:
        """Send a text that is in no log record. What the supervisor has no room for is lost."""
        with suppress(OSError):
            for datagram in encode_report(os.getpid(), level, text, report, data):
                self._sock.send(datagram, socket.MSG_DONTWAIT)


def open_reports(descriptor: int) -> ReportHandler:
    """Return a handler for the inherited descriptor, which is then not inherited by programs any more.

    Raises:
        OSError: it is no socket.
    """
    os.set_inheritable(descriptor, False)
    return ReportHandler(socket.socket(fileno=descriptor))


def encode_report(pid: int, level: str, text: str, report: str | None, data: Any = None) -> Iterator[bytes]:
    """The datagrams of one report. Data that would leave no room for the text is left out."""
    if data is not None and len(_encode(data)) > _MOST_DATA:
        data = None
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
    part = 0
    fields = {"pid": pid, "level": level, "report": report, "data": data}
    while True:
        size = _CHARACTERS_PER_PART
        datagram = _encode({**fields, "text": text[:size], "part": part, "last": size >= len(text)})
        while len(datagram) > MOST_BYTES:
            size = size * 3 // 4
            datagram = _encode({**fields, "text": text[:size], "part": part, "last": size >= len(text)})
        yield datagram
        fields.pop("data", None)
        text = text[size:]
        part += 1
        if not text:
            return


def _encode(value: Any) -> bytes:
    # A lone surrogate is a file name's or an application's; it must not cost the report.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """A log record of the master or a worker, as the supervisor gets it."""

    pid: int
    level: str
    """WARNING, ERROR or CRITICAL."""
    text: str
    report: str | None
    """`"dump"` for the stacks of a worker, `"stall"` where its event loop was blocked, else None."""
    data: Any = None
    """Of a stall: what `Stalls.note` takes."""


@dataclasses.dataclass(slots=True)
class _Unfinished:
    level: str
    report: str | None
    data: Any
    parts: list[str]

    def finish(self, pid: int, ending: str) -> Report:
        return Report(pid, self.level, "".join(self.parts) + ending, self.report, self.data)


class ReportReader:
    """Joins the parts. Pure: give it each datagram."""

    def __init__(self) -> None:
        self._unfinished: dict[int, _Unfinished] = {}

    def feed(self, datagram: bytes) -> list[Report]:
        """Return the reports that this datagram ends: mostly one or none, two where the end of one was lost.

        A datagram that is no report, or a part whose predecessor was lost, is ignored.
        """
        try:
            fields = json.loads(datagram)
            pid, part = int(fields["pid"]), int(fields["part"])
            level, text, is_last = str(fields["level"]), str(fields["text"]), bool(fields["last"])
            report = None if fields["report"] is None else str(fields["report"])
        except (KeyError, TypeError, ValueError):
            return []
        done: list[Report] = []
        unfinished = self._unfinished.get(pid)
        if part == 0:
            done += self.forget(pid)
            unfinished = self._unfinished[pid] = _Unfinished(level, report, fields.get("data"), [])
        if unfinished is None or part != len(unfinished.parts):
            return done
        unfinished.parts.append(text)
        if is_last:
            del self._unfinished[pid]
            done.append(unfinished.finish(pid, ""))
        return done

    def forget(self, pid: int) -> list[Report]:
        """The process is gone: return what there is of a report whose end did not come."""
        unfinished = self._unfinished.pop(pid, None)
        if unfinished is None:
            return []
        return [unfinished.finish(pid, "\n[the rest was lost]")]
