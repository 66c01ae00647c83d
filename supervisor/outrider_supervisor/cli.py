"""The `outrider` command: starts the supervisor, or is the client of one that runs.

A client imports neither gunicorn nor asyncio: it must answer at once, also where the machine is busy.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, cast

from outrider import __version__
from outrider.errors import ConfigurationError
from outrider_supervisor import control_commands as commands
from outrider_supervisor import start_directory, web_concurrency
from outrider_supervisor.cgroup import ControlGroup
from outrider_supervisor.client import ClientError, ControlClient
from outrider_supervisor.exits import Exit
from outrider_supervisor.paths import check_name, find_socket
from outrider_supervisor.progress import Console
from outrider_supervisor.service import Service
from outrider_supervisor.status import STATUS_VERSION, Status
from outrider_supervisor.status_view import render_status
from outrider_supervisor.text_format import format_address, plain

DESCRIPTION = """\
Serve Python web applications, and reload, scale and stop them without losing a
request.
"""
_EXIT_STATUSES = "\n".join(
    textwrap.fill(status.meaning, 79, initial_indent=f"  {status:<5}", subsequent_indent=" " * 7) for status in Exit
)
EPILOG = f"""\
exit status:
{_EXIT_STATUSES}

`outrider run --help` shows the options of `run` and `check`, `outrider COMMAND
--help` those of another command.
"""

COMMANDS_OF_OTHERS = {"start": "run", "restart": "reload"}
"""What to use for commands that people bring from elsewhere, where the name does not show it."""


class _Started(NamedTuple):
    """A command that takes gunicorn's options: everything after its name is for gunicorn's parser."""

    start: Callable[[Sequence[str]], int]
    help: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    _open_missing_streams()
    if argv and argv[0] in _STARTED:
        return _start(argv[0], argv[1:])
    options = _parse(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names and log lines need not be of the terminal's character set
    try:
        path = find_socket(options.name, os.environ, os.getuid())
        client = ControlClient(path)
        if options.command == "status":
            return _show_readiness(client) if options.ready else _show_status(client, as_json=options.json)
        if options.command == "top":
            return _show_top(client)
        return _follow(client, options.command, _command_of(options))
    except (ClientError, ConfigurationError) as error:
        _complain(str(error))
        return Exit.FAILED if _is_probe(options) else Exit.UNREACHABLE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _open_missing_streams() -> None:
    """Have /dev/null in the place of what the caller has closed: what is opened next would get its descriptor."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w")  # noqa: SIM115, PTH123  # until the end
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser, commands_ = _parsers()
    if argv and not argv[0].startswith("-") and argv[0] not in commands_:
        meant = _meant(argv[0], commands_)
        hint = f"did you mean {meant}?" if meant else f"there are {', '.join(commands_)}"
        parser.error(f"there is no command {argv[0]!r}; {hint}")
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        # The usage of the command is of more help than that of all.
        is_name = not (unknown[0].startswith("-") or unknown[0].isdecimal())
        hint = f"; did you mean --name {unknown[0]}?" if is_name else ""
        commands_[options.command].error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return options


