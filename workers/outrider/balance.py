"""How many connections a worker should hold, given what the freest of the others holds.

Two places ask: the listener before it accepts, and the tick for connections that are kept alive, which would otherwise
stay for ever where they once came, and never reach a worker that was started since (a canary least of all).
"""

from __future__ import annotations

# A worker may hold this many connections, and this part of its own, more than the freest one. Without a lead all
# would take turns for each connection; with a larger one the spread would show.
LEAD = 5
LEAD_PART = 16
STALE_AFTER_NS = 2_000_000_000
"""A worker whose heartbeat is older than this hangs: nobody waits for it, or sends connections its way."""
_SHED_PART = 4
_MOST_SHED_PART = 8


def room_to_accept(held: int, fewest: int) -> int:
    """How many more connections to take before the worker with the `fewest` is clearly freer; 0 or less for none."""
    return fewest + LEAD + held // LEAD_PART - held


def surplus_to_shed(held: int, fewest: int) -> int:
    """How many connections to close within a tick, each with its next response (`Connection: close`).

    A part of the surplus, for others shed as well; and one where somebody has none at all.
    """
    starved = fewest == 0 and held > 1
    surplus = -room_to_accept(held, fewest)
    return max(int(starved), min(-(-surplus // _SHED_PART), held // _MOST_SHED_PART + 1))
