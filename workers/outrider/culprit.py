"""Who holds the event loop: the stack of its thread, and the one frame to blame."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

LOOP_ITSELF = "(the event loop itself)"
"""Stands for the frame where the loop is blocked outside of any callback, as by a thread with the interpreter lock."""
LONGEST_NAME = 300
"""Characters of a frame's name."""

_OURS = f"{Path(__file__).parent}{os.sep}"
_STANDARD_LIBRARY = f"{Path(os.__file__).parent}{os.sep}"
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclass(frozen=True, slots=True)
class Culprit:
    """What the loop's thread did at one moment."""

    frame: str
    """`module.function file:line`: where the application's own code is, else what it uses, else whatever runs."""
    hangs_in: str
    """The innermost frame in the same form, empty if it is the same one."""
    stack: str
    """The formatted stack above the loop, most recent call last."""

    def __str__(self) -> str:
        return f"{self.frame}, in {self.hangs_in}" if self.hangs_in else self.frame


class CulpritFinder:
    """Looks at the thread that called `watch`, from any other."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._package = ""
        self._outside: list[FrameType] = []

    def watch(self, application: str = "") -> None:
        """Look at the calling thread from now on; its present frames lead into the loop and are of no interest.

        Args:
            application: where it is imported from, such as `shop.main:app`; it may be installed among the libraries.
        """
        self._thread = threading.get_ident()
        self._package = application.partition(":")[0].partition(".")[0]
        self._outside = list(_frames_down_from(sys._getframe()))  # noqa: SLF001  # documented

    def forget(self) -> None:
        """Let go of the frames, and of what they refer to."""
        self._outside = []

    def find(self) -> Culprit:
        """Return what the thread does now."""
        innermost = sys._current_frames().get(self._thread)  # noqa: SLF001  # documented; there is no other way
        if innermost is None:
            return Culprit(LOOP_ITSELF, "", "  (gone)\n")
        inside = [frame for frame in _frames_down_from(innermost) if frame not in self._outside]
        stack = "".join(traceback.format_stack(innermost, max(1, len(inside))))
        if not inside:
            return Culprit(LOOP_ITSELF, "", stack)
        guilty = max(inside, key=self._guilt)  # the first of several
        return Culprit(_name(guilty), "" if guilty is inside[0] else _name(inside[0]), stack)

    def _guilt(self, frame: FrameType) -> int:
        """How likely it is that somebody can mend this frame: ours and Python's cannot be at fault for a call."""
        path = frame.f_code.co_filename
        if self._package and _module_of(frame).partition(".")[0] == self._package:
            return 2
        if path.startswith((_OURS, "<")):
            return 0
        if any(part in path for part in _INSTALLED):
            return 1
        return 0 if path.startswith(_STANDARD_LIBRARY) else 2


def _name(frame: FrameType) -> str:
    code = frame.f_code
    name = f"{_module_of(frame)}.{code.co_qualname} {_short(code.co_filename)}:{frame.f_lineno}"
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))


def _short(path: str) -> str:
    """The path as an import sees it: relative to its entry of sys.path."""
    roots = [root for root in sys.path if root and path.startswith(root.rstrip(os.sep) + os.sep)]
    return path[len(max(roots, key=len).rstrip(os.sep)) + 1 :] if roots else path


def _frames_down_from(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
