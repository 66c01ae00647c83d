"""What the comparison of reloads says of a server, from what its load has seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider_testing.load import Report, Window
from outrider_testing.load_clients import Exchange, Outcome
from reloads import FAULTS, NAMES, PEERS, TAIL, Row, Verdict, judge, main, render


def exchange(begun: float, outcome: Outcome = Outcome.OK, wait: float = 0.001) -> Exchange:
    return Exchange("keep-alive", begun, outcome, sent=begun, first_byte=begun + wait, ended=begun + wait)


def test_verdict_is_about_the_end_of_the_load() -> None:
    lost_early = [exchange(1.0, Outcome.RESET), exchange(2.0, Outcome.SERVER_ERROR)]
    report = Report([*lost_early, exchange(10.0 - TAIL), exchange(9.0), exchange(10.0)])
    assert judge(report, lives=True) == Verdict(lives=True, failing=0.0, lost=2)


def test_verdict_counts_what_fails_in_the_end() -> None:
    report = Report([exchange(1.0), exchange(8.0, Outcome.REFUSED), exchange(9.0), exchange(10.0, Outcome.EMPTY)])
    assert judge(report, lives=True) == Verdict(lives=True, failing=2 / 3, lost=2)


@pytest.mark.parametrize(
    "verdict, text",
    [
        (Verdict(lives=True, failing=0.0, lost=3), "yes, 3 lost"),
        (Verdict(lives=True, failing=0.5, lost=3), "**no**: 50% fail"),
        (Verdict(lives=False, failing=1.0, lost=3), "**no**: the service ended"),
    ],
)
def test_verdict_is_a_cell_of_the_table(verdict: Verdict, text: str) -> None:
    assert str(verdict) == text


def test_table_has_a_column_for_each_way_in_which_requests_were_lost() -> None:
    fine = (Verdict(lives=True, failing=0.0, lost=0),) * len(FAULTS)
    rows = [
        Row("one", Report([exchange(0.0), exchange(1.0, Outcome.RESET)], [Window("reload", 0.0, 1.0)]), fine),
        Row("two", Report([exchange(0.0, wait=0.4), exchange(1.0, Outcome.EMPTY)]), fine),
    ]
    heads, rule, first, second = (line.strip("| ").split("|") for line in render(rows).splitlines())
    assert len({len(heads), len(rule), len(first), len(second)}) == 1
    assert [head.strip() for head in heads[:6]] == [
        "Server",
        "requests",
        "lost: reset",
        "lost: empty",
        "waits > 250 ms",
        "longest wait",
    ]
    assert [cell.strip() for cell in first[:6]] == ["one", "2", "1", "0", "0", "1 ms"]
    assert [cell.strip() for cell in second[:6]] == ["two", "2", "0", "1", "1", "400 ms"]


def test_every_peer_is_told_where_to_listen() -> None:
    assert all(any("{port}" in word for word in peer.command) for peer in PEERS.values())


def test_unknown_server_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--servers", "uvicorn,apache"])
    error = capsys.readouterr().err
    assert "apache is not among" in error
    assert all(name in error for name in NAMES)


def test_target_is_in_the_makefile() -> None:
    makefile = Path(__file__).parents[2] / "Makefile"
    assert "tests/bench/reloads.py $(ARGS)" in makefile.read_text()
