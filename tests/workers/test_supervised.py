"""What the environment says about a supervisor, and the process title that follows from it."""

from __future__ import annotations

import pytest

from outrider.errors import ConfigurationError
from outrider.supervised import ProcessTitle, Supervision, read_supervision


def test_environment_without_a_supervisor_gives_none() -> None:
    assert read_supervision({"OUTRIDER_SCOREBOARD_FD": "7"}) is None


def test_environment_names_the_supervisor() -> None:
    environ = {"OUTRIDER_SUPERVISOR_PID": "41", "OUTRIDER_SUPERVISOR_GENERATION": "3"}
    assert read_supervision(environ) == Supervision(pid=41, generation=3)


@pytest.mark.parametrize(
    "pid, generation, complaint",
    [
        ("one", "3", "OUTRIDER_SUPERVISOR_PID=one: a number is needed"),
        ("-1", "3", "OUTRIDER_SUPERVISOR_PID=-1: a number is needed"),
        ("41", "", "OUTRIDER_SUPERVISOR_GENERATION=: a number is needed"),
        ("41", "³", "OUTRIDER_SUPERVISOR_GENERATION=³: a number is needed"),
        ("41", None, "OUTRIDER_SUPERVISOR_GENERATION=: a number is needed"),
        (None, "3", "OUTRIDER_SUPERVISOR_PID=: a number is needed"),
    ],
)
def test_malformed_environment_is_refused(pid: str | None, generation: str | None, complaint: str) -> None:
    given = {"OUTRIDER_SUPERVISOR_PID": pid, "OUTRIDER_SUPERVISOR_GENERATION": generation}
    with pytest.raises(ConfigurationError) as caught:
        read_supervision({name: value for name, value in given.items() if value is not None})
    assert str(caught.value).startswith(complaint)


def test_title_follows_the_state() -> None:
    titles: list[str] = []
    title = ProcessTitle(Supervision(pid=41, generation=3), "shop", titles.append)
    for state in ("booting", "booting", "ready", "ready", "draining"):
        title.show(state)
    assert titles == [f"outrider: worker [shop] g3 {state}" for state in ("booting", "ready", "draining")]


def test_title_without_a_supervisor_is_left_alone() -> None:
    titles: list[str] = []
    ProcessTitle(None, "shop", titles.append).show("ready")
    assert titles == []