def _meant(word: str, known: Collection[str]) -> str:
    """What to type in the place of a command that does not exist; empty if nobody knows."""
    if ":" in word:
        return f"run {word}"
    close = difflib.get_close_matches(word, known, n=1)
    return COMMANDS_OF_OTHERS.get(word) or next(iter(close), "")


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and those of the commands."""
    parser = argparse.ArgumentParser(
        "outrider", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"outrider {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument(
        "--name", type=_name, help="the instance's name (proc_name, such as shop:app); needed only where several run"
    )
    for command, started in _STARTED.items():
        subparsers.add_parser(command, help=started.help, add_help=False)

    def add(command: str, summary: str, details: str = "") -> argparse.ArgumentParser:
        description = f"{summary[0].upper()}{summary[1:]}. {details}".rstrip()
        return subparsers.add_parser(command, parents=[name], help=summary, description=description)

    status = add("status", "show generations, workers and the latest events")
    what = status.add_mutually_exclusive_group()
    what.add_argument(
        "--ready",
        action="store_true",
        help="a line, and exit status 0 if requests should be sent here, else 1: a probe",
    )
    what.add_argument("--json", action="store_true", help="as JSON; docs/reference/control-api.md explains it")
    add("top", "watch all workers live, and act on them", "Needs outrider[top], and a terminal.")
    reload_ = add("reload", "serve the code and configuration of now, if they work")
    reload_.add_argument("--no-canary", dest="canary", action="store_false", help="do not watch a first worker")
    stop = add("stop", "end the service when its requests are answered", "After graceful_timeout it cuts them.")
    stop.add_argument("--fast", action="store_true", help="at once: requests in flight are cut")
    scale = add(
        "scale",
        "change the number of workers, until the next stop",
        "It outlasts reloads and upgrades. With max_workers (the autoscaler) only within its limits, and until the "
        "load asks for another number.",
    )
    scale.add_argument("workers", type=_positive, metavar="N", help="how many workers there shall be")
    recycle = add("recycle", "replace workers by new ones", "The new one is ready before the old one goes.")
    which = recycle.add_mutually_exclusive_group(required=True)
    which.add_argument("pid", type=_positive, nargs="?", metavar="PID", help="the worker, as `status` shows it")
    which.add_argument("--all", action="store_true", help="every worker, one after the other")
    dump = add("dump", "show what a worker is doing: stacks, tasks, requests", "The worker goes on.")
    dump.add_argument("pid", type=_positive, metavar="PID", help="the worker, as `status` shows it")
    add("upgrade", "replace the supervisor itself, in place", "By the version that is installed, under the same PID.")
    return parser, subparsers.choices


def _name(text: str) -> str:
    try:
        return check_name(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 is needed")
    return number


def _command_of(options: argparse.Namespace) -> commands.Command:
    match options.command:
        case "reload":
            return commands.Reload(options.canary)
        case "stop":
            return commands.StopService(options.fast)
        case "scale":
            return commands.Scale(options.workers)
        case "recycle":
            return commands.Recycle(0 if options.all else options.pid)
        case "dump":
            return commands.Dump(options.pid)
        case _:
            return commands.Upgrade()


# -- clients


def _is_probe(options: argparse.Namespace) -> bool:
    """Whether 0 and 1 are the only exit statuses, as Docker's HEALTHCHECK wants it."""
    return options.command == "status" and bool(options.ready)


def _show_readiness(client: ControlClient) -> int:
    status = client.status()
    reason = status.get("unreadiness")
    if reason is None:
        _complain("the supervisor is too old to say whether it is ready; run `outrider upgrade`")
        return Exit.FAILED
    if reason:
        _complain(f"not ready: {reason}")
        return Exit.FAILED
    Console(sys.stdout).say(f"ready: {plain(status['name'])}, {status['capacity']} of {status['target']} workers")
    return Exit.DONE


def _show_status(client: ControlClient, *, as_json: bool) -> int:
    console = Console(sys.stdout)
    status = client.status()
    if as_json:
        console.say(json.dumps(status, indent=2))
        return Exit.DONE
    version = status.get("status_version")
    if version != STATUS_VERSION:
        _complain(f"the supervisor's status has version {version}, this command knows {STATUS_VERSION}; use --json")
        return Exit.FAILED
    console.say(render_status(cast("Status", status), time.time(), colour=console.has_colour))
    return Exit.DONE


def _show_top(client: ControlClient) -> int:
    try:
        from outrider_supervisor.top import Top  # noqa: PLC0415  # the extra, which others need not have
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "textual"):
            raise
        _complain("top needs the extra that draws it: pip install 'outrider[top]'; `outrider status` works without")
        return Exit.FAILED
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        _complain("top needs a terminal; `outrider status` writes to files and pipes as well")
        return Exit.FAILED
    client.status()  # who can't be reached is said in one line, and not on a screen of its own
    Top(client).run()
    return Exit.DONE


def _follow(client: ControlClient, name: str, command: commands.Command) -> int:
    """Show how the operation goes until it is over."""
    console = Console(sys.stdout)
    outcome = None
    try:
        for line in client.run(command):
            if "progress" in line:
                console.progress(line["progress"])
            else:
                outcome = line
    except KeyboardInterrupt:
        console.clear()
        _complain(f"the {name} goes on in the supervisor; `outrider status` shows it")
        return Exit.INTERRUPTED
    except ClientError:
        console.clear()
        raise
    if outcome is None:
        console.clear()
        raise ClientError(f"the supervisor ended before the {name} did")
    return _conclude(console, client.name, name, outcome)


