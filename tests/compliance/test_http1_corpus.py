"""Raw requests with their expected answers, replayed whole, byte by byte, and split at every offset."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from outrider.runtime import ConnectionContext
from outrider_testing.fakes import Answer, Client, ManualLoop, echo, make_context, make_runtime

CORPUS = Path(__file__).parent / "http1"


@dataclass
class Case:
    """One connection. See the head of each corpus file for what the fields mean."""

    name: str
    raw: str = ""
    lines: list[str] = field(default_factory=list)
    body: str = ""
    then: str = ""
    answers: list[int] = field(default_factory=list)
    split_answers: list[int] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    closes: bool = False

    @property
    def data(self) -> bytes:
        head = "".join(f"{line}\r\n" for line in [*self.lines, ""]) if self.lines else ""
        return f"{self.raw}{head}{self.body}{self.then}".encode("latin-1")

    @property
    def statuses(self) -> list[int]:
        return self.answers or [200] * len(self.seen)


def load(name: str) -> list[Any]:
    document = tomllib.loads((CORPUS / f"{name}.toml").read_text(encoding="utf-8"))
    refused = {"closes": True} if name == "refused" else {}
    return [pytest.param(Case(**refused | case), id=case["name"]) for case in document["case"]]


@pytest.fixture
def context(loop: ManualLoop) -> ConnectionContext:
    """What all connections of a test share."""
    return make_context(make_runtime(loop, echo))


def replay(loop: ManualLoop, context: ConnectionContext, case: Case, *pieces: bytes) -> tuple[list[Answer], bool]:
    """Send the pieces one after another; return the final answers and whether the connection was closed."""
    client = Client(loop, context)
    for piece in pieces:
        client.feed(piece)
    assert client.transport.written_late == b""
    assert client.log.messages("error") == []
    answers = [answer for answer in client.answers(*case.methods) if answer.status >= 200]
    assert all(answer.complete for answer in answers)
    closed = client.is_closed()
    client.lose()
    return answers, closed


@pytest.mark.parametrize("case", load("accepted") + load("refused"))
def test_server_answers_as_expected(loop: ManualLoop, context: ConnectionContext, case: Case) -> None:
    answers, closed = replay(loop, context, case, case.data)
    assert [answer.status for answer in answers] == case.statuses
    assert closed is case.closes
    assert [answer.closes for answer in answers] == [False] * (len(answers) - 1) + [case.closes]
    for answer, expected in zip(answers, case.seen, strict=False):
        seen = answer.json() if expected else {}
        assert {key: seen[key] for key in expected} == expected


@pytest.mark.parametrize("case", load("accepted") + load("refused"))
def test_server_answers_the_same_however_the_bytes_arrive(
    loop: ManualLoop, context: ConnectionContext, case: Case
) -> None:
    data = case.data
    expected = replay(loop, context, case, data)
    every_byte = [data[i : i + 1] for i in range(len(data))]
    for pieces in [every_byte, *([data[:i], data[i:]] for i in range(1, len(data)))]:
        answers, closed = replay(loop, context, case, *pieces)
        if [answer.status for answer in answers] != case.split_answers:
            assert (answers, closed) == expected, f"split: {pieces}"
