"""What the supervisor does to the world: the machine's actions, one method each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import singledispatchmethod
from typing import TYPE_CHECKING, Any

from outrider.errors import ConfigurationError
from outrider.scoreboard import Scoreboard
from outrider_supervisor import actions, start_directory, web_concurrency
from outrider_supervisor.actions import READ_TIMEOUT, Action, Code, Level, Readiness
from outrider_supervisor.cgroup import ControlGroup
from outrider_supervisor.events import ConfigurationRead, ConfigurationRefused, Event, MasterExited, WorkerGone
from outrider_supervisor.exits import describe_exit, split_complaint
from outrider_supervisor.journal import Journal
from outrider_supervisor.load_meter import LoadMeter
from outrider_supervisor.masters import Master, MasterStarter
from outrider_supervisor.measure import Sampler
from outrider_supervisor.operations import Operation, Outcome
from outrider_supervisor.pidfile import PidFile
from outrider_supervisor.processes import Children, Finished
from outrider_supervisor.report_inbox import ReportInbox
from outrider_supervisor.service import Service, ServiceRefused
from outrider_supervisor.telemetry import Telemetry
from outrider_supervisor.worker_watch import WorkerWatch

if TYPE_CHECKING:
    from outrider_supervisor.admin import Admin
    from outrider_supervisor.listeners import Listeners
    from outrider_supervisor.notify import Notifier

KEPT_MASTER_PIDS = 32
"""Masters whose process id is known, for their last words; those that live are known in any case."""


class Seam:
    """The processes, sockets and files of one service. What happens to them becomes events."""

    def __init__(
        self,
        argv: Sequence[str],
        environ: dict[str, str],
        journal: Journal,
        listeners: Listeners,
        notifier: Notifier,
        on_event: Callable[[Event], None],
    ) -> None:
        """Take what lives longer than one supervisor; the rest is made here."""
        self.loop = asyncio.get_running_loop()
        self.argv = argv
        self.environ = environ
        self._children_environ: dict[str, str] = {}
        self.journal = journal
        self.listeners = listeners
        self.notifier = notifier
        self.on_event = on_event
        self.children = Children(self.loop)
        self.workers = WorkerWatch(self.children, lambda pid: on_event(WorkerGone(pid)))
        self.pidfile = PidFile()
        self.masters: dict[int, Master] = {}
        self.master_pids: dict[int, int] = {}
        self._stored: set[str] = set()
        self._is_store_late = False
        self._lost = set[str]()
        self.operations: dict[int, Operation] = {}
        self.ended: asyncio.Future[int] = self.loop.create_future()
        self.upgrade: Callable[[], Coroutine[Any, Any, None]]
        """Becomes a new supervisor; set by whoever can."""
        self.admin: Admin
        """The admin endpoint; set by the supervisor, whom it shows."""
        self._opened = contextlib.ExitStack()
        self._reading: asyncio.Task[None] | None = None
        self._upgrading: asyncio.Task[None] | None = None

    def open_shared(self, scoreboard: int, reports: ReportInbox) -> None:
        """Take the table and the reports that all masters share."""
        self._opened.callback(os.close, scoreboard)
        self._opened.callback(reports.close)
        self.scoreboard = scoreboard
        board = Scoreboard.from_descriptor(scoreboard)
        self.sampler = Sampler(board)
        self.telemetry = Telemetry(board, self.sampler)
        self.load_meter = LoadMeter(self.sampler, ControlGroup())
        self.reports = reports
        self.starter = MasterStarter(self.argv, self._children_environ, scoreboard, reports.write_end, self.children)

    async def read_service(self) -> Service:
        """Read the configuration in a child, since gunicorn.conf.py is the user's code.

        It is told how many cores there are now (WEB_CONCURRENCY=auto), and so is the master that is started next.

        Raises:
            ConfigurationError: it cannot be used; a `ServiceRefused` where the child says why.
        """
        start_directory.check(self.environ)
        self._children_environ |= self.environ | web_concurrency.resolve(self.environ, ControlGroup())
        command = [sys.executable, "-P", "-m", "outrider_supervisor.read_config", *self.argv]
        try:
            child = await self.children.run(command, self._children_environ, READ_TIMEOUT)
        except OSError as error:
            raise ConfigurationError(
                f"the configuration can't be read: {sys.executable} can't be started ({error.strerror}); "
                "see the limits of processes and descriptors (ulimit -u, ulimit -n)"
            ) from error
        if child.timed_out:
            raise ServiceRefused(f"reading the configuration took longer than {READ_TIMEOUT:g} s", child.complaint)
        if child.status != 0:
            raise _refusal_of(child)
        if not child.stdout:
            raise ConfigurationError("gunicorn.conf.py ended the process that read it; it must not call os._exit")
        return self._parse_service(child.stdout)

    @staticmethod
    def _parse_service(answer: bytes) -> Service:
        try:
            return Service.from_json(answer.decode())
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and answer.startswith(b"{"):
                raise ConfigurationError(
                    "gunicorn.conf.py answered twice: it forked; it must not call os.fork, use subprocess"
                ) from error
            raise ConfigurationError(
                "the configuration was read by another version of outrider than this supervisor's; "
                f"run `outrider upgrade` first ({type(error).__name__}: {error})"
            ) from error

    async def open_listeners(self, service: Service, patience: float = 0.0) -> None:
        """Open what the service names, and have the service manager keep it for a supervisor that comes after a crash.

        Raises:
            ConfigurationError: one of them cannot be opened; everything is as before.
        """
        await self.listeners.open(service, patience=patience)
        self._store_listeners()

    def take_listeners(self, listeners: Listeners) -> None:
        """Take those of an earlier supervisor, which the service manager keeps already."""
        self.listeners = listeners
        self._stored = set(listeners.stored())

    def catch_up(self) -> None:
        """Tell the service manager what there was no room for, and watch whom there was no descriptor for."""
        self.notifier.flush()
        self.workers.catch_up()
        if self._is_store_late:
            self._store_listeners()
        lost = self.listeners.lost()
        for name in lost - self._lost:
            self.journal.write(Level.ERROR, f"{name} was removed: nobody can connect there until a restart")
        self._lost = lost

    def _store_listeners(self) -> None:
        stored = self.listeners.stored()
        for name in self._stored - stored.keys():
            self.notifier.forget(name)
        self._stored &= stored.keys()
        for name in stored.keys() - self._stored:
            if self.notifier.store(name, stored[name].fileno()):
                self._stored.add(name)
        self._is_store_late = self._stored != stored.keys()

    def adopt_master(self, master: Master) -> None:
        """Look after a master."""
        self.masters[master.number] = master
        self.master_pids[master.number] = master.process.pid
        past = [number for number in self.master_pids if number not in self.masters]
        for number in past[:-KEPT_MASTER_PIDS]:
            del self.master_pids[number]

    async def close(self) -> None:
        """Leave nothing behind but what runs on its own."""
        tasks = [task for task in (self._reading, self._upgrading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # they kill the child that they wait for
        for master in list(self.masters.values()):
            master.close()
        self.children.close()
        self.pidfile.remove()
        self.notifier.close()
        self._opened.close()

    # -- the machine's actions

    @singledispatchmethod
    def do(self, action: Action) -> None:
        """Do what the machine has decided."""
        raise TypeError(f"not an action: {action!r}")

    @do.register
    def _start_reading(self, _action: actions.ReadConfiguration) -> None:
        self._reading = self.loop.create_task(self._read_configuration())

    async def _read_configuration(self) -> None:
        try:
            service = await self.read_service()
            before = self.listeners.descriptions()
            await self._open(service)
        except ServiceRefused as refusal:
            self._refuse(refusal)
        except (ConfigurationError, OSError) as error:
            self.on_event(ConfigurationRefused(str(error)))
        except Exception as error:  # a reload that is never over would keep all others waiting
            self.journal.logger.exception("the configuration cannot be read")
            self.on_event(ConfigurationRefused(repr(error)))
        else:
            for note in service.notes:
                self.journal.write(Level.WARNING, note)
            for address in self.listeners.descriptions():
                if address not in before:
                    self.journal.write(Level.INFO, f"listener opened: {address}")
            self.on_event(ConfigurationRead(service))

    async def _open(self, service: Service) -> None:
        await self.admin.open(service)
        try:
            await self.open_listeners(service)
        except BaseException:
            self.admin.go_back()
            raise

    def _refuse(self, refusal: ServiceRefused) -> None:
        if refusal.details:
            self.journal.logger.error("the configuration can't be used:\n%s", refusal.details)
        self.on_event(ConfigurationRefused(refusal.reason, refusal.details))

    @do.register
    def _start_master(self, action: actions.StartMaster) -> None:
        try:
            listeners = self.listeners.sockets(action.service)
            master = self.starter.start(action, listeners, self.loop, self.on_event)
        except (ConfigurationError, OSError) as error:
            self.on_event(MasterExited(action.number, f"could not be started: {error}"))
        else:
            self.adopt_master(master)

    @do.register
    def _tell_master(self, action: actions.Tell) -> None:
        master = self.masters.get(action.number)
        if master is not None:
            master.tell(action.message)

    @do.register
    def _retire_worker(self, action: actions.Retire) -> None:
        self.workers.signal(action.pid, signal.SIGTERM)

    @do.register
    def _kill(self, action: actions.Kill) -> None:
        for pid in action.workers:
            self.workers.signal(pid, signal.SIGKILL)
        master = self.masters.get(action.number)
        if master is not None:
            master.process.signal(signal.SIGKILL)

    @do.register
    def _keep_listeners(self, action: actions.KeepListeners) -> None:
        if self._reading is not None:
            self._reading.cancel()  # it would open others; one that is to be used is over
        if action.service is None:
            self.listeners.close_all()
            self._store_listeners()
            return
        service = action.service
        self.journal.configure(service.errorlog, service.loglevel, service.log_format)
        before = self.listeners.descriptions()
        self.listeners.keep_only(action.service)
        self.admin.keep_only(action.service)
        self._store_listeners()
        kept = self.listeners.descriptions()
        for address in before:
            if address not in kept:
                self.journal.write(Level.INFO, f"listener closed: {address}")
        try:
            self.pidfile.place(action.service.pidfile)
        except ConfigurationError as error:
            self.journal.write(Level.WARNING, str(error))

    @do.register
    def _log(self, action: actions.Log) -> None:
        self.journal.write(action.level, action.text)

    @do.register
    def _tell_progress(self, action: actions.Progress) -> None:
        operation = self.operations.get(action.operation)
        if operation is not None:
            operation.progress(action.text)

    @do.register
    def _finish(self, action: actions.Finish) -> None:
        operation = self.operations.pop(action.operation, None)
        if operation is None:
            return
        details = action.details
        if action.code is Code.FAILED and not details:
            self.reports.read()
            blamed = action.blamed or self.master_pids.get(action.generation, 0)
            self.reports.forget(blamed)
            details = self.journal.last_words(blamed)
        operation.finish(Outcome(action.code is Code.DONE, action.code.value, action.message, details))

    @do.register
    def _notify(self, action: actions.Notify) -> None:
        match action.readiness:
            case Readiness.READY:
                self.notifier.ready()
            case Readiness.RELOADING:
                self.notifier.reloading()
            case Readiness.STOPPING:
                self.notifier.stopping()

    @do.register
    def _start_upgrade(self, _action: actions.Upgrade) -> None:
        self._upgrading = self.loop.create_task(self.upgrade())

    @do.register
    def _exit(self, action: actions.Exit) -> None:
        if not self.ended.done():
            self.ended.set_result(action.status)


def _refusal_of(child: Finished) -> ServiceRefused:
    """Why the child could not read the configuration; what the user's code has printed comes before the traceback."""
    try:
        refusal = ServiceRefused.from_json(child.stdout.decode())
    except (KeyError, TypeError, ValueError):
        if not child.complaint:
            return ServiceRefused(f"the process that read the configuration {describe_exit(child.status)}")
        return ServiceRefused(*split_complaint(child.complaint))
    return ServiceRefused(refusal.reason, "\n".join(filter(None, (child.complaint, refusal.details))))
