"""Run Autobahn|Testsuite's fuzzing client against a WebSocket server, and read its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# `make compliance` installs it there.
HOME = Path(sys.prefix) / "autobahn"
WSTEST = HOME / "bin" / "wstest"

# The verdicts on a case and on how it closed that are no fault (wstest's own words).
GOOD = frozenset({"OK", "INFORMATIONAL", "NON-STRICT"})

# Which of wstest's numbers stand for what; https://github.com/crossbario/autobahn-testsuite
SECTIONS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "large messages",
    "10": "automatic fragmentation",
    "12": "permessage-deflate, many sizes",
    "13": "permessage-deflate, many parameters",
}


class NotInstalled(Exception):
    """wstest is not there."""


@dataclass(frozen=True)
class Verdict:
    """What wstest found in one case."""

    case: str
    behavior: str
    closing: str

    @property
    def worst(self) -> str:
        """What to call it in one word."""
        return self.closing if self.behavior in GOOD and self.closing not in GOOD else self.behavior

    @property
    def is_good(self) -> bool:
        """Whether the server did nothing wrong."""
        return self.behavior in GOOD and self.closing in GOOD

    @property
    def is_strict(self) -> bool:
        """Whether it also did what the RFC says at the first moment that it could."""
        return "NON-STRICT" not in {self.behavior, self.closing}


def run(url: str, cases: Sequence[str], directory: Path, deadline: float) -> list[Verdict]:
    """Play cases against a server that sends each message back.

    Args:
        url: of the server, ws:// or wss://; its certificate is not verified.
        cases: their numbers; an asterisk stands for anything.
        directory: for the report, which a browser can show.
        deadline: seconds until wstest is killed.

    Raises:
        NotInstalled: with what to do.
    """
    if not WSTEST.exists():
        message = f"Autobahn|Testsuite is not installed in {HOME}: `make compliance` installs it"
        raise NotInstalled(message)
    specification = {
        "outdir": str(directory / "report"),
        "servers": [{"agent": "outrider", "url": url, "options": {"version": 18}}],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    path = directory / "fuzzingclient.json"
    path.write_text(json.dumps(specification))
    with (directory / "wstest.log").open("wb") as log:
        subprocess.run(
            [WSTEST, "-m", "fuzzingclient", "-s", path],
            check=True,
            cwd=directory,
            env=os.environ | {"PYTHONUSERBASE": str(HOME)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=deadline,
        )
    return read_report(directory / "report" / "index.json")


def read_report(path: Path) -> list[Verdict]:
    """Read wstest's report on one server, in the order of the cases."""
    (report,) = json.loads(path.read_text()).values()
    verdicts = [Verdict(case, each["behavior"], each["behaviorClose"]) for case, each in report.items()]
    return sorted(verdicts, key=lambda verdict: [int(number) for number in verdict.case.split(".")])


def summarise(verdicts: Iterable[Verdict]) -> str:
    """A table with a line for each section."""
    sections: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        sections.setdefault(verdict.case.split(".")[0], Counter())[verdict.worst] += 1
    lines = [
        f"{number:>3} {SECTIONS.get(number, ''):<38} {sum(counts.values()):>4}  "
        + ", ".join(f"{count} {behavior}" for behavior, count in sorted(counts.items()))
        for number, counts in sections.items()
    ]
    return "\n".join(["    section                                cases", *lines])
