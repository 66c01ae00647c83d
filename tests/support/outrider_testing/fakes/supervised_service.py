"""A whole supervised service on a fake clock: the real machine, and the processes of `supervised_processes` below it.

What the machine decides is carried out, and checked against what holds in every scenario: nobody is told to go twice,
an operation ends once, the dead hear nothing.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

from outrider_supervisor import actions, events, pool
from outrider_supervisor.actions import Action, Finish, Log, Notify, Readiness
from outrider_supervisor.events import Event, FromGeneration
from outrider_supervisor.generation import Generation
from outrider_supervisor.intents import Reload
from outrider_supervisor.liveness import is_alive
from outrider_supervisor.machine import Machine
from outrider_supervisor.machine_state import load_machine, save_machine
from outrider_supervisor.messages import ALIVE_PERIOD, Alive, FromMaster, MasterBooted, MasterFailed, WorkerSpawned
from outrider_supervisor.rollout import RETIRE_PATIENCE
from outrider_testing.fakes.supervised_bounds import Bounds
from outrider_testing.fakes.supervised_mail import Mail
from outrider_testing.fakes.supervised_processes import FOREVER, FakeMaster, FakeWorker, Release
from outrider_testing.services import make_service

TICK = 0.25
READ_SECONDS = 0.75


class FakeService:
    """The supervisor's loop and the world below it. `release` and `service` are what the next reload finds."""

    def __init__(self, release: Release | None = None, **fields: Any) -> None:
        self.now = 1000.0
        self.machine = Machine()
        self.release = release or Release()
        self.service = make_service(**fields)
        self.masters: dict[int, FakeMaster] = {}
        self.workers: dict[int, FakeWorker] = {}
        self.releases: dict[int, Release] = {}
        self.actions: list[Action] = []
        self.outcomes: dict[int, Finish] = {}
        self.asked = 0
        self.upgrades = 0
        self.exit_status: int | None = None
        self.message_delay = 0.0
        self.upgrade_problem = ""
        self.least_serving = 0
        self.most_alive = 0
        self.load: Callable[[], events.Load | None] = lambda: None
        """What is measured for the autoscaler; nothing, where it is off."""
        self.on_retired: Callable[[], None] = lambda: None
        """Called when a worker that serves was told to go."""
        self.on_spawned: Callable[[], None] = lambda: None
        """Called when there is one worker more."""
        self.cut_off: set[int] = set()
        """Operations that an upgrade has left without an answer: who waits finds the connection closed."""
        self._opened = self.release
        self._read_at = FOREVER
        self._upgrade_at = FOREVER
        self._events: deque[Event] = deque()
        self._mail = Mail()
        self._is_dispatching = False
        self._told: Readiness | None = None
        self._last_pid = 100
        self._bounds = Bounds()
        self._known: set[int] = set()
        self._retired: set[int] = set()
        self._buried: set[int] = set()

    # -- what users do

    def start(self) -> FakeService:
        """Have the first generation started."""
        self.send(events.Started(self.service))
        return self

    def serve(self) -> FakeService:
        """Start, and wait until all workers serve."""
        self.start()
        self.wait_for(lambda: self.machine.state == "serving" and self.serving == self.service.workers)
        self.measure()
        return self

    def deploy(self, release: Release | None = None, **fields: Any) -> None:
        """Put another version and configuration into the place of the ones that are there."""
        self.release = release or Release()
        self.service = dataclasses.replace(self.service, **fields)

    def reload(self, *, canary: bool = True) -> int:
        """Ask for a new generation; the operation."""
        return self._ask(lambda number: events.ReloadAsked(number, canary))

    def scale(self, workers: int, *, relative: bool = False) -> int:
        """Ask for so many workers; the operation."""
        return self._ask(lambda number: events.ScaleAsked(number, workers, relative))

    def recycle(self, pid: int = 0) -> int:
        """Ask for another worker in the place of one, or of all; the operation."""
        return self._ask(lambda number: events.RecycleAsked(number, pid))

    def upgrade(self) -> int:
        """Ask for another supervisor; the operation."""
        return self._ask(events.UpgradeAsked)

    def stop(self, *, fast: bool = False) -> int:
        """Ask for the end; the operation."""
        return self._ask(lambda number: events.StopAsked(number, fast))

    def _ask(self, make: Callable[[int], Event]) -> int:
        self.asked += 1
        operation = self.asked
        self.send(make(operation))
        return operation

    def outcome(self, operation: int) -> Finish:
        """Wait for the end of an operation."""
        self.wait_for(lambda: operation in self.outcomes)
        return self.outcomes[operation]

    # -- what happens from outside

    def kill_worker(self, pid: int) -> None:
        """SIGKILL for a worker."""
        self.workers[pid].end(self.now, -signal.SIGKILL)
        self._bury_workers()

    def kill_master(self, number: int) -> None:
        """SIGKILL for a master. Workers that serve go on; what still boots is killed with it."""
        master = self.masters.pop(number)
        for worker in master.workers.values():
            if worker.ready_at == FOREVER:
                worker.end(self.now, -signal.SIGKILL)
        self._post(number, events.MasterExited(number, "was killed by SIGKILL"))
        self._bury_workers()

    # -- what can be seen

    @property
    def serving(self) -> int:
        """How many workers take requests."""
        return sum(worker.is_serving for worker in self.workers.values())

    @property
    def alive(self) -> int:
        """How many workers there are, but for those that ended their boot early or drain longer than is waited for."""
        return sum(
            worker.drains_from == FOREVER
            or (worker.ready_at < FOREVER and self.now - worker.drains_from < RETIRE_PATIENCE)
            for worker in self.workers.values()
        )

    @property
    def current(self) -> Generation:
        """The generation that serves."""
        assert self.machine.current is not None
        return self.machine.current

    @property
    def floor(self) -> int:
        """How many workers must serve when one is told to go: the order may be as old as a message's way is long."""
        return self._bounds.least(self.now - self.message_delay - 2 * TICK)

    @property
    def ceiling(self) -> int:
        """How many workers there may be. Those that were just sent away by a smaller target come on top."""
        return self._bounds.most(self.now - self.message_delay - RETIRE_PATIENCE - 2 * TICK, self.machine.target)

    def pids(self, number: int) -> list[int]:
        """The workers of a generation that serve, the oldest first."""
        return [each.pid for each in self.workers.values() if each.generation == number and each.is_serving]

    @property
    def log(self) -> list[str]:
        """The lines of the log."""
        return [action.text for action in self.actions if isinstance(action, Log)]

    def logged(self, text: str) -> int:
        """How many lines of the log have the text in them."""
        return sum(text in line for line in self.log)

    @property
    def readiness(self) -> list[Readiness]:
        """What the service manager was told."""
        return [action.readiness for action in self.actions if isinstance(action, Notify)]

    def measure(self) -> None:
        """Begin anew to note how many workers served at least and were there at most."""
        self.least_serving = self.serving
        self.most_alive = self.alive

    # -- time

    def run(self, seconds: float, tick: float = TICK) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self.now < until and self.exit_status is None:
            self.step(tick)

    def wait_for(self, is_true: Callable[[], bool], limit: float = 400.0) -> None:
        """Let time pass until something is true."""
        until = self.now + limit
        while not is_true():
            assert self.now < until, "\n".join(["it never happens:", *self.log])
            self.step()

    def step(self, seconds: float = TICK) -> None:
        """Let time pass at one go, and everything happen that is due."""
        self.now += seconds
        for worker in self.workers.values():
            worker.live(self.now, seconds)
        self._bury_workers()
        for master in list(self.masters.values()):
            if not master.is_hung:
                self._run_master(master)
        self._finish_reading()
        self._finish_upgrade()
        for event in self._mail.collect(self.now):
            self.send(event)
        reports_state = self.service.reports_state
        samples = {pid: each.sample(reports_state=reports_state) for pid, each in self.workers.items()}
        self.send(events.Observed(samples, self.load()))
        self._note_extremes()
        if self.serving:
            beats = dict.fromkeys(self.workers, self.now)
            assert is_alive(self.machine, beats, self.now), "the watchdog would end a service that serves"

    def _note_extremes(self) -> None:
        self.least_serving = min(self.least_serving, self.serving)
        self.most_alive = max(self.most_alive, self.alive)

    def _finish_reading(self) -> None:
        if self.now >= self._read_at:
            self._read_at = FOREVER
            if self.release.refusal:
                self.send(events.ConfigurationRefused(self.release.refusal))
            else:
                self._opened = self.release
                self.send(events.ConfigurationRead(self.service))

    def _finish_upgrade(self) -> None:
        if self.now < self._upgrade_at:
            return
        self._upgrade_at = FOREVER
        if self.upgrade_problem:
            self.send(events.UpgradeFailed(self.upgrade_problem))
        elif not self.machine.is_stopping:
            self.upgrades += 1
            self.cut_off.update(set(range(1, self.asked + 1)) - self.outcomes.keys())
            self.machine = load_machine(json.loads(json.dumps(save_machine(self.machine))))
            for pid in sorted(self._known - self.workers.keys()):
                self.send(events.WorkerGone(pid))

    # -- processes

    def _run_master(self, master: FakeMaster) -> None:
        if not master.is_booted:
            if self.now < master.boots_at:
                return
            if master.release.master_fault:
                self._post(master.number, FromGeneration(master.number, MasterFailed(master.release.master_fault, "")))
                self._end_master(master, "exited with code 1")
                return
            master.is_booted = True
            self._tell_supervisor(master, MasterBooted())
        master.obey(self.now)
        master.observe(self.now)
        if self.now >= master.alive_at:
            master.alive_at = self.now + ALIVE_PERIOD
            self._tell_supervisor(master, Alive())
        while todo := master.pool.decide(self.now):
            for action in todo:
                self._do_for_master(master, action)
        if master.pool.is_finished:
            self._end_master(master, "exited with code 0")

    def _do_for_master(self, master: FakeMaster, action: pool.Action) -> None:
        match action:
            case pool.Spawn(replaces):
                self._last_pid += 1
                is_faulty = master.spawned >= master.release.good_workers
                worker = FakeWorker(self._last_pid, master.number, master.release, self.now, is_faulty)
                self.workers[worker.pid] = master.workers[worker.pid] = worker
                master.spawned += 1
                master.pool.spawned(worker.pid, replaces, self.now)
                self._note_extremes()
                self.on_spawned()
            case pool.Send(pid, number):
                self._signal(pid, number)
            case pool.Tell(message):
                self._tell_supervisor(master, message)

    def _end_master(self, master: FakeMaster, how: str) -> None:
        self.masters.pop(master.number, None)
        self._post(master.number, events.MasterExited(master.number, how))

    def _signal(self, pid: int, number: signal.Signals) -> None:
        worker = self.workers.get(pid)
        if worker is None:
            return
        was_serving = worker.is_serving
        worker.receive(number, self.now)
        if number == signal.SIGTERM:
            assert pid not in self._retired, f"worker {pid} is told to go twice"
            self._retired.add(pid)
            self._note_extremes()
            if was_serving:
                self.on_retired()

    def _bury_workers(self) -> None:
        for pid in [pid for pid, worker in self.workers.items() if worker.ends_at <= self.now]:
            del self.workers[pid]
            if pid in self._known:
                self.send(events.WorkerGone(pid))

    # -- between the supervisor and the rest

    def _tell_supervisor(self, master: FakeMaster, message: FromMaster) -> None:
        self._post(master.number, FromGeneration(master.number, message))

    def _post(self, number: int, event: FromGeneration | events.MasterExited) -> None:
        self._mail.post(number, event, self.now + self.message_delay)

    def send(self, event: Event) -> None:
        """Give an event to the machine; those that come while it is handled wait for their turn."""
        self._events.append(event)
        if self._is_dispatching:
            return
        self._is_dispatching = True
        try:
            while self._events:
                self._dispatch(self._events.popleft())
        finally:
            self._is_dispatching = False

    def _dispatch(self, event: Event) -> None:
        todo = self.machine.handle(event, self.now)
        self._bounds.note(self.machine, self.now)
        for action in todo:
            self.actions.append(action)
            self._do(action)
            if isinstance(action, Notify):
                self._note_readiness(action.readiness)
        if self.machine.current is not None and not self.machine.is_stopping:
            is_reloading = isinstance(self.machine.operation, Reload)
            assert is_reloading == (self._told is Readiness.RELOADING), "the manager waits for the end of a reload"
        match event:
            case events.MasterExited(number):
                self._buried.add(number)
            case FromGeneration(_, WorkerSpawned(pid)):
                self._known.add(pid)
                if pid not in self.workers:
                    self.send(events.WorkerGone(pid))

    def _note_readiness(self, readiness: Readiness) -> None:
        is_second = readiness is Readiness.RELOADING and self._told is Readiness.RELOADING
        assert not is_second, "a reload begins before the manager was told that the last one is over"
        self._told = readiness

    def _do(self, action: Action) -> None:
        match action:
            case actions.ReadConfiguration():
                assert self._read_at == FOREVER, "the configuration is read twice at a time"
                self._read_at = self.now + READ_SECONDS
            case actions.StartMaster(number):
                assert number not in self.releases
                self.releases[number] = self._opened
                self.masters[number] = FakeMaster(action, self._opened, self.now)
            case actions.Tell(number, message):
                assert number not in self._buried, f"master {number} is gone and told {message}"
                if number in self.masters:
                    self.masters[number].inbox.append(message)
            case actions.Retire(pid):
                self._signal(pid, signal.SIGTERM)
            case actions.Kill(number, pids):
                self._kill(number, pids)
            case actions.Finish(operation):
                assert operation not in self.outcomes, f"operation {operation} ends twice"
                self.outcomes[operation] = action
            case actions.Upgrade():
                self._upgrade_at = self.now + TICK
            case actions.Exit(status):
                assert self.exit_status is None, "it exits twice"
                self.exit_status = status

    def _kill(self, number: int, pids: tuple[int, ...]) -> None:
        for pid in pids:
            if pid in self.workers:
                self.kill_worker(pid)
        if number in self.masters:
            self.kill_master(number)
