"""A log that keeps what it is told."""

from __future__ import annotations

import sys
from typing import NamedTuple


class Entry(NamedTuple):
    """One record."""

    level: str
    message: str
    exception: BaseException | None


class FakeLog:
    """The part of gunicorn's logger that the server uses; the records are in `entries`."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def debug(self, msg: str, *args: object) -> None:
        self._keep("debug", msg, args)

    def info(self, msg: str, *args: object) -> None:
        self._keep("info", msg, args)

    def warning(self, msg: str, *args: object) -> None:
        self._keep("warning", msg, args)

    def error(self, msg: str, *args: object, exc_info: BaseException | None = None) -> None:
        self._keep("error", msg, args, exc_info)

    def exception(self, msg: str, *args: object) -> None:
        self._keep("error", msg, args, sys.exception())

    def messages(self, level: str) -> list[str]:
        """What was logged at one level."""
        return [entry.message for entry in self.entries if entry.level == level]

    @property
    def exceptions(self) -> list[BaseException]:
        """The exceptions whose traceback was logged."""
        return [entry.exception for entry in self.entries if entry.exception is not None]

    def _keep(self, level: str, msg: str, args: tuple[object, ...], exception: BaseException | None = None) -> None:
        self.entries.append(Entry(level, msg % args if args else msg, exception))
