"""Load a server with clients of several kinds while something happens to it, and count what was lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from outrider_testing.http_client import Address
from outrider_testing.load_clients import (
    Client,
    HalfSentPostClient,
    KeepAliveClient,
    NewConnectionClient,
    Outcome,
    Pace,
    SilentClient,
    SlowStreamClient,
)

MIX: Mapping[type[Client], int] = {
    KeepAliveClient: 10,
    NewConnectionClient: 10,
    SilentClient: 60,
    HalfSentPostClient: 40,
    SlowStreamClient: 25,
}
"""How many clients of each kind run at once. The slow kinds are many, as each makes few requests."""

EXAMPLES = 10


@dataclass
class Report:
    """What became of the requests of a load."""

    outcomes: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: Outcome, detail: str) -> None:
        """Count one request."""
        self.outcomes[kind, outcome] += 1
        if outcome is not Outcome.OK and len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind} {outcome}: {detail}")

    @property
    def requests(self) -> int:
        """All of them."""
        return self.outcomes.total()

    @property
    def lost(self) -> int:
        """Those that did not end well."""
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome is not Outcome.OK)

    def requests_of(self, kind: type[Client]) -> int:
        """Those made by one kind of client."""
        return sum(count for (name, _), count in self.outcomes.items() if name == kind.__name__)

    def __str__(self) -> str:
        rows = [f"{kind:20} {outcome:8} {count:7}" for (kind, outcome), count in sorted(self.outcomes.items())]
        return "\n".join([f"{self.lost} lost of {self.requests}", *rows, *self.examples])


class Load:
    """A mix of clients that load one server.

    `actions` are blocking callables; they run one after another in a thread, spread evenly over the first
    `requests` requests, while the clients go on. The load ends when the requests and the actions are done.
    """

    def __init__(
        self,
        address: Address,
        *,
        mix: Mapping[type[Client], int] = MIX,
        pace: Pace | None = None,
        seed: int = 0,
    ) -> None:
        self._report = Report()
        self._awaited = 0
        self._reached = asyncio.Event()
        self._is_stopping = False
        chance = random.Random(seed)
        self._clients = [
            kind(address, random.Random(chance.random()), pace or Pace())
            for kind, count in mix.items()
            for _ in range(count)
        ]

    async def run(self, requests: int, actions: Sequence[Callable[[], object]] = ()) -> Report:
        """Run the load and return its report. What an action raises ends the load and is raised here."""
        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                group.create_task(client.run(self._recorder(client), lambda: self._is_stopping))
            try:
                for number, action in enumerate(actions, 1):
                    await self._until_made(requests * number // (len(actions) + 1))
                    await asyncio.to_thread(action)
                await self._until_made(requests)
            finally:
                self._is_stopping = True
        return self._report

    def _recorder(self, client: Client) -> Callable[[Outcome, str], None]:
        kind = type(client).__name__

        def record(outcome: Outcome, detail: str) -> None:
            self._report.add(kind, outcome, detail)
            if self._report.requests >= self._awaited:
                self._reached.set()

        return record

    async def _until_made(self, requests: int) -> None:
        self._awaited = requests
        self._reached.clear()
        if self._report.requests < requests:
            await self._reached.wait()
