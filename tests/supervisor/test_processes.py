"""Starting, watching and signalling real processes."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_supervisor.processes import Children, become_subreaper
from outrider_testing.child_scenes import ENV, PATIENCE, ended, python, run_children


def descriptors() -> list[int]:
    return sorted(int(each.name) for each in Path("/proc/self/fd").iterdir())


def await_exit(pid: int) -> None:
    """Wait for a child to have exited, and leave it to be reaped."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def reap(pid: int) -> None:
    os.waitpid(pid, 0)


def start(*argv: str) -> int:
    """A child that nobody knows."""
    return os.posix_spawn(argv[0], argv, ENV)


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # that of the listing
        return False


def zombie(code: str) -> int:
    """A child that nobody knows and that has exited."""
    pid = start(*python(code))
    await_exit(pid)
    return pid


# -- how a process ended


def test_watcher_learns_exit_code_and_signal() -> None:
    async def scenario(children: Children) -> None:
        assert await ended(children.spawn(python("raise SystemExit(3)"), ENV)) == ("exited with code 3", 3)
        sleeper = children.spawn(["/bin/sleep", "60"], ENV)
        assert sleeper.signal(signal.SIGTERM)
        assert await ended(sleeper) == ("was killed by SIGTERM", -signal.SIGTERM)

    run_children(scenario)


def test_watcher_that_comes_late_is_told_all_the_same() -> None:
    async def scenario(children: Children) -> None:
        process = children.spawn(["/bin/true"], ENV)
        await_exit(process.pid)
        process.look()
        assert process.has_exited
        process.look()
        assert await ended(process) == ("exited with code 0", 0)

    run_children(scenario)


def test_look_at_a_running_process_changes_nothing() -> None:
    async def scenario(children: Children) -> None:
        process = children.spawn(["/bin/sleep", "60"], ENV)
        process.look()
        assert not process.has_exited

    run_children(scenario)


def test_exited_process_is_not_signalled() -> None:
    async def scenario(children: Children) -> None:
        process = children.spawn(["/bin/true"], ENV)
        await ended(process)
        assert process.pidfd == -1
        assert not process.signal(signal.SIGKILL)
        assert not process.signal_group(signal.SIGKILL)

    run_children(scenario)


def test_process_that_another_one_reaped_is_not_signalled() -> None:
    async def scenario(children: Children) -> None:
        process = children.spawn(["/bin/true"], ENV)
        reap(process.pid)
        assert not process.signal(signal.SIGKILL)
        assert not process.signal_group(signal.SIGKILL)
        assert await ended(process) == ("is gone", None)

    run_children(scenario)


# -- what a child is given


REPORT = """
import os, signal, sys
print(os.getpgid(0) == os.getpid(), os.getcwd(), sorted(os.environ.items()), os.read(0, 1))
print(sorted(int(each) for each in os.listdir("/proc/self/fd")))
print([os.fstat(fd).st_ino for fd in (3, 4)])
print(open("/proc/self/status").read())
"""


def test_child_has_its_descriptors_in_order_and_no_other() -> None:
    async def scenario(children: Children) -> None:
        one, other = socket.socketpair()
        with one, other:
            read_end, write_end = os.pipe()
            # The numbers are such that putting one in its place would close the other.
            os.dup2(one.fileno(), 104, inheritable=False)
            os.dup2(other.fileno(), 103, inheritable=False)
            given = [104, 103]
            process = children.spawn(python(REPORT), {"KEY": "value"}, given, stdout=write_end)
            os.close(write_end)
            await ended(process)
            report = os.read(read_end, 65536).decode().splitlines()
            os.close(read_end)
            assert report[0].startswith(f"True {Path.cwd()} ")
            assert "('KEY', 'value')" in report[0]
            assert "PATH" not in report[0]
            assert report[0].endswith("b''")
            listing = 5  # lists itself
            handed_on = {each for each in descriptors() if _is_inheritable(each)}
            assert report[1] == str(sorted({0, 1, 2, 3, 4, listing} | handed_on))
            assert report[2] == str([os.fstat(each).st_ino for each in given])
            for number in given:
                os.close(number)

    run_children(scenario)


