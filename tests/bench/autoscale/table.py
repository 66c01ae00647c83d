"""The results as Markdown tables, and who did better.

The best peer on a trace is the one with the lowest cost: its wasted worker-seconds, and for each second over the SLO
those of a whole pool. Outrider is no worse if neither figure is above that peer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from autoscale.model import MAX_WORKERS, WARM_UP, Result

Results = Mapping[str, Mapping[str, Result]]
OUTRIDER = "Outrider"
PRICE = MAX_WORKERS
"""Wasted worker-seconds that a second over the SLO is worth."""


class Verdict(Enum):
    """Outrider's two figures beside those of one peer."""

    BETTER = "better"
    EQUAL = "equal"
    TRADED = "a trade"
    WORSE = "worse"


def cost(result: Result) -> int:
    """Both figures as one."""
    return result.wasted + PRICE * result.over_slo


def best_peer(results: Mapping[str, Result]) -> str:
    """The name of the peer with the lowest cost."""
    return min((name for name in results if name != OUTRIDER), key=lambda name: cost(results[name]))


def compare(own: Result, peer: Result) -> Verdict:
    """BETTER and WORSE: in one figure at least, and in the other no less so."""
    differences = (own.over_slo - peer.over_slo, own.wasted - peer.wasted)
    if not any(differences):
        return Verdict.EQUAL
    if max(differences) <= 0:
        return Verdict.BETTER
    return Verdict.WORSE if min(differences) >= 0 else Verdict.TRADED


def turns_a_minute(result: Result) -> float:
    """How often a rule changed its direction."""
    return 60 * result.turns / len(result.targets)


def render(results: Results) -> str:
    """Seconds over the SLO / wasted worker-seconds / direction changes."""
    names = list(next(iter(results.values())))
    lines = [f"| Trace | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for trace, by_rule in results.items():
        cells = [f"{each.over_slo} / {each.wasted} / {each.turns}" for each in by_rule.values()]
        lines.append(f"| {trace} | {' | '.join(cells)} |")
    totals = [sum(cost(by_rule[name]) for by_rule in results.values()) for name in names]
    lines.append(f"| cost of all | {' | '.join(map(str, totals))} |")
    return "\n".join(lines)


def render_verdicts(results: Results) -> str:
    """Outrider beside the best peer of each trace, and which peers did better in both."""
    heads = ("Trace", "Best peer", "Its figures", "Outrider's", "Outrider is", "Cost", "Better in both")
    lines = ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for trace, by_rule in results.items():
        own, peer = by_rule[OUTRIDER], best_peer(by_rule)
        ahead = [name for name, each in by_rule.items() if compare(own, each) is Verdict.WORSE]
        figures = [f"{each.over_slo} / {each.wasted}" for each in (by_rule[peer], own)]
        verdict = compare(own, by_rule[peer]).value
        costs = f"{cost(own)} : {cost(by_rule[peer])}"
        lines.append(
            f"| {trace} | {peer} | {' | '.join(figures)} | {verdict} | {costs} | {', '.join(ahead) or 'none'} |"
        )
    seconds = f"The first {WARM_UP} s of each trace do not count."
    return "\n".join([*lines, "", seconds])
