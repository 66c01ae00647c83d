"""How a client command tells how it goes: one line that is rewritten on a terminal, a line each otherwise."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import TextIO

from outrider_supervisor.text_format import plain

_ERASE = "\r\x1b[K"


class Console:
    """Standard output of a command. When nobody reads it any more, the command goes on without."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str] = os.environ, columns: int | None = None) -> None:
        """Look at where the output goes.

        Args:
            stream: usually standard output.
            environ: NO_COLOR and TERM are read.
            columns: width of the terminal; it is asked if None.
        """
        self._stream = stream
        self._columns = columns or shutil.get_terminal_size().columns
        self._has_progress = False
        self._is_broken = False
        self.is_terminal = stream.isatty() and environ.get("TERM") != "dumb"
        self.has_colour = self.is_terminal and not environ.get("NO_COLOR")

    def progress(self, text: str) -> None:
        """Show the latest step."""
        if not self.is_terminal:
            self._write(plain(text) + "\n")
            return
        line = plain(text).replace("\n", " ").replace("\t", " ")
        # A line that fills the terminal would be broken, and only its end rewritten.
        self._write(_ERASE + line[: self._columns - 1])
        self._has_progress = True

    def say(self, text: str) -> None:
        """Print a text as it is, in the place of the progress."""
        self.clear()
        self._write(text if text.endswith("\n") else text + "\n")

    def clear(self) -> None:
        """Remove the line of progress."""
        if self._has_progress:
            self._write(_ERASE)
            self._has_progress = False

    def _write(self, text: str) -> None:
        if self._is_broken:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            self._is_broken = True
            _discard(self._stream)


def _discard(stream: TextIO) -> None:
    """Python flushes standard output once more at its end, and would complain."""
    if stream is sys.stdout:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
