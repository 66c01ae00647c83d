"""What a client command writes, on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from outrider_supervisor.progress import Console

ERASE = "\r\x1b[K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(io.StringIO):
    """Nobody reads at the other end."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise BrokenPipeError


def test_console_rewrites_one_line_on_a_terminal() -> None:
    stream = Terminal()
    console = Console(stream, {}, 80)
    console.progress("one")
    console.progress("two")
    console.say("done")
    assert stream.getvalue() == f"{ERASE}one{ERASE}two{ERASE}done\n"


def test_console_keeps_the_line_shorter_than_the_terminal() -> None:
    stream = Terminal()
    Console(stream, {}, 10).progress("0123\n5678901234")
    assert stream.getvalue() == f"{ERASE}0123 5678"


def test_console_clears_only_what_there_is() -> None:
    stream = Terminal()
    console = Console(stream, {}, 80)
    console.clear()
    console.progress("x")
    console.clear()
    console.clear()
    assert stream.getvalue() == f"{ERASE}x{ERASE}"


@pytest.mark.parametrize("stream,environ", [(io.StringIO(), {"TERM": "xterm"}), (Terminal(), {"TERM": "dumb"})])
def test_console_writes_plain_lines_elsewhere(stream: io.StringIO, environ: dict[str, str]) -> None:
    console = Console(stream, environ, 10)
    console.progress("a line longer than a terminal\x1b")
    console.say("done")
    assert stream.getvalue() == "a line longer than a terminal?\ndone\n"


@pytest.mark.parametrize(
    "stream,environ,has_colour",
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_console_has_colour_on_a_terminal_that_allows_it(
    stream: io.StringIO, environ: dict[str, str], has_colour: bool
) -> None:
    assert Console(stream, environ, 80).has_colour is has_colour


def test_console_goes_on_when_nobody_reads() -> None:
    stream = Closed()
    console = Console(stream, {}, 80)
    console.progress("one")
    console.say("two")
    assert stream.writes == 1


def test_standard_output_that_nobody_reads_is_no_error_at_the_end() -> None:
    script = "import sys; from outrider_supervisor.progress import Console; Console(sys.stdout).say('x' * 100000)"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
