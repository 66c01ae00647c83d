"""The commands and files that a Markdown page shows, for the tests that run them.

A page shows commands in blocks of two kinds: ```` ```console ````, where each command follows a `$` and its output
stands below it, and ```` ```sh ````, which has commands only. A block of another language with a `title="path"` is a
file that the reader writes. What a block means depends on where it stands, so both have their line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

PROMPT = "$ "
SECOND_PROMPT = "> "
INTERRUPT = "Press Ctrl-C"
LEFT_OUT = "…"
"""Stands in the shown output for any text, and on a line of its own for any number of lines."""

_FENCE = re.compile(r"(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)(?P<attributes>[^`]*)$")
_HEADING = re.compile(r"#{1,6}\s+(?P<text>.+?)\s*#*$")
_TITLE = re.compile(r'\btitle="(?P<title>[^"]+)"')
_HERE_DOCUMENT = re.compile(r"<<-?\s*(['\"]?)(?P<end>\w+)\1")
_SHELLS = {"bash", "shell", "shell-session", "shellsession", "zsh"}
_PROGRAM = re.compile(
    r"(?:curl|docker|git|gunicorn|kubectl|make|openssl|outrider|pip|python3?|sudo|systemctl|uvicorn) "
)
_CLOSING_WORD = re.compile(r"(?:done|fi|esac|do|then|else|elif|\}|\))(?:\s|;|$)")


class DocumentError(ValueError):
    """A page shows commands in a form that nobody could follow; the message has page and line."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command, as it is typed; `line` is that of its first line in the page, `section` the heading above it.

    `language` is "console", or "sh" for a command whose output the page leaves out.
    """

    text: str
    output: str
    line: int
    section: str
    page: str
    language: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class File:
    """What the reader writes into the file `path`."""

    path: str
    text: str
    line: int
    section: str
    page: str


@dataclass(frozen=True, slots=True)
class _Block:
    language: str
    attributes: str
    lines: tuple[str, ...]
    line: int  # of the first line within the fence
    section: str
    page: str


def pages() -> tuple[str, ...]:
    """Every Markdown page that people read, relative to the repository."""
    found = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "deploy").rglob("*.md")]
    return tuple(sorted(str(page.relative_to(REPOSITORY)) for page in found))


def commands(page: str) -> tuple[Command, ...]:
    """The commands of `page`, a path relative to the repository, in order; raises DocumentError."""
    return commands_of(_text(page), page)


def files(page: str) -> tuple[File, ...]:
    """The files that `page` has its reader write, in order; one that is changed later comes again."""
    return files_of(_text(page), page)


def commands_of(text: str, page: str = "page") -> tuple[Command, ...]:
    """The commands of a page with this text."""
    found: list[Command] = []
    for block in _blocks(text, page):
        if block.language == "console":
            found += _console(block)
        elif block.language == "sh" and not _TITLE.search(block.attributes):
            found += _script(block)
    return tuple(found)


def files_of(text: str, page: str = "page") -> tuple[File, ...]:
    """The files of a page with this text."""
    return tuple(
        File(title["title"], "".join(f"{line}\n" for line in block.lines), block.line, block.section, page)
        for block in _blocks(text, page)
        if block.language != "console" and (title := _TITLE.search(block.attributes))
    )


def mistaken(page: str) -> tuple[int, ...]:
    """The lines of blocks in `page` that seem to show commands, but in another form than `commands` finds."""
    return mistaken_in(_text(page))


def mistaken_in(text: str) -> tuple[int, ...]:
    """The same for a page with this text."""
    others = [block for block in _blocks(text, "") if block.language not in {"console", "sh"}]
    return tuple(
        block.line
        for block in others
        if block.language in _SHELLS
        or any(line.startswith(PROMPT) for line in block.lines)
        or (not block.language and any(_PROGRAM.match(line) for line in block.lines))
    )


def interrupts(page: str) -> tuple[int, ...]:
    """The lines at which `page` tells its reader to press Ctrl-C: those of its text, not those within blocks."""
    text = _text(page)
    lines = dict(enumerate(text.splitlines(), start=1))
    for block in _blocks(text, page):
        for number in range(block.line, block.line + len(block.lines)):
            del lines[number]
    return tuple(number for number, line in lines.items() if INTERRUPT in line)


def _text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def _blocks(text: str, page: str) -> Iterator[_Block]:
    """The fenced blocks. One within a list or a tab is indented; its lines lose the indentation of its fence."""
    section = ""
    numbered = enumerate(text.splitlines(), start=1)
    for number, line in numbered:
        if heading := _HEADING.match(line):
            section = heading["text"]
        opened = _FENCE.match(line)
        if opened is None:
            continue
        indent = opened["indent"]
        fence = opened["fence"]
        lines = []
        for _, inner in numbered:
            stripped = inner.strip()
            if stripped.startswith(fence) and not stripped.strip(fence[0]):
                break
            lines.append(inner.removeprefix(indent))
        else:
            raise DocumentError(f"{page}:{number}: this block has no end")
        yield _Block(opened["language"], opened["attributes"], tuple(lines), number + 1, section, page)


def _console(block: _Block) -> Iterator[Command]:
    """Commands after prompts, each with the lines up to the next one as its output."""
    lines = list(enumerate(block.lines, start=block.line))
    while lines:
        number, line = lines.pop(0)
        if not line.startswith(PROMPT):
            if line.strip():
                raise DocumentError(f"{block.page}:{number}: {line!r} stands before the first {PROMPT!r}")
            continue
        typed = [line.removeprefix(PROMPT)]
        while not _complete(typed):
            if not lines:
                raise DocumentError(f"{block.page}:{number}: this command has no end")
            typed.append(lines.pop(0)[1].removeprefix(SECOND_PROMPT))
        output = []
        while lines and not lines[0][1].startswith(PROMPT):
            output.append(lines.pop(0)[1])
        yield Command("\n".join(typed), "\n".join(output).strip("\n"), number, block.section, block.page, "console")


def _script(block: _Block) -> Iterator[Command]:
    """The commands of a script: a line that is indented, or that ends a loop or condition, belongs to the one above."""
    lines = list(enumerate(block.lines, start=block.line))
    while lines:
        number, line = lines.pop(0)
        if not line.strip() or line.startswith("#"):
            continue
        typed = [line]
        while lines and (not _complete(typed) or _continues(lines[0][1])):
            typed.append(lines.pop(0)[1])
        if not _complete(typed):
            raise DocumentError(f"{block.page}:{number}: this command has no end")
        yield Command("\n".join(typed), "", number, block.section, block.page, "sh")


def _continues(line: str) -> bool:
    return line.startswith((" ", "\t")) or _CLOSING_WORD.match(line) is not None


def _complete(typed: Iterable[str]) -> bool:
    """Whether a shell would run these lines, or ask for more: after a backslash, in quotes, in a here-document."""
    lines = list(typed)
    if lines[-1].endswith("\\"):
        return False
    here = _HERE_DOCUMENT.search(lines[0])
    if here is not None:
        return here["end"] in [line.strip() for line in lines[1:]]
    try:
        shlex.split("\n".join(lines), comments=True)
    except ValueError:
        return False
    return True