def _conclude(console: Console, instance: str, command: str, outcome: dict[str, Any]) -> int:
    details = outcome.get("details", "").strip("\n")
    if outcome["ok"]:
        console.say(plain(f"{instance}: {outcome['message']}"))
        if details:
            console.say(plain(details))
        return Exit.DONE
    console.clear()
    if details:
        _complain(details, prefix="")
    _complain(f"{instance}: {command}: {outcome['message']}")  # last, where the eye is after a long traceback
    return Exit.SUPERSEDED if outcome["code"] == "superseded" else Exit.FAILED


def _complain(text: str, prefix: str = "outrider: ") -> None:
    line = prefix + plain(text)
    if "JOURNAL_STREAM" in os.environ:  # a service manager has started it
        from outrider.log_journal import marked_as_error  # noqa: PLC0415  # it needs logging

        line = marked_as_error(line, sys.stderr)
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201  # a command line tool prints
    except OSError:
        return  # nobody is there to read it


# -- commands that take gunicorn's options


def _start(name: str, argv: Sequence[str]) -> int:
    try:
        start_directory.find(os.environ)  # gunicorn can't even be imported in one that has been removed
        _prepare_for_gunicorn(dict(os.environ))
    except ConfigurationError as error:
        _complain(str(error))
        return Exit.FAILED
    options = argv[: argv.index("--")] if "--" in argv else argv
    if {"-h", "--help", "-v", "--version"}.intersection(options):
        _prepare_for_gunicorn(os.environ)
        # Clients do without gunicorn.
        from outrider_supervisor.application import ConfigurationFailed, OutriderApplication  # noqa: PLC0415  # as above

        try:
            OutriderApplication(options, prog=f"outrider {name}")  # ends with SystemExit
        except ConfigurationFailed as error:
            _complain(error.reason)
            return Exit.USAGE
    status = _STARTED[name].start(argv)
    # Afterwards, because a supervisor that runs has no need of gunicorn's memory.
    return Exit.USAGE if status == Exit.FAILED and _is_wrong(argv) else status


def _is_wrong(argv: Sequence[str]) -> bool:
    """Whether this command line for gunicorn is wrong by itself, whatever the configuration file says."""
    _prepare_for_gunicorn(os.environ)
    from outrider_supervisor.application import OutriderConfig  # noqa: PLC0415  # as above

    config = OutriderConfig()
    try:
        for name, value in vars(config.parser().parse_args(argv)).items():
            if name != "args" and value is not None:
                config.set(name, value)
                if name == "proc_name":
                    check_name(value)
    except Exception:  # noqa: BLE001  # the parser's and ours, or whatever gunicorn's validators raise
        return True
    return False


def _prepare_for_gunicorn(environ: MutableMapping[str, str]) -> None:
    """Let gunicorn be imported with these variables. The supervisor, which never does, keeps them as they were given.

    Raises:
        ConfigurationError: it could not be.
    """
    environ.update(web_concurrency.resolve(environ, ControlGroup()))


def _run(argv: Sequence[str]) -> int:
    # Until the supervisor handles it: process 1 never gets what is neither handled nor blocked (pid_namespaces(7)).
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        from outrider_supervisor.main import run  # noqa: PLC0415  # as above

        return run(argv)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _check(argv: Sequence[str]) -> int:
    _prepare_for_gunicorn(os.environ)
    command = [sys.executable, "-P", "-m", "outrider_supervisor.read_config", "--import", *argv]
    try:
        child = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603  # our own module
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    if child.returncode < 0:
        _complain(f"the application ended the process that imported it (signal {-child.returncode})")
    if child.returncode != 0:
        return Exit.FAILED
    if not child.stdout:
        _complain("the application ended the process that imported it (os._exit)")
        return Exit.FAILED
    service = Service.from_json(child.stdout.decode())
    try:
        check_name(service.name)
    except ConfigurationError as error:
        _complain(str(error))
        return Exit.FAILED
    for note in service.notes:
        _complain(note, prefix="note: ")
    workers = f"{service.workers} worker{'' if service.workers == 1 else 's'}"
    addresses = ", ".join(format_address(each) for each in service.addresses)
    Console(sys.stdout).say(f"ok: {service.application}, {workers}, {addresses}")
    return Exit.DONE


_STARTED = {
    "run": _Started(_run, "serve: outrider run [gunicorn's options] APP"),
    "check": _Started(_check, "try configuration and import, with the same arguments"),
}


if __name__ == "__main__":
    sys.exit(main())