def test_child_descriptors_may_be_given_in_each_others_places() -> None:
    """In a process of its own, where 3 and 4 are free to be swapped."""
    script = """
import asyncio, os, sys
os.dup2(os.memfd_create("first"), 60, inheritable=False)
os.dup2(os.memfd_create("second"), 61, inheritable=False)
os.dup2(61, 3, inheritable=False)
os.dup2(60, 4, inheritable=False)
from outrider_supervisor.processes import Children

async def main():
    loop = asyncio.get_running_loop()
    code = "import os; print([os.readlink('/proc/self/fd/%d' % fd) for fd in (3, 4)])"
    done = loop.create_future()
    Children(loop).spawn([sys.executable, "-c", code], {}, [4, 3]).watch(lambda how, status: done.set_result(status))
    return await done

sys.exit(asyncio.run(main()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "['/memfd:first (deleted)', '/memfd:second (deleted)']\n"


def test_child_has_default_signals_and_none_blocked() -> None:
    async def scenario(children: Children) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            finished = await children.run(["/bin/cat", "/proc/self/status"], ENV, PATIENCE)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        masks = dict(line.split(":\t") for line in finished.stdout.decode().splitlines() if line.startswith("Sig"))
        assert int(masks["SigBlk"], 16) == 0
        internal = 0b11 << 31  # the C library ignores two of its own
        assert int(masks["SigIgn"], 16) & ~internal == 0  # Python itself ignores SIGPIPE

    run_children(scenario)


def test_program_that_does_not_exist_is_an_error_and_leaves_nothing_open() -> None:
    async def scenario(children: Children) -> None:
        before = descriptors()
        with pytest.raises(FileNotFoundError):
            children.spawn(["/nonexistent/python"], ENV, [0, 1])
        with pytest.raises(FileNotFoundError):
            await children.run(["/nonexistent/python"], ENV, PATIENCE)
        assert descriptors() == before

    run_children(scenario)


def test_child_that_cannot_be_held_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_descriptors(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    async def scenario(children: Children) -> None:
        monkeypatch.setattr(os, "pidfd_open", out_of_descriptors)
        with pytest.raises(OSError, match="Too many open files"):
            children.spawn(["/bin/sleep", "60"], ENV)

    run_children(scenario)


# -- processes that run already


def test_own_child_is_adopted_once() -> None:
    async def scenario(children: Children) -> None:
        pid = start("/bin/sleep", "60")
        process = children.adopt(pid)
        assert children.adopt(pid) is process
        process.signal(signal.SIGKILL)
        assert await ended(process) == ("was killed by SIGKILL", -signal.SIGKILL)

    run_children(scenario)


def test_child_that_exited_before_it_is_adopted_is_reported() -> None:
    async def scenario(children: Children) -> None:
        assert await ended(children.adopt(zombie("raise SystemExit(4)"))) == ("exited with code 4", 4)

    run_children(scenario)


def test_process_that_is_none_is_not_adopted() -> None:
    async def scenario(children: Children) -> None:
        with pytest.raises(ProcessLookupError):
            children.adopt(2**22 + 1)

    run_children(scenario)


def test_children_that_are_not_looked_after_any_more_run_on() -> None:
    async def scenario(children: Children) -> None:
        own = children.adopt(os.getpid())
        own.look()
        assert not own.has_exited
        children.close()
        assert own.has_exited

    run_children(scenario)


def test_process_that_is_gone_is_not_adopted_again() -> None:
    async def scenario(children: Children) -> None:
        pid = start("/bin/true")
        first = children.adopt(pid)
        await_exit(pid)
        reap(pid)
        with pytest.raises(ProcessLookupError):
            children.adopt(pid)
        assert first.has_exited

    run_children(scenario)


def test_end_of_a_process_does_not_forget_the_next_one_with_its_id() -> None:
    async def scenario(children: Children) -> None:
        pid = start("/bin/sleep", "60")
        first = children.adopt(pid)
        second = children._hold(pid)
        first.close()
        assert children.adopt(pid) is second

    run_children(scenario)


def test_process_of_another_parent_is_reported_as_gone() -> None:
    async def scenario(children: Children) -> None:
        code = "import subprocess; p = subprocess.Popen(['/bin/sleep', '60']); print(p.pid, flush=True); p.wait()"
        read_end, write_end = os.pipe()
        parent = children.spawn([sys.executable, "-c", code], ENV, stdout=write_end)
        os.close(write_end)
        with os.fdopen(read_end) as output:
            grandchild = children.adopt(int(output.readline()))
        assert grandchild.signal(signal.SIGKILL)
        assert await ended(grandchild) == ("is gone", None)
        await ended(parent)

    run_children(scenario)


# -- strangers


def test_strangers_are_reaped_and_known_children_reported() -> None:
    async def scenario(children: Children) -> None:
        known = children.spawn(["/bin/true"], ENV)
        await_exit(known.pid)
        running = children.spawn(["/bin/sleep", "60"], ENV)
        strangers = {zombie("raise SystemExit(5)"), zombie("import os; os.abort()")}
        reaped = dict(children.reap_strangers())
        assert reaped.keys() == strangers
        assert set(reaped.values()) == {"exited with code 5", "was killed by SIGABRT"}
        assert known.has_exited
        assert await ended(known) == ("exited with code 0", 0)
        assert not running.has_exited
        assert children.reap_strangers() == []

    run_children(scenario)


def test_nothing_is_reaped_without_children() -> None:
    async def scenario(children: Children) -> None:
        assert children.reap_strangers() == []

    run_children(scenario)


def test_orphans_come_to_a_subreaper() -> None:
    script = """
import asyncio, os, signal, sys
from outrider_supervisor.processes import Children, become_subreaper

async def main():
    loop = asyncio.get_running_loop()
    assert become_subreaper()
    children = Children(loop)
    reaped = loop.create_future()
    def reap():
        for stranger in children.reap_strangers():
            reaped.done() or reaped.set_result(stranger)
    loop.add_signal_handler(signal.SIGCHLD, reap)
    # The parent goes at once; the orphan when this end of the pipe is closed.
    code = "import os\\nif os.fork() == 0: os.read(3, 1); os._exit(7)"
    read_end, write_end = os.pipe()
    parent = children.spawn([sys.executable, "-c", code], {}, [read_end])
    gone = loop.create_future()
    parent.watch(lambda reason, status: gone.set_result(status))
    assert await gone == 0
    os.close(write_end)
    print((await reaped)[1])

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "exited with code 7\n"


def test_system_without_prctl_has_no_subreaper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not become_subreaper()
