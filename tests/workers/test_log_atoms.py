"""The format of the access log, and the atoms of one line."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger, SafeAtoms

from outrider.errors import ConfigurationError
from outrider.log_atoms import Format, Line, LineAtoms

NOON = 1_795_262_400.5


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def user_of(authorization: str) -> str:
    return f"user in {authorization}"


def make_line(**scope: Any) -> Line:
    line = Line(
        Logger(Config()),
        {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": '/a"b',
            "raw_path": b"/a%22b",
            "query_string": b"q=1",
            "headers": [(b"user-agent", b'test "1"'), (b"authorization", b"Basic x"), (b"x-a", b"1")],
            "client": ("192.0.2.1", 50000),
            "server": None,
            **scope,
        },
        200,
        [(b"X-Out", b'"o"'), [b"x-out", b"last"]],
        1234,
    )
    line.microseconds = 3_004_005
    return line


def format_line(text: str, clock: Clock, **scope: Any) -> str:
    return text % Format(text, user_of, clock).atoms_of(make_line(**scope))


@pytest.mark.parametrize(
    "text,expected",
    [
        ("%(h)s", "192.0.2.1"),
        ("%(l)s", "-"),
        ("%(u)s", "user in Basic x"),
        ("%(r)s", "GET /a%22b?q=1 HTTP/1.1"),
        ("%(s)s", "200"),
        ("%(m)s", "GET"),
        ("%(U)s", '/a\\"b'),
        ("%(q)s", "q=1"),
        ("%(H)s", "HTTP/1.1"),
        ("%(b)s", "1234"),
        ("%(B)d", "1234"),
        ("%(f)s", "-"),
        ("%(a)s", 'test \\"1\\"'),
        ("%(T)s", "3"),
        ("%(D)s", "3004005"),
        ("%(M)s", "3004"),
        ("%(L)s", "3.004005"),
        ("%({X-A}i)s %({x-none}i)s", "1 -"),
        ("%({X-Out}o)s %({x-none}o)s", "last -"),
        ("%({remote_port}e)s %({HTTP_X_A}e)s %({none}e)s", "50000 1 -"),
        ("%({raw_uri}e)s", "/a%22b?q=1"),
        ("%(z)s %({x-a}z)s %({x-a)s", "- - -"),
        ("%({caf\xe9}i)s", "-"),
        ("%(h)s %(h)s 100%%", "192.0.2.1 192.0.2.1 100%"),
        ("%%(h)s", "%(h)s"),
        ("static", "static"),
    ],
)
def test_format_shows_atom(clock: Clock, text: str, expected: str) -> None:
    assert format_line(text, clock) == expected


def test_format_shows_pid_of_this_process(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    form = Format("%(p)s", user_of, clock)
    monkeypatch.setattr("os.getpid", lambda: 42)  # the format may be older than the fork
    assert form.text % form.atoms_of(make_line()) == "<42>"


def test_format_shows_referer_and_other_spelling_of_user_agent(clock: Clock) -> None:
    headers = [(b"referer", b"/from"), (b"user_agent", b"odd")]
    assert format_line("%(f)s %(a)s", clock, headers=headers) == "/from odd"


def test_format_shows_dash_for_unix_client(clock: Clock) -> None:
    assert format_line("%(h)s", clock, client=None) == "-"


def test_format_computes_time_once_a_second(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    strftime = time.strftime

    def record(*args: Any) -> str:
        calls.append(args[0])
        return strftime(*args)

    monkeypatch.setattr(time, "strftime", record)
    form = Format("%(t)s", user_of, clock)
    first = form.text % form.atoms_of(make_line())
    clock.now += 0.4
    assert form.text % form.atoms_of(make_line()) == first
    assert len(calls) == 1
    clock.now += 0.1
    later = form.text % form.atoms_of(make_line())
    assert len(calls) == 2
    assert later == strftime("[%d/%b/%Y:%H:%M:%S %z]", time.localtime(int(NOON) + 1))


@pytest.mark.parametrize("text", ["%(h)q", "%(h", "100%", "%(h)s %"])
def test_bad_format_is_refused_in_one_line(clock: Clock, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^access_log_format is '.*atoms such as") as caught:
        Format(text, user_of, clock)
    assert "\n" not in str(caught.value)


def test_format_computes_only_what_it_names(clock: Clock) -> None:
    atoms = Format("%(m)s", user_of, clock).atoms_of(make_line())
    assert dict.__len__(atoms) == 1


# -- a filter or a formatter may ask for any atom


@pytest.fixture
def atoms(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> LineAtoms:
    monkeypatch.setattr(Logger, "now", lambda _: "[now]")
    return Format("%(m)s", user_of, clock).atoms_of(make_line())


@pytest.fixture
def all_atoms(atoms: LineAtoms) -> SafeAtoms:
    line = make_line()
    assert atoms.line is not None
    return SafeAtoms(line.log.atoms(*line.arguments()))


def test_atoms_give_any_item(atoms: LineAtoms, all_atoms: dict[str, Any]) -> None:
    assert {key: atoms[key] for key in dict.keys(all_atoms)} == dict(all_atoms)
    assert atoms["{X-A}i"] == "1"
    assert atoms["{x-none}i"] == "-"
    assert atoms["nothing"] == "-"


def test_atoms_get(atoms: LineAtoms) -> None:
    assert atoms.get("U") == '/a\\"b'
    assert atoms.get("nothing") is None
    assert atoms.get("nothing", 5) == 5


def test_atoms_are_true_without_being_computed(atoms: LineAtoms) -> None:
    assert atoms
    assert dict.__len__(atoms) == 1


def test_atoms_have_length(atoms: LineAtoms, all_atoms: dict[str, Any]) -> None:
    assert len(atoms) == len(all_atoms)


def test_atoms_contain(atoms: LineAtoms) -> None:
    assert "U" in atoms
    assert "nothing" not in atoms


def test_atoms_iterate(atoms: LineAtoms, all_atoms: dict[str, Any]) -> None:
    assert set(atoms) == set(all_atoms)


def test_atoms_list_keys_values_and_items(clock: Clock, all_atoms: dict[str, Any]) -> None:
    form = Format("%(m)s", user_of, clock)
    assert set(form.atoms_of(make_line()).keys()) == set(all_atoms)
    assert sorted(map(str, form.atoms_of(make_line()).values())) == sorted(map(str, all_atoms.values()))
    assert dict(form.atoms_of(make_line()).items()) == dict(all_atoms)


def test_atoms_can_be_copied(clock: Clock, all_atoms: dict[str, Any]) -> None:
    form = Format("%(m)s", user_of, clock)
    assert form.atoms_of(make_line()).copy() == dict(all_atoms)
    assert dict(form.atoms_of(make_line())) == dict(all_atoms)
    assert {**form.atoms_of(make_line())} == dict(all_atoms)
    assert json.loads(json.dumps(form.atoms_of(make_line()))) == dict(all_atoms)
