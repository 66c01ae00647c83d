"""A Markdown page as a repository browser reads it: its headings, its anchors, and where its links lead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,}).*?^[ \t]*\2[ \t]*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) +(.+?)(?: +#+)?$", re.MULTILINE)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)(?: +\"[^\"]*\")?\)")
_ITEM = re.compile(r" *(?:[-*+]|\d+[.)]) +\S")
_INDENT = 4


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads: the path as it is written, empty within the page, and the anchor, empty without."""

    path: str
    anchor: str
    line: int


def without_fences(text: str) -> str:
    """The page with empty lines in the place of its fenced blocks."""
    return _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)


def headings(text: str) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    return [(len(marks), title) for marks, title in _HEADING.findall(without_fences(text))]


def anchors(text: str) -> set[str]:
    """What links may point to: the headings in lower case, with a hyphen for each space and without punctuation."""
    found: dict[str, int] = {}
    for _, title in headings(text):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if not number else f"{slug}-{number}" for slug, last in found.items() for number in range(last + 1)}


def links(text: str) -> Iterator[Link]:
    """All links and pictures of a page but those to other hosts."""
    for number, line in enumerate(without_fences(text).splitlines(), start=1):
        for link in _LINK.finditer(_CODE.sub(lambda code: "x" * len(code[0]), line)):
            if "://" not in link["target"] and not link["target"].startswith("mailto:"):
                path, _, anchor = link["target"].partition("#")
                yield Link(unquote(path), anchor, number)


def broken(path: Path, root: Path) -> list[str]:
    """The links of a page that lead nowhere, or out of the repository at `root`, a sentence each."""
    found = []
    for link in links(path.read_text(encoding="utf-8")):
        target = (path.parent / link.path).resolve() if link.path else path
        where = f"{path.relative_to(root)}:{link.line}"
        if link.path.startswith("/") or not target.is_relative_to(root) or not target.exists():
            found.append(f"{where}: there is no {link.path}")
        elif link.anchor and (target.suffix != ".md" or link.anchor not in _anchors_of(target)):
            found.append(f"{where}: {link.path} has no #{link.anchor}")
    return found


@cache
def _anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text(encoding="utf-8"))


def read_differently(text: str) -> list[str]:
    """What Python-Markdown, which makes the site, takes for something else than a repository browser does."""
    found = []
    before = ""
    is_in_item = False
    for number, line in enumerate(_outer_lines(text), start=1):
        is_item = _ITEM.match(line) is not None
        indent = len(line) - len(line.lstrip(" "))
        is_after_text = before.strip() and not is_in_item and not before.startswith(("|", "<!--"))
        if is_after_text and (is_item or line.startswith("|")):
            found.append(f"line {number}: an empty line is needed above {line.strip()!r}")
        if is_in_item and 0 < indent < _INDENT and (is_item or not before.strip()):
            found.append(f"line {number}: what belongs to an item is indented by {_INDENT}: {line.strip()!r}")
        if is_item:
            is_in_item = True
        elif line.strip() and not indent and not before.strip():
            is_in_item = False
        before = line
    return found


def _outer_lines(text: str) -> list[str]:
    """The lines of the page, of fenced blocks the first alone."""
    return _FENCE.sub(lambda fence: fence[0].partition("\n")[0] + "\n" * fence[0].count("\n"), text).splitlines()
