"""What every connection does about a client that does not read: it waits, and after a while it gives the client up."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from outrider import transports
from outrider.runtime import name_peer
from outrider.tls_closing import measure_backlog

if TYPE_CHECKING:
    from outrider.runtime import Address, Runtime


class BackpressureProtocol(asyncio.Protocol):
    """The writing side of a transport's protocol.

    `writable` is None while more may be written, else resolved when there is room again or the connection is gone.
    """

    __slots__ = ("_stall_mark", "_transport", "runtime", "writable")

    unread: ClassVar = "its response"
    """What the log says that the client does not read."""

    def __init__(self, runtime: Runtime, transport: asyncio.Transport = transports.NOT_CONNECTED) -> None:
        self.runtime = runtime
        self.writable: asyncio.Future[None] | None = None
        self._transport = transport
        # When the backlog was last looked at, and what it was.
        self._stall_mark = (0.0, 0)

    @property
    @abstractmethod
    def client(self) -> Address | None:
        """The client's address; None on a unix socket."""

    def pause_writing(self) -> None:
        """asyncio: the transport holds more than it should. Who writes waits from now on."""
        self.writable = self.runtime.loop.create_future()
        self._mark_progress()
        self.runtime.blocked_writers.add(self)

    def resume_writing(self) -> None:
        """asyncio: the client has read enough for more."""
        self.runtime.blocked_writers.discard(self)
        writable, self.writable = self.writable, None
        if writable is not None:
            writable.set_result(None)

    def check_write_progress(self, now: float) -> None:
        """Abort if a blocked client took less than `min_body_rate` over `write_timeout`."""
        since, held = self._stall_mark
        config = self.runtime.config
        window = config.write_timeout
        if not window or now - since < window:
            return
        holds = measure_backlog(self._transport)
        if held - holds < max(1, config.min_body_rate * window):
            self.runtime.log.info("Client %s does not read %s: aborted", name_peer(self.client), self.unread)
            self.abort()
        else:
            self._stall_mark = (now, holds)

    def abort(self) -> None:
        """Reset the connection: what is unsent is lost, in the kernel's buffers too."""
        transports.reset(self._transport)

    def _mark_progress(self) -> None:
        self._stall_mark = (self.runtime.now, measure_backlog(self._transport))
