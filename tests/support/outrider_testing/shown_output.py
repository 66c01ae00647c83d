"""Compare what a command printed with what a page says it prints.

A page shows one run. In another one numbers differ (process ids, dates, times, sizes, versions), and so do the widths
of columns; words may not. `…` stands for what the page leaves out.
"""

from __future__ import annotations

import re

from outrider_testing.documented import LEFT_OUT

# A number with its unit, a version, an address, a time; or the dash of a number that is not known yet, in a table.
_UNITS = r"(?:[a-zA-Zµ%]{1,3}(?![a-zA-Z]))?(?:\d+[a-z]{1,2}(?![a-zA-Z]))*"
# Systemd has more than a minute as "1min 2s". The class of a status, as 5xx, is a word.
_DIGITS = rf"(?!\dxx)(?:\d+min(?: \d+(?:\.\d+)?s)?|\d+(?:[.,:]\d+)*{_UNITS})"
# The day of the week and the month of a date, as in "Sat, 21 Nov 2026", "Sat 2026-11-21" and "Nov 21 09:05:03".
_DAY = r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?=,? \d)"
_MONTH = r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)(?= +\d)"
_NUMBER = re.compile(rf"{_DIGITS}|{_DAY}|{_MONTH}|(?<=\s)-(?=\s)")
_KINDS = (_DAY, _MONTH, rf"{_DIGITS}|-")
_EXACT = re.compile(r"\d+|.*\bHTTP/[\d.]+ \d+.*")
_SHOWN_PID = re.compile(r"\d{3,}")


def _normalised(line: str) -> str:
    """A regular expression for this line of shown output, each number a group of its own."""
    if _EXACT.fullmatch(line):
        return f"{re.escape(line)} *"
    parts = []
    end = 0
    for number in _NUMBER.finditer(line):
        kind = next(kind for kind in _KINDS if re.match(kind, line[number.start() :]))
        parts += [_words(line[end : number.start()]), f"({kind})"]
        end = number.end()
    return "".join([*parts, _words(line[end:])]) + " *"


def _words(text: str) -> str:
    """Literal text; any width of white space is the same, and LEFT_OUT is anything."""
    escaped = "".join(r"[ \t]*" if part.isspace() else re.escape(part) for part in re.split(r"(\s+)", text))
    return escaped.replace(re.escape(LEFT_OUT), ".*?")


def match(shown: str, printed: str) -> dict[str, str] | None:
    """Match all that was printed with what is shown: None if it differs, or else which numbers are which.

    The answer has the numbers that may be process ids: those that a page goes on to name.
    """
    return _search(shown.splitlines(), printed, between="", whole=True)


def find(shown: str, printed: str) -> dict[str, str] | None:
    """Find the lines shown, in their order, within what a server has logged; between them may be others."""
    return _search(shown.splitlines(), printed, between=r"(?:.*\n)*?", whole=False)


def _search(shown: list[str], printed: str, *, between: str, whole: bool) -> dict[str, str] | None:
    pattern = ""
    numbers: list[str] = []
    for line in shown:
        if line.strip() == LEFT_OUT:
            pattern += r"(?:.*\n)*?"
            continue
        if not _EXACT.fullmatch(line):
            numbers += _NUMBER.findall(line)
        pattern += f"{between}{_normalised(line)}\n"
    text = "".join(f"{line}\n" for line in printed.strip("\n").splitlines())
    found = re.fullmatch(pattern, text) if whole else re.match(pattern, text)
    if found is None:
        return None
    pairs = zip(numbers, found.groups(), strict=True)
    return {ours: theirs for ours, theirs in pairs if _SHOWN_PID.fullmatch(ours) and theirs.isdigit()}
