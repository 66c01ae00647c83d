"""Pages that begin with nothing but Python, its venv module, and this repository, as somebody follows them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from outrider_testing.debian import debian, enter, init_of
from outrider_testing.documented import REPOSITORY, Command, commands
from outrider_testing.programs import PATH
from outrider_testing.waiting import until
from outrider_testing.walkthrough import DIRECTORY, Machine, Walkthrough

pytestmark = pytest.mark.external

README = "README.md"
RELEASES = "docs/how-to/zero-downtime.md"
QUICK_START = "Quick start"
BOOT_DEADLINE = 30.0
MOST_SECONDS = 300.0
"""Generous: the network and this machine are no part of what is tested."""
_NEEDS_NETWORK = re.compile(r"\bpip install\b|\bdeploy\.sh\b")
# The first process of the namespaces waits for the orphans, as a shell does.
_BOOT = f"mkdir -p {DIRECTORY} /run; touch /run/up; while :; do sleep 1000 & wait $!; done"


@contextmanager
def newcomers_machine() -> Iterator[Machine]:
    """A clean Debian with a checkout beside the reader's directory. Only pip sees a network beyond it."""
    with debian() as system:
        copy_checkout(system.path / Path(DIRECTORY).parent.relative_to("/") / "outrider")
        process = subprocess.Popen(system.command("bash", "-c", _BOOT), stdin=subprocess.DEVNULL)
        try:
            until((system.path / "run/up").exists, BOOT_DEADLINE, what="start of the machine")
            init = init_of(process)

            def command(shown: Command, words: Sequence[str]) -> list[str]:
                return enter(init, *words, online=_NEEDS_NETWORK.search(shown.text) is not None)

            yield Machine(command, lambda name: system.path / name.lstrip("/"), PATH)
        finally:
            process.kill()
            process.wait()


def copy_checkout(target: Path) -> None:
    """What git knows of, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file():  # not what was removed and is not committed yet
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)


def test_newcomer_reloads_their_application(tmp_path: Path) -> None:
    with newcomers_machine() as machine:
        machine.path("/usr/bin/curl").unlink()
        done = Walkthrough(README, machine, tmp_path).walk()
    assert len(done) == len(commands(README))
    seconds = {command: moment for command, moment in done.items() if command.section == QUICK_START}
    for command, moment in done.items():
        print(f"{moment:6.1f} s  {command}")
    (reload, *_) = (moment for command, moment in seconds.items() if "urlopen" in command.text)
    assert reload < MOST_SECONDS


def test_releases_are_deployed_and_undone(tmp_path: Path) -> None:
    with newcomers_machine() as machine:
        done = Walkthrough(RELEASES, machine, tmp_path).walk()
    assert len(done) == len(commands(RELEASES))
