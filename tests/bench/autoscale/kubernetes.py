"""The Kubernetes HorizontalPodAutoscaler with its defaults, a worker for a pod and a core for its request."""

from __future__ import annotations

import math
from collections import deque

from autoscale.model import MAX_WORKERS, View

TARGET = 0.8
"""Average CPU utilisation where the resource names no metric."""
TOLERANCE = 0.1
SYNC_PERIOD = 15
"""--horizontal-pod-autoscaler-sync-period, and metrics-server's resolution: CPU is the mean of that time."""
DOWN_WINDOW = 300
POLICY_PODS, POLICY_FACTOR = 4, 2
"""Most pods in 15 s: four more, or twice as many."""


class HPA:
    """Workers times utilisation by target; down only to the highest number of the last five minutes."""

    def __init__(self) -> None:
        self._seconds: deque[dict[int, float]] = deque(maxlen=SYNC_PERIOD)
        self._recommended: deque[tuple[float, int]] = deque()

    def decide(self, view: View) -> int:
        """See `Rule`."""
        self._seconds.append({worker.number: worker.cpu for worker in view.workers})
        if view.now % SYNC_PERIOD:
            return view.target
        wanted = self._recommend(view)
        self._recommended.append((view.now, wanted))
        while self._recommended[0][0] <= view.now - DOWN_WINDOW:
            self._recommended.popleft()
        if wanted < view.target:
            wanted = min(view.target, max(number for _, number in self._recommended))
        return min(max(1, wanted), MAX_WORKERS, max(view.target + POLICY_PODS, view.target * POLICY_FACTOR))

    def _recommend(self, view: View) -> int:
        """Pods that have been ready for less than a period count only when scaling up, and as idle."""
        measured = [worker.number for worker in view.workers if worker.age >= SYNC_PERIOD]
        if not measured:
            return view.target
        used = sum(second.get(number, 0.0) for second in self._seconds for number in measured) / SYNC_PERIOD
        pods = len(measured)
        ratio = used / pods / TARGET
        if ratio > 1 and pods < view.target:
            pods = view.target
            ratio = max(1.0, used / pods / TARGET)
        return view.target if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * pods)
