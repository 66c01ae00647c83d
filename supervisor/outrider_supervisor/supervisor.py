"""The supervisor process: handlers enqueue events, the machine decides, the seam acts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import setproctitle

from outrider import __version__
from outrider.scoreboard import RowSnapshot, Scoreboard, WorkerState
from outrider_supervisor import control_commands as commands
from outrider_supervisor import events, exposition, paths
from outrider_supervisor.actions import READ_TIMEOUT, Action, Code, KeepListeners, Level, Progress
from outrider_supervisor.admin import Admin
from outrider_supervisor.control import ControlServer
from outrider_supervisor.control_app import ControlApp
from outrider_supervisor.counting import count
from outrider_supervisor.dumps import Dumps
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.events import Event
from outrider_supervisor.handled_signals import HANDLED_SIGNALS
from outrider_supervisor.history import HistoryStatus
from outrider_supervisor.journal import Journal
from outrider_supervisor.listeners import START_PATIENCE, Listeners
from outrider_supervisor.machine import Machine
from outrider_supervisor.manager_reports import ManagerReports
from outrider_supervisor.messages import MasterFailed, ReopenLogs, WorkerExited, WorkerReady, WorkerSpawned
from outrider_supervisor.notify import Notifier
from outrider_supervisor.operations import Operation, Outcome
from outrider_supervisor.processes import become_subreaper
from outrider_supervisor.report_inbox import ReportInbox
from outrider_supervisor.reports import Report
from outrider_supervisor.seam import Seam
from outrider_supervisor.stalls import Stalls
from outrider_supervisor.status import Status
from outrider_supervisor.status_report import Clocks, Facts, build_status, explain_unreadiness
from outrider_supervisor.tally import Tally
from outrider_supervisor.worker_watch import is_inherited

CALM_TICK = 1.0
BUSY_TICK = 0.1
"""Seconds between looks at the scoreboard: with nothing under way, and during a change."""
LONGEST_START = READ_TIMEOUT + 3 * START_PATIENCE
"""Seconds until there is a machine that knows how long it may take."""
REPLACED = Outcome(ok=False, code=Code.REFUSED.value, message="the supervisor was replaced; ask again")


class Supervisor:
    """One service. `Handler` of the control socket."""

    def __init__(self, argv: Sequence[str], environ: dict[str, str], journal: Journal) -> None:
        self.machine = Machine()
        self.journal = journal
        self.loop = asyncio.get_running_loop()
        self.since = time.monotonic()
        self.is_replaced = False
        """Whether another supervisor takes over now: commands are for that one."""
        self.name = ""
        self._events: deque[Event] = deque()
        self._is_dispatching = False
        self.stalls = Stalls()
        self.dumps = Dumps(self.loop)
        self.tally = Tally()
        self._next_operation = 0
        self._terms = 0
        self._progress = ""
        self._operation_since = 0.0
        self._title = ""
        self.feed = EventFeed(journal, self.status)
        self._timer: asyncio.TimerHandle | None = None
        notifier = Notifier.from_environment(environ, os.getpid())
        self.seam = Seam(argv, environ, journal, Listeners(self.warn), notifier, self.enqueue)
        self.manager = ManagerReports(notifier, self._rows)
        self.seam.admin = Admin(self, self.feed, journal)
        self.control_server: ControlServer
        self._opened = contextlib.AsyncExitStack()

    # -- start and end

    async def start(self) -> None:
        """Read the configuration, open what there is to open, and start the first generation.

        Raises:
            ConfigurationError: something of it cannot be used; nothing is left behind.
        """
        seam = self.seam
        become_subreaper()
        self.manager.ask_for_time(LONGEST_START)
        self._tell_manager()
        lost = seam.listeners.adopt(seam.environ)
        seam.take_listeners(seam.listeners)
        service = await seam.read_service()
        self.name = service.name
        self.journal.configure(service.errorlog, service.loglevel, service.log_format)
        for name in lost:
            seam.notifier.forget(name)
        for note in (
            *(f"{name}: kept by the service manager in vain, nobody can reach it" for name in lost),
            *service.notes,
        ):
            self.warn(note)
        descriptor = os.memfd_create("outrider-scoreboard")
        Scoreboard.create_in(descriptor)
        seam.open_shared(descriptor, ReportInbox(self.loop, self.note_report))
        directory = paths.directories(seam.environ, os.geteuid())[0]
        await self.open_control(ControlServer(directory, self.name, ControlApp(self, self.feed), self.journal.logger))
        seam.pidfile.place(service.pidfile)
        await seam.admin.open(service, START_PATIENCE)
        await seam.open_listeners(service, START_PATIENCE)
        seam.do(KeepListeners(service))  # one that was kept over a crash need not be named any more
        where = ", ".join(seam.listeners.descriptions())
        self._log(
            f"supervisor of {self.name} ({os.getpid()}), {count(service.workers, 'worker')}, listening at {where}"
        )
        self.begin()
        self.enqueue(events.Started(service))

    async def open_control(self, server: ControlServer) -> None:
        """Answer commands from now on.

        Raises:
            ConfigurationError: see `ControlServer.start`.
        """
        self.control_server = server
        self._opened.push_async_callback(server.close)
        await server.start()

    def begin(self) -> None:
        """Look at what there is from now on."""
        self.seam.children.reap_strangers()
        self._tick()

    def listen_to_signals(self) -> None:
        """Have signals enqueue events. They were blocked until now, if this supervisor replaces another one."""
        for number in HANDLED_SIGNALS:
            self.loop.add_signal_handler(number, self._note_signal, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)

    def ignore_signals(self) -> None:
        """Let no signal end this process otherwise, now that it is about to end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        for number in HANDLED_SIGNALS:
            self.loop.remove_signal_handler(number)
            if number != signal.SIGCHLD:  # ignored by default; SIG_IGN would take us the status of children
                signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)

    def _note_signal(self, number: int) -> None:
        match number:
            case signal.SIGHUP:
                self.enqueue(events.ReloadAsked(0, canary=True))
            case signal.SIGTTIN | signal.SIGTTOU:
                self.enqueue(events.ScaleAsked(0, 1 if number == signal.SIGTTIN else -1, relative=True))
            case signal.SIGUSR1:
                self._reopen_logs()
            case signal.SIGUSR2:
                self.enqueue(events.UpgradeAsked(0))
            case signal.SIGTERM:
                self._terms += 1
                self.enqueue(events.StopAsked(0, fast=self._terms > 1))
            case signal.SIGINT | signal.SIGQUIT:
                self.enqueue(events.StopAsked(0, fast=True))
            case signal.SIGCHLD:
                self.seam.children.reap_strangers()

    async def run(self, start: Coroutine[Any, Any, None]) -> int:
        """Supervise until the service has ended; the exit status.

        Raises:
            ConfigurationError: the start failed.
        """
        self.listen_to_signals()
        starting = self.loop.create_task(start)
        awaited: tuple[asyncio.Future[Any], ...] = (starting, self.seam.ended)
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        starting.cancel()
        await asyncio.wait((starting,))  # it kills the child that it waits for
        status = await self.seam.ended
        self._log("stopped")
        return status

    async def close(self) -> None:
        """Give back what was opened."""
        if self._timer is not None:
            self._timer.cancel()
        await self.seam.admin.close()
        await self._opened.aclose()
        # Those that are open have been handed to a start that failed: the next one gets them again.
        self.seam.listeners.close_all(unlink=False)
        await self.seam.close()

    def finish_upgrade(self) -> None:
        """Tell who waits for the upgrade that it happens now, and others that it does not: no connection survives."""
        operation = self.machine.operation
        if operation is not None:
            done = Outcome(ok=True, code=Code.DONE.value, message="the new supervisor takes over")
            self.seam.operations.pop(operation.id, Operation()).finish(done)
        for number in self.machine.give_up_waiting():
            self.seam.operations.pop(number, Operation()).finish(REPLACED)

    # -- events

    def enqueue(self, event: Event) -> None:
        """Take an event; those that come while another one is handled wait for their turn."""
        self._events.append(event)
        if not self._is_dispatching:
            self._is_dispatching = True
            try:
                while self._events:
                    self._dispatch(self._events.popleft())
            finally:
                self._is_dispatching = False

    def _dispatch(self, event: Event) -> None:
        """Handle one event. A fault of ours costs that event or that action, not the service."""
        before = self.machine.operation
        actions: Sequence[Action] = ()
        try:
            self._prepare(event)
            self.tally.look_before(event, self.machine)
            actions = self.machine.handle(event, time.monotonic())
            self.tally.look_after(event, self.machine, time.monotonic(), time.time())
            self._show()
        except Exception:
            self.journal.logger.exception("the supervisor goes on after an event that it could not handle: %r", event)
        if self.machine.operation is not before:
            self._operation_since = time.monotonic()
            self._progress = ""
        for action in actions:
            try:
                self._act(action)
            except Exception:
                self.journal.logger.exception("the supervisor goes on after an action that failed: %r", action)

    def _prepare(self, event: Event) -> None:
        """Do what the seam needs before the machine decides."""
        match event:
            case events.FromGeneration(number, WorkerSpawned(pid)):
                self.seam.workers.add(pid, self.seam.master_pids.get(number))
            case events.FromGeneration(_, WorkerExited(pid)) | events.WorkerGone(pid):
                self.seam.reports.read()
                self.seam.reports.forget(pid)
                self.dumps.forget(pid)
            case events.FromGeneration(number, MasterFailed(_, details)) if details:
                self.journal.keep_report(self.seam.master_pids.get(number, 0), details)
            case events.MasterExited(number):
                self.seam.masters.pop(number, None)
                self._find_untold_workers(number)
            case events.ConfigurationRead(service) if service.name != self.name:
                self.warn(f"proc_name is {service.name!r} now: the name stays {self.name} until the next start")

    def _find_untold_workers(self, number: int) -> None:
        """A master that was killed may have started workers that it had no time to tell of: they are ours now."""
        generation = self.machine.fleet.generations.get(number)
        if generation is None:
            return
        for pid, row in self.seam.sampler.rows().items():
            if row.generation != number or not is_inherited(pid):
                continue
            if pid not in generation.workers:
                self._dispatch(events.FromGeneration(number, WorkerSpawned(pid, 0)))
            if row.state == WorkerState.READY:  # of one that was known as booting, the master had no time to tell
                self._dispatch(events.FromGeneration(number, WorkerReady(pid)))

    def _act(self, action: Action) -> None:
        operation = self.machine.operation
        if isinstance(action, Progress) and operation is not None and action.operation == operation.id:
            self._progress = action.text
        self.seam.do(action)

    def _tick(self) -> None:
        machine = self.machine
        is_calm = (
            machine.state in ("serving", "degraded") and machine.operation is None and not machine.replacements.pids
        )
        pause = min(CALM_TICK if is_calm else BUSY_TICK, self.manager.longest_pause or CALM_TICK)
        self._timer = self.loop.call_later(pause, self._tick)
        now = time.monotonic()
        self.manager.feed(machine, now)
        self.manager.extend(machine, now)
        self.seam.catch_up()
        backlog = self.seam.listeners.backlog()
        self.seam.telemetry.look(machine, backlog, now, time.time())
        samples = self.seam.sampler.sample(machine.fleet.generations.values(), now)
        self.enqueue(events.Observed(samples, self.seam.load_meter.measure(machine.current, samples, backlog, now)))

    def _reopen_logs(self) -> None:
        self.journal.reopen()
        for master in self.seam.masters.values():
            master.tell(ReopenLogs())
        self._log("log files reopened")

    def _rows(self) -> Mapping[int, RowSnapshot]:
        return self.seam.sampler.rows()

    def note_report(self, report: Report) -> None:
        self.journal.keep_report(report.pid, report.text)
        if report.report == "stall":
            self.stalls.note(report.pid, report.data, time.time())
        if report.report == "dump":
            was_asked = self.dumps.take(report.pid, report.text)
            if not was_asked:  # it was aborted, and `status` shows where it hung
                self.journal.remember(Level.ERROR, report.text)

    def _log(self, text: str) -> None:
        self.journal.write(Level.INFO, text)

    def warn(self, text: str) -> None:
        self.journal.write(Level.WARNING, text)

    def _show(self) -> None:
        """Let ps and the service manager see the state."""
        title = f"outrider: supervisor [{self.name}] {self.machine.state}"
        if title != self._title:
            self._title = title
            setproctitle.setproctitle(title)
        self._tell_manager()

    def _tell_manager(self) -> None:
        self.manager.tell(self.machine, Clocks(time.monotonic(), time.time()))

    # -- what clients ask

    def submit(self, command: commands.Command) -> Operation:
        """Handler: take a command."""
        operation = Operation()
        if self.is_replaced and not isinstance(command, commands.StopService):  # which ends the upgrade
            operation.finish(REPLACED)
            return operation
        match command:
            case commands.Dump(pid):
                self.dumps.ask(pid, operation, self.machine, self.seam.workers.signal)
                return operation
        self._next_operation += 1
        number = self._next_operation
        self.seam.operations[number] = operation
        match command:
            case commands.Reload(canary):
                self.enqueue(events.ReloadAsked(number, canary))
            case commands.StopService(fast):
                self.enqueue(events.StopAsked(number, fast))
            case commands.Scale(workers):
                self.enqueue(events.ScaleAsked(number, workers))
            case commands.Recycle(pid):
                self.enqueue(events.RecycleAsked(number, pid))
            case commands.Upgrade():
                self.enqueue(events.UpgradeAsked(number))
        return operation

    def status(self) -> Status:
        """Handler: the state of everything, of now; what processes use is of the last look."""
        now = time.monotonic()
        rows = self.seam.sampler.rows()
        telemetry = self.seam.telemetry
        usage = telemetry.usage(self.machine, now)
        facts = Facts(
            name=self.name,
            pid=os.getpid(),
            version=__version__,
            since=self.since,
            addresses=tuple(self.seam.listeners.descriptions()),
            admin_addresses=tuple(self.seam.admin.addresses),
            master_pids=self.seam.master_pids,
            operation_since=self._operation_since,
            progress=self._progress,
            stalls=self.stalls.groups(),
            dumped_at=self.dumps.moments,
            tally=self.tally,
            rates=telemetry.rates(sum(rows[pid].in_flight for pid in usage.keys() & rows.keys())),
            worker_rates=telemetry.worker_rates(),
        )
        return build_status(self.machine, facts, rows.values(), usage, self.journal.events, Clocks(now, time.time()))

    def history(self) -> HistoryStatus:
        """Handler: the last ten minutes."""
        return self.seam.telemetry.history.report()

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Handler: the metrics."""
        backlog = self.seam.listeners.backlog()
        snapshot = self.seam.telemetry.snapshot(self.machine, self.status(), self.tally, backlog)
        return exposition.write(snapshot, accept)

    def unreadiness(self) -> str:
        """Handler: why no requests should be sent here, or nothing."""
        return explain_unreadiness(self.machine)
