"""Running a program to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

from outrider_supervisor.processes import MOST_COMPLAINT, MOST_OUTPUT, Children, Finished
from outrider_testing.child_scenes import ENV, PATIENCE, ended, python, run_children


def test_output_and_exit_code_are_returned() -> None:
    async def scenario(children: Children) -> None:
        code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
        finished = await children.run(python(code), ENV, PATIENCE)
        assert (finished.status, finished.stdout, finished.stderr) == (3, b"out\n", b"err\n")
        assert not finished.timed_out

    run_children(scenario)


def test_output_larger_than_a_pipe_is_read_while_the_child_runs_and_bounded() -> None:
    async def scenario(children: Children) -> None:
        code = f"import os\nfor _ in range(32): os.write(1, b'x' * {MOST_OUTPUT // 16})"
        finished = await children.run(python(code), ENV, PATIENCE)
        assert finished.status == 0
        assert len(finished.stdout) == MOST_OUTPUT

    run_children(scenario)


def test_end_of_much_output_is_kept_and_that_of_a_complaint_shown() -> None:
    async def scenario(children: Children) -> None:
        code = f"import os\nfor _ in range(40): os.write(2, b'x' * {MOST_OUTPUT // 16})\nos.write(2, b'KeyError: 1\\n')"
        finished = await children.run(python(code), ENV, PATIENCE)
        assert len(finished.stderr) == MOST_OUTPUT
        assert finished.stderr.endswith(b"xKeyError: 1\n")
        assert finished.complaint.startswith("[...] xxx")
        assert finished.complaint.endswith("xKeyError: 1")
        assert len(finished.complaint) <= MOST_COMPLAINT + len("[...] ")

    run_children(scenario)


def test_short_complaint_is_shown_as_it_is() -> None:
    assert Finished(1, b"", b"no such file\n", timed_out=False).complaint == "no such file"


def test_child_that_takes_too_long_is_killed_with_its_group() -> None:
    async def scenario(children: Children) -> None:
        code = "import os; print('begun', flush=True); os.fork(); os.read(os.pipe()[0], 1)"
        finished = await children.run(python(code), ENV, 0.5)
        assert finished.timed_out
        assert finished.status == -signal.SIGKILL

    run_children(scenario)


def test_what_a_child_leaves_running_is_not_waited_for() -> None:
    async def scenario(children: Children) -> None:
        read_end, write_end = os.pipe()
        os.set_inheritable(read_end, True)
        code = f"import os; print('here', flush=True)\nif os.fork() == 0: os.read({read_end}, 1)"
        finished = await children.run(python(code), ENV, PATIENCE)
        os.close(write_end)  # ends what was left
        os.close(read_end)
        assert (finished.status, finished.stdout) == (0, b"here\n")

    run_children(scenario)


def test_what_a_child_leaves_writing_does_not_hold_the_loop_up() -> None:
    async def scenario(children: Children) -> None:
        code = "import os\nif os.fork() == 0:\n while True: os.write(1, b'x' * 65536)"  # until nobody reads
        finished = await children.run(python(code), ENV, PATIENCE)
        assert finished.status == 0

    run_children(scenario)


def test_cancelled_run_kills_the_child() -> None:
    async def scenario(children: Children) -> None:
        running = asyncio.create_task(children.run(["/bin/sleep", "60"], ENV, PATIENCE))
        await asyncio.sleep(0)
        process = next(iter(children._known.values()))
        running.cancel()
        await asyncio.wait({running})
        assert await ended(process) == ("was killed by SIGKILL", -signal.SIGKILL)

    run_children(scenario)


def test_cancelled_run_kills_what_the_child_has_started() -> None:
    async def scenario(children: Children) -> None:
        read_end, write_end = os.pipe()
        os.set_inheritable(write_end, True)
        code = f"import os; os.fork(); os.write({write_end}, b'x'); os.read(os.pipe()[0], 1)"
        running = asyncio.create_task(children.run(python(code), ENV, PATIENCE))
        await asyncio.sleep(0)  # for it to be started, with its copy of the pipe
        os.close(write_end)
        begun = asyncio.StreamReader()
        with os.fdopen(read_end, "rb") as pipe:
            protocol = asyncio.StreamReaderProtocol(begun)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
            assert await begun.readexactly(2) == b"xx"
            running.cancel()
            assert await begun.read() == b""  # nobody is left who could write
            transport.close()
        await asyncio.wait({running})

    run_children(scenario)


def test_uvloop_watches_processes_as_well() -> None:
    script = """
import asyncio, uvloop
from outrider_supervisor.processes import Children

async def main():
    children = Children(asyncio.get_running_loop())
    print(await children.run(["/bin/echo", "hello"], {}, 10))
    print(children.reap_strangers())

uvloop.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "Finished(status=0, stdout=b'hello\\n', stderr=b'', timed_out=False)\n[]\n"
