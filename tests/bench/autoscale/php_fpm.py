"""php-fpm's `pm = dynamic` with the values of its www.conf. A worker is idle while it has no request."""

from __future__ import annotations

from autoscale.model import MAX_WORKERS, View

MIN_SPARE, MAX_SPARE = 1, 3
MOST_AT_ONCE = 32


class Dynamic:
    """Between `MIN_SPARE` and `MAX_SPARE` idle workers; the number of those started at once doubles each second."""

    def __init__(self) -> None:
        self._spawn_rate = 1

    def decide(self, view: View) -> int:
        """See `Rule`."""
        booting = view.target - len(view.workers)  # a child that has just been forked is idle
        idle = booting + sum(worker.in_flight == 0 for worker in view.workers)
        if idle > MAX_SPARE:
            self._spawn_rate = 1
            return view.target - 1
        if idle < MIN_SPARE and view.target < MAX_WORKERS:
            more = min(self._spawn_rate, MIN_SPARE - idle, MAX_WORKERS - view.target)
            self._spawn_rate = min(MOST_AT_ONCE, 2 * self._spawn_rate)
            return view.target + more
        self._spawn_rate = 1
        return view.target
