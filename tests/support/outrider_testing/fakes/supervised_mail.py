"""What masters tell their supervisor, on its way."""

from __future__ import annotations

from outrider_supervisor.events import FromGeneration, MasterExited


class Mail:
    """Events that arrive some time after they were sent, those of one generation in their order."""

    def __init__(self) -> None:
        self._on_the_way: list[tuple[float, int, FromGeneration | MasterExited]] = []

    def post(self, number: int, event: FromGeneration | MasterExited, due: float) -> None:
        """Send an event of a generation: it comes when it is due, and after those that were sent before."""
        before = [at for at, sender, _ in self._on_the_way if sender == number]
        self._on_the_way.append((max([due, *before]), number, event))

    def collect(self, now: float) -> list[FromGeneration | MasterExited]:
        """Return what has arrived."""
        arrived = [event for at, _, event in self._on_the_way if at <= now]
        self._on_the_way = [each for each in self._on_the_way if each[0] > now]
        return arrived
