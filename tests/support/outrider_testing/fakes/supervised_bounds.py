"""How many workers a supervised service must have, and may have, by what its machine was told."""

from __future__ import annotations

from outrider_supervisor.machine import Machine


class Bounds:
    """The least number of workers that must serve and the most that there may be, at each time."""

    def __init__(self) -> None:
        self._at: dict[float, tuple[int, int]] = {}

    def note(self, machine: Machine, now: float) -> None:
        """Take down what a machine has to keep to now."""
        if machine.current is None:
            return
        rollout = machine.rollout
        if rollout is None:
            least, most = machine.target, machine.target + machine.current.service.max_surge
        else:
            least, most = sorted((machine.target, rollout.old_target))
            # A replacement that is under way when the reload begins comes on top.
            most += max(each.service.max_surge for each in (rollout.old, rollout.new)) + len(machine.replacements.pids)
        before = self._at.get(now, (least, most))
        self._at[now] = (min(least, before[0]), max(most, before[1]))

    def least(self, since: float) -> int:
        """How many workers had to serve since then, at the time that asked for the fewest."""
        return min(least for at, (least, _most) in self._at.items() if at >= since)

    def most(self, since: float, target: int) -> int:
        """How many workers there could be since then, with those that a smaller target has sent away."""
        recent = [bounds for at, bounds in self._at.items() if at >= since]
        sent_away = max(target - least for least, _most in recent)
        return max(most for _least, most in recent) + sent_away
