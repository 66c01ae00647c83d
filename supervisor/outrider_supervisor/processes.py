"""Starting, watching and signalling processes, without races.

A process is held by its pidfd: its number cannot come to mean another process between a look and a signal. Every
child is reaped here and nowhere else, so nothing else in the supervisor may start one (asyncio's subprocesses, for
instance, would fight with `Children.reap_strangers` over the exit status).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from outrider_supervisor import start_directory
from outrider_supervisor.exits import describe_exit

FIRST_DESCRIPTOR = 3
"""The number of the first descriptor that a child is given."""
MOST_OUTPUT = 1 << 20
"""Bytes of each output of `Children.run` that are kept: the last ones, where errors are."""
MOST_COMPLAINT = 8192
"""Bytes of its errors that people are shown."""
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2), Linux
_PIPE_CAPACITY = 65536  # pipe(7)
# SIGKILL and SIGSTOP have no other disposition to be reset from.
_RESETTABLE = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}

ExitCallback = Callable[[str, int | None], None]
"""Called once with `describe_exit(status)` and the status."""


def become_subreaper() -> bool:
    """Have descendants whose parent dies become children of this process (PR_SET_CHILD_SUBREAPER(2const)).

    False where the system cannot. It survives execve(2) and is not inherited by children.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A child that has run: `status` as in `describe_exit`, and what it wrote last, each at most `MOST_OUTPUT`."""

    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool

    @property
    def complaint(self) -> str:
        """The end of what it wrote to stderr, for people."""
        text = self.stderr[-MOST_COMPLAINT:].decode(errors="replace").strip()
        return text if len(self.stderr) <= MOST_COMPLAINT else f"[...] {text}"


class Process:
    """One process, ours or a descendant's. `Children` makes them."""

    def __init__(
        self, pid: int, pidfd: int, loop: asyncio.AbstractEventLoop, forget: Callable[[Process], None]
    ) -> None:
        self.pid = pid
        self.has_exited = False
        self.status: int | None = None
        """How it ended, as in `describe_exit`, once `has_exited`."""
        self._pidfd = pidfd
        self._loop = loop
        self._forget = forget
        self._callback: ExitCallback | None = None

    @property
    def pidfd(self) -> int:
        """The descriptor that stands for the process (close-on-exec); -1 once it has exited."""
        return self._pidfd

    def signal(self, number: int) -> bool:
        """Send a signal; False if the process is gone."""
        if self.has_exited:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process group that the process leads, as all do that `Children.spawn` has started.

        False if the process is gone, or leads no group.
        """
        if self.has_exited:
            return False
        try:
            # Until its leader is reaped, which only we can do, the group's number belongs to nobody else.
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def watch(self, callback: ExitCallback) -> None:
        """Have the loop call `callback` when the process has exited, and reap it before. One callback a process."""
        self._callback = callback
        if self.has_exited:
            self._loop.call_soon(callback, describe_exit(self.status), self.status)
        else:
            self._loop.add_reader(self._pidfd, self.look)

    def look(self) -> None:
        """Reap the process if it has exited. The loop calls it, and `Children.reap_strangers`."""
        if self.has_exited:
            return
        try:
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            if not _is_readable(self._pidfd):
                return
            status = None  # its parent is another process, which has its status
        else:
            if found is None:
                return
            status = _status_of(found)
        self.status = status
        self.close()
        if self._callback is not None:
            self._loop.call_soon(self._callback, describe_exit(status), status)

    def close(self) -> None:
        """Stop watching; the process is not touched, and can be neither signalled nor reaped through this object."""
        if not self.has_exited:
            self.has_exited = True
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            self._forget(self)


class Children:
    """The processes that this one looks after; the only place that reaps."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[int, Process] = {}

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        descriptors: Sequence[int] = (),
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Process:
        """Start a program, by its path in `argv[0]`, in its own process group and in `start_directory`.

        It has every signal at its default and none blocked, stdin from /dev/null, `descriptors` at 3, 4, 5 ... in
        their order, and of the others those alone that are inheritable.

        Args:
            argv: the command.
            env: its whole environment.
            descriptors: what it is given.
            stdout: descriptor for its output; None shares ours.
            stderr: as `stdout`.

        Raises:
            OSError: it could not be started.
        """
        targets = dict(enumerate(descriptors, FIRST_DESCRIPTOR))
        targets.update({number: given for number, given in ((1, stdout), (2, stderr)) if given is not None})
        with _copied(targets) as copies, start_directory.entered(env):
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    *((os.POSIX_SPAWN_DUP2, copy, target) for target, copy in copies.items()),
                ],
                setpgroup=0,
                setsigmask=(),
                setsigdef=_RESETTABLE,
            )
        try:
            return self._hold(pid)
        except OSError:  # out of descriptors
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def adopt(self, pid: int) -> Process:
        """Look after a process that runs already: our own from before an execve(2), or a master's worker.

        A child of ours that has exited is found all the same, until `reap_strangers` takes it for a stranger. Whether
        another one's child is still the process that was meant is the caller's concern.

        Raises:
            ProcessLookupError: it is gone.
        """
        known = self._known.get(pid)
        if known is not None:
            known.look()
            if not known.has_exited:
                return known
        return self._hold(pid)

    async def run(self, argv: Sequence[str], env: Mapping[str, str], timeout: float) -> Finished:  # noqa: ASYNC109  # an overrun is a result, not an exception
        """Run a program to its end; after `timeout` seconds its process group is killed.

        Its output is complete as far as the program itself wrote it: what it leaves running is not waited for.

        Raises:
            OSError: it could not be started.
        """
        with _Pipe(self._loop) as stdout, _Pipe(self._loop) as stderr:
            process = self.spawn(argv, env, stdout=stdout.write_end, stderr=stderr.write_end)
            stdout.begin()
            stderr.begin()
            ended: asyncio.Future[None] = self._loop.create_future()
            process.watch(partial(_resolve, ended))
            try:
                async with asyncio.timeout(timeout):
                    await ended
            except TimeoutError:
                pass
            finally:
                timed_out = process.signal_group(signal.SIGKILL)
            status = -signal.SIGKILL if process.status is None else process.status
            return Finished(status, stdout.read_all(), stderr.read_all(), timed_out)

    def reap_strangers(self) -> list[tuple[int, str]]:
        """Reap the children that have exited and that nobody knows: what PID 1 and a subreaper inherit.

        To be called on SIGCHLD, through `loop.add_signal_handler`, or on a timer where the loop keeps that signal to
        itself, as uvloop does. A known child that has exited is reaped as well, or it
        would hide the others from us; its callback is called as ever. Each round reaps one, so it ends.

        Returns:
            Process id and `describe_exit` of each stranger.
        """
        strangers = []
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if found is None:
                break
            known = self._known.get(found.si_pid)
            if known is None:
                os.waitid(os.P_PID, found.si_pid, os.WEXITED | os.WNOHANG)
                strangers.append((found.si_pid, describe_exit(_status_of(found))))
            else:
                known.look()
        return strangers

    def close(self) -> None:
        """Stop watching them all; they run on."""
        for process in list(self._known.values()):
            process.close()

    def _hold(self, pid: int) -> Process:
        process = Process(pid, os.pidfd_open(pid), self._loop, self._forget)
        self._known[pid] = process
        return process

    def _forget(self, process: Process) -> None:
        # Another parent's child may have been reaped, and its id be a new process's, before we saw it go.
        if self._known.get(process.pid) is process:
            del self._known[process.pid]


