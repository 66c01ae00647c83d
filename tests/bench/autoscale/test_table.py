from __future__ import annotations

from pathlib import Path

import pytest

from autoscale import run, table
from autoscale.model import SLO, WARM_UP, Result, simulate
from autoscale.outrider import Outrider
from autoscale.table import OUTRIDER, PRICE, Verdict, best_peer, compare
from autoscale.traces import TRACES

DOCS = Path(__file__).parents[3] / "docs" / "explanation" / "autoscaling.md"


def result(over: int, wasted: int, turns: int = 0) -> Result:
    rest = max(over, wasted)
    workers = [2] * (WARM_UP + wasted) + [1] * (rest - wasted)
    waits = [0.0] * WARM_UP + [2 * SLO] * over + [0.0] * (rest - over)
    targets = [1 + second % 2 if second <= turns + 1 else 1 + (turns + 1) % 2 for second in range(WARM_UP + rest)]
    return Result(workers, [1] * len(workers), waits, targets)


def test_result_of_the_test_is_what_it_says() -> None:
    made = result(3, 5, turns=2)
    assert (made.over_slo, made.wasted, made.turns) == (3, 5, 2)


@pytest.mark.parametrize(
    "own,peer,verdict",
    [
        ((1, 10), (1, 10), Verdict.EQUAL),
        ((0, 10), (1, 10), Verdict.BETTER),
        ((1, 9), (1, 10), Verdict.BETTER),
        ((0, 11), (1, 10), Verdict.TRADED),
        ((2, 9), (1, 10), Verdict.TRADED),
        ((1, 11), (1, 10), Verdict.WORSE),
    ],
)
def test_compare_looks_at_both_figures(own: tuple[int, int], peer: tuple[int, int], verdict: Verdict) -> None:
    assert compare(result(*own), result(*peer)) is verdict


def test_best_peer_is_the_cheapest_and_never_outrider() -> None:
    peers = {OUTRIDER: result(0, 0), "lavish": result(0, 100), "frugal": result(100 // PRICE + 1, 0)}
    assert best_peer(peers) == "lavish"


def test_tables_show_each_trace_and_rule() -> None:
    results = {"step": {OUTRIDER: result(2, 30), "uWSGI spare": result(9, 200)}}
    rendered = table.render(results)
    assert "| step | 2 / 30 / 0 | 9 / 200 / 0 |" in rendered
    assert f"| cost of all | {30 + 2 * PRICE} | {200 + 9 * PRICE} |" in rendered
    assert "| step | uWSGI spare | 9 / 200 | 2 / 30 | better |" in table.render_verdicts(results)


def test_replay_plays_the_named_traces_under_each_rule() -> None:
    results = run.replay(["slow dependency"])
    assert list(results) == ["slow dependency"]
    by_rule = results["slow dependency"]
    assert list(by_rule) == list(run.RULES)
    own = by_rule[OUTRIDER]
    # Requests that wait for something else are no reason to scale: the rules that count them take all there is.
    assert (own.over_slo, own.wasted, max(own.targets)) == (0, 0, 2)
    assert by_rule["uWSGI busyness"].wasted > 1000


def test_unknown_trace_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["nonsense"])
    assert "no such trace: nonsense; there are constant, step" in capsys.readouterr().err


def test_main_prints_both_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RULES", {name: run.RULES[name] for name in (OUTRIDER, "uWSGI spare")})
    assert run.main(["spike"]) == 0
    shown = capsys.readouterr().out
    assert "| cost of all |" in shown
    assert "Better in both" in shown


def read_docs() -> dict[str, dict[str, tuple[int, int, int]]]:
    """The figures in the docs by trace and rule: seconds over the SLO, wasted worker-seconds, changes of direction."""
    _, _, rest = DOCS.read_text(encoding="utf-8").partition("<!-- autoscale: begin -->\n")
    head, _, *rows = (line.strip("| ").split(" | ") for line in rest.partition("\n\n")[0].splitlines())
    figures = {}
    for trace, *cells in rows[:-1]:
        figures[trace] = {
            rule: (over, wasted, turns)
            for rule, cell in zip(head[1:], cells, strict=True)
            for over, wasted, turns in [map(int, cell.split(" / "))]
        }
    return figures


def test_docs_show_what_the_rule_does() -> None:
    shown = {trace: by_rule[OUTRIDER] for trace, by_rule in read_docs().items()}
    results = {trace.name: simulate(trace, Outrider(), trace.arrivals()) for trace in TRACES}
    assert shown == {name: (each.over_slo, each.wasted, each.turns) for name, each in results.items()}
    assert table.turns_a_minute(results["constant"]) <= 1.0


def test_rule_is_better_than_the_best_peer_on_five_traces_and_never_worse() -> None:
    verdicts = []
    for by_rule in read_docs().values():
        results = {rule: result(over, wasted) for rule, (over, wasted, _) in by_rule.items()}
        verdicts.append(compare(results[OUTRIDER], results[best_peer(results)]))
    assert verdicts.count(Verdict.BETTER) >= 5
    assert Verdict.WORSE not in verdicts
