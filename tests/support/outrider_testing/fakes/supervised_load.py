"""What the autoscaler of a supervised service measures."""

from __future__ import annotations

import dataclasses
from typing import Any

from outrider_supervisor import events
from outrider_testing.fakes.supervised_service import FakeService


class FakeLoad:
    """What the autoscaler of a fake service measures: workers that serve share a demand. `fields` are other values."""

    def __init__(self, service: FakeService, demand: float) -> None:
        self.demand = demand
        self.fields: dict[str, Any] = {}
        self._service = service
        self._measured_at = 0.0
        service.load = self.measure

    def measure(self) -> events.Load | None:
        """Once a second."""
        service = self._service
        if service.now - self._measured_at < 1.0:
            return None
        self._measured_at = service.now
        serving = [worker.pid for worker in service.workers.values() if worker.is_serving]
        share = min(1.0, self.demand / len(serving)) if serving else 0.0
        workers = {pid: events.Share(share, share) for pid in serving}
        return dataclasses.replace(events.Load(workers, 100.0, 0, 16.0, 1 << 40, 1 << 20), **self.fields)