class _Pipe:
    """One output of a child, read while it runs. The last `MOST_OUTPUT` bytes are kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._data = bytearray()

    def __enter__(self) -> Self:
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._is_open = False
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        os.close(self._read_end)
        if self.write_end >= 0:
            os.close(self.write_end)

    def begin(self) -> None:
        """The child has its own copy of the end to write to: give up ours, and read."""
        os.close(self.write_end)
        self.write_end = -1
        self._is_open = True
        self._loop.add_reader(self._read_end, self._read)

    def read_all(self) -> bytes:
        """What the child has written, now that it has exited.

        That is one read at most, of all that a pipe holds; a process that it has left behind may write for ever.
        """
        if self._is_open:
            self._read()
        return bytes(self._data)

    def _read(self) -> None:
        try:
            data = os.read(self._read_end, _PIPE_CAPACITY)
        except BlockingIOError:
            return
        self._data += data
        del self._data[:-MOST_OUTPUT]
        if not data:
            self._end()

    def _end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._read_end)


@contextlib.contextmanager
def _copied(targets: Mapping[int, int]) -> Iterator[Mapping[int, int]]:
    """Copies of the descriptors for these numbers, which lie above all of them.

    Otherwise putting one in its place could close another one that is still to be put, or be putting it where it is
    already, which leaves it close-on-exec with some C libraries.
    """
    lowest = max((FIRST_DESCRIPTOR - 1, *targets)) + 1
    copies: dict[int, int] = {}
    try:
        for target, source in targets.items():
            copies[target] = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, lowest)
        yield copies
    finally:
        for copy in copies.values():
            os.close(copy)


def _resolve(future: asyncio.Future[None], _reason: str, _status: int | None) -> None:
    if not future.done():
        future.set_result(None)


def _status_of(found: os.waitid_result) -> int:
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _is_readable(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
