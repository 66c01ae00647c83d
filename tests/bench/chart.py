"""Draw CPU per request by server and load."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loads import LOADS, Page, Tool
from servers import FLOOR, OUTRIDER, SERVERS
from summary import Results, Row, rows_of

_COLOURS = {OUTRIDER: "#c8501e", FLOOR: "#c9c9c9"}
_PEER_COLOUR = "#5b7a99"
_COLUMNS = 2
_LONGEST_OVER_SECOND = 1.5  # one very costly server would make the others unreadable: its bar is cut


def write(results: Results, page: Page, path: Path) -> bool:
    """Write a PNG to ``path``: one panel for each load of ``page``, each with its own scale, cheapest server on top.

    Returns whether there was anything to draw.
    """
    mpl.use("Agg")
    loads = [load for load in LOADS.values() if load.page is page and load.tool is not Tool.IDLE]
    panels = {load.key: rows_of(results, load.key) for load in loads}
    panels = {load: rows for load, rows in panels.items() if rows}
    if not panels:
        return False
    lines = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(12, 3.2 * lines), layout="constrained")
    axes = figure.subplots(lines, _COLUMNS, squeeze=False).flat
    for load, rows in panels.items():
        _draw(next(axes), LOADS[load].title, rows)
    for unused in axes:
        unused.axis("off")
    figure.suptitle(f"Server CPU per {loads[0].unit} in µs: medians, one worker on one core (less is better)")
    figure.savefig(path, dpi=110)
    return True


def _draw(axes: Axes, title: str, rows: dict[str, Row]) -> None:
    ordered = sorted(rows, key=lambda server: rows[server].middle.cpu_us, reverse=True)
    costs = [rows[server].middle.cpu_us for server in ordered]
    labels = [SERVERS[server].label + ("" if rows[server].is_clean else " ⚠") for server in ordered]
    longest = _LONGEST_OVER_SECOND * (sorted(costs)[-2] if len(costs) > 1 else costs[0])
    shown = [min(cost, longest) for cost in costs]
    bars = axes.barh(labels, shown, color=[_COLOURS.get(server, _PEER_COLOUR) for server in ordered])
    figures = [f"{cost:.1f}" + (" (bar cut)" if cost > longest else "") for cost in costs]
    axes.bar_label(bars, figures, padding=3, fontsize=8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.2)
