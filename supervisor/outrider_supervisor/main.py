"""The supervisor process: begins with a command line, or goes on where another supervisor has stopped.

`python -m outrider_supervisor.main DESCRIPTOR` takes over the state in that descriptor; with `--check PATH` it only
says whether it could (see `upgrade`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any

from outrider.errors import ConfigurationError
from outrider.log_journal import marked_as_error
from outrider_supervisor import start_directory, upgrade
from outrider_supervisor.exits import Exit
from outrider_supervisor.journal import Journal
from outrider_supervisor.supervisor import Supervisor

CHECK_FAILED = 1


def run(argv: Sequence[str]) -> int:
    """`outrider run`: supervise the service that this command line describes; the exit status."""
    try:
        return asyncio.run(_supervise(argv, None))
    except ConfigurationError as error:
        print(marked_as_error(f"outrider: {error}", sys.stderr), file=sys.stderr)  # noqa: T201  # before there is a log, or beside it
        return Exit.FAILED
    except KeyboardInterrupt:  # before the supervisor had its handlers; nothing is there that would have to end
        return Exit.INTERRUPTED


async def _supervise(argv: Sequence[str], state: dict[str, Any] | None) -> int:
    environ = dict(os.environ)
    if state is None:
        environ[start_directory.VARIABLE] = start_directory.find(environ)
    journal = Journal()
    journal.start_writer()
    supervisor = Supervisor(argv, environ, journal)
    supervisor.seam.upgrade = lambda: upgrade.replace(supervisor)
    try:
        status = await supervisor.run(supervisor.start() if state is None else upgrade.resume(supervisor, state))
    finally:
        supervisor.ignore_signals()  # who was told that it has stopped may well send one
        await supervisor.close()
        journal.flush()  # before what goes to stderr directly
    journal.expect_exit(status)
    return status


def main(arguments: Sequence[str]) -> int:
    """Take over, or check whether that would work; the exit status."""
    if arguments[0] == upgrade.CHECK:
        try:
            upgrade.check(upgrade.read(arguments[1]))
        except (KeyError, TypeError, ValueError) as error:
            print(f"it cannot take over: {error!r}; stop the service and start it anew", file=sys.stderr)  # noqa: T201  # to `upgrade`
            return CHECK_FAILED
        return 0
    descriptor = int(arguments[0])
    state = upgrade.read(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    return asyncio.run(_supervise(state["argv"], state))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
