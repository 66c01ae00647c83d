"""Where the log records of masters and workers arrive."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from outrider_supervisor.reports import MOST_BYTES, Report, ReportReader

MOST_AT_ONCE = 1000
"""Datagrams that are read before other things get their turn; more than the kernel queues."""


class ReportInbox:
    """A datagram socketpair that all masters and workers write to; what they lose there is in the log all the same."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_report: Callable[[Report], None],
        pair: tuple[socket.socket, socket.socket] | None = None,
    ) -> None:
        """Make a pair, or take one that another supervisor has made."""
        self._loop = loop
        self._on_report = on_report
        self._reader = ReportReader()
        self.pair = pair or socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket, self._theirs = self.pair
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self.read)

    @property
    def write_end(self) -> int:
        """The descriptor that processes are given."""
        return self._theirs.fileno()

    def read(self) -> None:
        """Take in what has arrived. Processes that never stop writing do not keep the loop here."""
        for _ in range(MOST_AT_ONCE):
            try:
                datagram = self._socket.recv(MOST_BYTES)
            except OSError:
                return
            for report in self._reader.feed(datagram):
                self._on_report(report)

    def forget(self, pid: int) -> None:
        """The process is gone: what there is of its last report is all there will be."""
        for report in self._reader.forget(pid):
            self._on_report(report)

    def close(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._socket)
        for end in self.pair:
            end.close()
