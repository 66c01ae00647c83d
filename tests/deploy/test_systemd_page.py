"""docs/how-to/systemd.md, as somebody follows it on a clean Debian that systemd has booted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from outrider_testing import walkthrough
from outrider_testing.debian import debian
from outrider_testing.documented import REPOSITORY, Command, commands
from outrider_testing.programs import PATH
from outrider_testing.systemd import Machine

pytestmark = [pytest.mark.external, pytest.mark.timeout(600)]  # it may have to make the Debian

PAGE = "docs/how-to/systemd.md"


def test_page_is_true(tmp_path: Path) -> None:
    with debian() as system:
        shown = {place: str(place) for place in system.shown} | {REPOSITORY: "/srv/outrider"}
        with Machine(system.path, shown) as machine:

            def command(step: Command, words: Sequence[str]) -> list[str]:
                return machine.command(*words, online="pip install" in step.text)

            reader = walkthrough.Machine(command, machine.path, PATH)
            try:
                done = walkthrough.Walkthrough(PAGE, reader, tmp_path).walk()
            finally:
                print(machine.journal())
    assert len(done) == len(commands(PAGE))
