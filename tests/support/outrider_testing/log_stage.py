"""Logs with a `LogWriter`, and a pipe in which it gets stuck."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from outrider.log_writer import LogWriter
from outrider_testing.waiting import PATIENCE, until


class FullPipe:
    """The write end of a pipe that nobody reads, and that has no room left, as a stream."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self.filling = 0
        with suppress(BlockingIOError):
            while True:
                self.filling += os.write(writer, bytes(65536))
        os.set_blocking(writer, True)
        self.stream = io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True)

    def read(self, until_text: str) -> str:
        """Read what comes after the filling, up to a text."""
        data = b""
        while until_text.encode() not in data[self.filling :]:
            data += os.read(self.reader, 65536)
        return data[self.filling :].decode()

    def close(self) -> None:
        """Let a writer that is stuck fail."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1


class Clock:
    """Seconds that the test counts."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class LogStage:
    """An error log and an access log, and what writes them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.streams: list[Any] = []
        self.error = logging.Logger("error")  # noqa: LOG001  # apart from the loggers that other tests see
        self.access = logging.Logger("access")  # noqa: LOG001  # as above
        self.writer = LogWriter((self.error, self.access), self.error, self.clock)

    def add(self, logger: logging.Logger, stream: Any) -> logging.StreamHandler[Any]:
        """Have a logger write to a stream."""
        handler = logging.StreamHandler(stream)
        logger.addHandler(handler)
        self.streams.append(stream)
        return handler

    def close(self) -> None:
        """Leave nothing open."""
        self.writer.stop(PATIENCE)
        for handler in (*self.error.handlers, *self.access.handlers):
            handler.close()
        for stream in self.streams:
            stream.close()


@contextlib.contextmanager
def stuck_in(pipe: FullPipe, stage: LogStage) -> Iterator[LogStage]:
    """Have the writer hang in the write of "first"."""
    stage.add(stage.access, pipe.stream)
    stage.writer.start()
    stage.access.info("first")
    until(lambda: stage.writer._busy_with)
    yield stage
    pipe.close()  # for the thread to end
