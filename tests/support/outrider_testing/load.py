"""Load a server with clients of several kinds while something happens to it; see what was lost, and what had to wait.

The load is an open loop: requests arrive at their rate, whether or not the earlier ones have been answered. So a
server that stops for a second meets all the requests of that second, as it would from the clients of the world.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from outrider_testing.http_client import Address
from outrider_testing.load_clients import (
    Client,
    Exchange,
    HalfSentPostClient,
    KeepAliveClient,
    NewConnectionClient,
    Outcome,
    Pace,
    SilentClient,
    SlowStreamClient,
)

Mix = Mapping[type[Client], float]

MIX: Mix = {
    KeepAliveClient: 200,
    NewConnectionClient: 120,
    SilentClient: 40,
    HalfSentPostClient: 30,
    SlowStreamClient: 15,
}
"""Requests a second of each kind: as much as a machine of two slow cores can offer and serve at once."""

STALL = 0.25
"""Seconds for a first byte above which a user has noticed. The application answers at once."""
EXAMPLES = 10
_GIVE_UP_CATCHING_UP = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """When an action was under way, on the clock of the loop."""

    name: str
    begun: float
    ended: float

    def touches(self, exchange: Exchange) -> bool:
        """Tell whether the exchange was under way meanwhile."""
        return exchange.begun <= self.ended and exchange.ended >= self.begun


@dataclass
class Report:
    """What became of the requests of a load."""

    exchanges: list[Exchange] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    lateness: float = 0.0
    """Seconds by which the load itself was late at worst: no stall is shorter than what the machine was away."""

    @property
    def requests(self) -> int:
        """All of them."""
        return len(self.exchanges)

    @property
    def lost(self) -> list[Exchange]:
        """Those that did not end well."""
        return [each for each in self.exchanges if each.outcome is not Outcome.OK]

    def count(self, *outcomes: Outcome) -> int:
        """Those that ended in one of these ways."""
        return sum(each.outcome in outcomes for each in self.exchanges)

    def requests_of(self, kind: type[Client]) -> int:
        """Those made by one kind of client."""
        return sum(each.kind == kind.kind for each in self.exchanges)

    @property
    def versions(self) -> Counter[str]:
        """How many requests each release answered."""
        return Counter(each.version for each in self.exchanges if each.version)

    # Waiting

    def waits(self, *, acting: bool) -> list[float]:
        """Seconds to the first byte, in order of length: while an action was under way, or while none was."""
        return sorted(
            each.wait
            for each in self.exchanges
            if each.outcome is Outcome.OK and any(window.touches(each) for window in self.windows) is acting
        )

    @property
    def stalls(self) -> list[Exchange]:
        """The requests whose first byte took longer than `STALL`."""
        return [each for each in self.exchanges if each.wait > STALL]

    @property
    def longest_wait(self) -> float:
        """Seconds of the longest wait for a first byte."""
        return max((each.wait for each in self.exchanges if each.outcome is Outcome.OK), default=0.0)

    def __str__(self) -> str:
        counts = Counter((each.kind, each.outcome) for each in self.exchanges)
        versions = ", ".join(f"{count} by {version}" for version, count in sorted(self.versions.items()))
        lines = [f"{len(self.lost)} lost of {self.requests}" + (f" ({versions})" if versions else "")]
        lines += [f"  {kind:15} {outcome:10} {count:7}" for (kind, outcome), count in sorted(counts.items())]
        for name, acting in (("steady", False), ("acting", True)):
            waits = self.waits(acting=acting)
            lines.append(
                f"  {name}: {len(waits)} requests, first byte p50 {percentile(waits, 50) * 1000:.1f} ms, "
                f"p99 {percentile(waits, 99) * 1000:.1f} ms, longest {percentile(waits, 100) * 1000:.0f} ms"
            )
        late = f"the load itself was late by up to {self.lateness * 1000:.0f} ms"
        lines.append(f"  {len(self.stalls)} stalls over {STALL * 1000:.0f} ms; {late}")
        lines += [
            f"  {window.name}: {window.ended - window.begun:.1f} s, "
            f"{sum(window.touches(each) for each in self.lost)} lost meanwhile"
            for window in self.windows
        ]
        lines += [
            f"  {each.kind} {each.outcome} at {each.begun:.3f} for {each.ended - each.begun:.3f} s: {each.detail}"
            for each in self.lost[:EXAMPLES]
        ]
        return "\n".join(lines)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the numbers that so many percent do not exceed; 0 where there are none."""
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)] if ordered else 0.0


class Load:
    """A mix of clients that load one server.

    `actions` are blocking callables; they run one after another in a thread, the starts spread evenly over the first
    `requests` requests, while the clients go on. The load ends when the requests and the actions are done.
    """

    def __init__(self, address: Address, *, mix: Mix = MIX, pace: Pace | None = None, seed: int = 0) -> None:
        self.report = Report()
        self._chance = random.Random(seed)
        self._rates = {
            kind(address, random.Random(self._chance.random()), pace or Pace()): rate for kind, rate in mix.items()
        }
        self._awaited = 0
        self._reached = asyncio.Event()
        self._is_stopping = False

    async def run(self, requests: int, actions: Iterable[Callable[[], object]] = ()) -> Report:
        """Run the load and return its report. What an action raises ends the load and is raised here."""
        actions = list(actions)
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for client, rate in self._rates.items():
                    group.create_task(self._arrive(client, rate, group))
                try:
                    for number, action in enumerate(actions, 1):
                        await self._until_made(requests * number // (len(actions) + 1))
                        await self._act(action)
                    await self._until_made(requests)
                except Exception as error:  # noqa: BLE001  # raised below, outside of the group, which would wrap it
                    failure = error
                finally:
                    self._is_stopping = True
        finally:
            for client in self._rates:
                client.close()
        if failure is not None:
            raise failure
        return self.report

    async def _act(self, action: Callable[[], object]) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            await asyncio.to_thread(action)
        finally:
            name = getattr(action, "__name__", "") or type(action).__name__
            self.report.windows.append(Window(name, begun, clock()))

    async def _arrive(self, client: Client, rate: float, group: asyncio.TaskGroup) -> None:
        """Let requests of one kind arrive at random, `rate` of them a second (a Poisson process)."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while not self._is_stopping:
            due += self._chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - clock()))
            late = clock() - due
            self.report.lateness = max(self.report.lateness, late)
            if late > _GIVE_UP_CATCHING_UP:
                due = clock()
            group.create_task(self._make(client))

    async def _make(self, client: Client) -> None:
        self.report.exchanges.append(await client.make())
        if self.report.requests >= self._awaited:
            self._reached.set()

    async def _until_made(self, requests: int) -> None:
        self._awaited = requests
        self._reached.clear()
        if self.report.requests < requests:
            await self._reached.wait()
