"""What somebody wants of the service: one operation is under way, the others wait; the end goes before them all."""

from __future__ import annotations

from outrider_supervisor.actions import Code, Level, Progress
from outrider_supervisor.fleet import Outbox
from outrider_supervisor.intents import Intent, Recycle, Reload


class Agenda:
    """The operations. Of a kind only the newest waits, but every recycling does: each is of another worker."""

    def __init__(self, outbox: Outbox) -> None:
        self.operation: Intent | None = None
        """What is under way."""
        self.is_stopping = False
        self._waiting: list[Intent] = []
        self._signalled: dict[type[Intent], Intent] = {}
        """What signals have asked for, where a client's newer request waits in its place."""
        self._stops: list[int] = []
        self._outbox = outbox

    @property
    def waiting(self) -> tuple[Intent, ...]:
        """What comes next, in the order it was asked for."""
        return tuple(self._waiting)

    @property
    def asker(self) -> int:
        """Who waits for the operation under way; 0 is nobody."""
        return self.operation.id if self.operation is not None else 0

    def add(self, operation: Intent, *, has_started: bool) -> None:
        """Have an operation wait for its turn, which may be now."""
        if self.is_stopping:
            self._outbox.finish(operation.id, Code.STOPPING, "the service is stopping")
            return
        for same in [each for each in self._waiting if type(each) is type(operation)]:
            if not isinstance(same, Recycle):
                self._waiting.remove(same)
                self._outbox.finish(same.id, Code.SUPERSEDED, "a newer request of the same kind took its place")
                if operation.id and not same.id:
                    self._signalled[type(same)] = same
        if not operation.id:
            self._signalled.pop(type(operation), None)
        self._waiting.append(operation)
        if operation.id and (self.operation is not None or not has_started):
            over = "operation under way is over" if has_started else "service has started"
            self._outbox.act(Progress(operation.id, f"waits until the {over}"))

    def take_next(self, *, has_master: bool) -> Intent | None:
        """Begin the next one, if nothing is under way; None if there is none. Without a master only a reload can be."""
        if self.operation is None:
            able = [each for each in self._waiting if has_master or isinstance(each, Reload)]
            if able:
                self._waiting.remove(able[0])
                self._signalled.pop(type(able[0]), None)
                self.operation = able[0]
                return able[0]
        return None

    def fail_those_that_need_a_master(self, message: str) -> None:
        """There is none, and it is not known when there will be."""
        for each in [each for each in self._waiting if each.id and not isinstance(each, Reload)]:
            self._waiting.remove(each)
            self._outbox.finish(each.id, Code.FAILED, message)

    def begin_recovery(self) -> Reload:
        """Begin a reload that nobody asked for."""
        self.operation = recovery = Reload(0, canary=False)
        return recovery

    def give_up_waiting(self) -> list[int]:
        """Drop what clients wait for and can ask for again, and return their numbers; what signals asked for stays."""
        given_up = [each.id for each in self._waiting if each.id]
        self._waiting = [self._signalled.get(type(each), each) for each in self._waiting]
        self._waiting = [each for each in self._waiting if not each.id]
        return given_up

    def end(self, code: Code, message: str, generation: int = 0, blamed: int = 0, details: str = "") -> None:
        """The operation under way is over; for the rest see `Outbox.finish`."""
        operation, self.operation = self.operation, None
        if operation is not None:
            if code is Code.FAILED and not isinstance(operation, Reload):
                self._outbox.log(Level.WARNING, message)  # a reload has said so
            self._outbox.finish(operation.id, code, message, generation, blamed, details)

    # -- the end of the service

    def stop(self) -> None:
        """Give up what is under way and what waits."""
        self.is_stopping = True
        for operation in (self.operation, *self._waiting):
            if operation is not None:
                self._outbox.finish(operation.id, Code.STOPPING, "the service was told to stop")
        self.operation = None
        self._waiting = []

    def await_stop(self, operation: int) -> None:
        """Somebody waits for the end of the service."""
        self._stops.append(operation)

    def tell_stops(self, text: str) -> None:
        """Tell all who wait for the end how it goes."""
        for operation in self._stops:
            self._outbox.act(Progress(operation, text))

    def finish_stops(self) -> None:
        """Nothing is left."""
        for operation in self._stops:
            self._outbox.finish(operation, Code.DONE, "stopped")
        self._stops = []
