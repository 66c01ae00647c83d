"""Draw workers and waits of every trace and rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autoscale.model import SLO, WARM_UP, Result
from autoscale.table import OUTRIDER, Results, best_peer

_OWN, _PEER, _OTHER, _NEEDED = "#c8501e", "#2b4c6f", "#b9c4cf", "#dfe9d8"
_LONGEST_WAIT = 10.0


def draw(results: Results, path: Path) -> None:
    """Write a PNG: for each trace the workers above and the waits below, Outrider and the best peer in colour."""
    mpl.use("Agg")
    figure = Figure(figsize=(13, 2.9 * len(results)), layout="constrained")
    rows = figure.subplots(len(results), 2, squeeze=False)
    for (trace, by_rule), (workers, waits) in zip(results.items(), rows, strict=True):
        _draw_workers(workers, trace, by_rule)
        _draw_waits(waits, by_rule)
    figure.suptitle("Workers (shaded: needed) and the wait that 5 % of the requests exceed, in seconds")
    figure.savefig(path, dpi=64)


def _styles(by_rule: Mapping[str, Result]) -> list[tuple[str, Result, str, float]]:
    """The rules from back to front, each with its colour and width."""
    best = best_peer(by_rule)
    colours = {OUTRIDER: (_OWN, 1.8), best: (_PEER, 1.3)}
    order = [name for name in by_rule if name not in colours] + [best, OUTRIDER]
    return [(name, by_rule[name], *colours.get(name, (_OTHER, 0.8))) for name in order]


def _draw_workers(axes: Axes, trace: str, by_rule: Mapping[str, Result]) -> None:
    needed = by_rule[OUTRIDER].needed
    axes.fill_between(range(len(needed)), needed, step="post", color=_NEEDED)
    for name, result, colour, width in _styles(by_rule):
        label = name if colour != _OTHER else None
        axes.step(range(len(result.workers)), result.workers, where="post", color=colour, lw=width, label=label)
    axes.axvspan(0, WARM_UP, color="#00000010")
    axes.set_title(trace, fontsize=10, loc="left")
    axes.set_ylim(0, 8.5)
    axes.legend(fontsize=7, loc="upper right")
    axes.tick_params(labelsize=8)


def _draw_waits(axes: Axes, by_rule: Mapping[str, Result]) -> None:
    for _, result, colour, width in _styles(by_rule):
        axes.plot([max(0.005, min(_LONGEST_WAIT, wait)) for wait in result.waits], color=colour, lw=width)
    axes.axhline(SLO, color="black", lw=0.7, ls=":")
    axes.axvspan(0, WARM_UP, color="#00000010")
    axes.set_yscale("log")
    axes.tick_params(labelsize=8)
