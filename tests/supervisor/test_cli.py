"""The `outrider` command: arguments, output, exit statuses."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import cli
from outrider_supervisor.client import ClientError
from outrider_supervisor.control_commands import Command, Dump, Recycle, Reload, Scale, StopService, Upgrade
from outrider_supervisor.exits import Exit

DONE = {"ok": True, "code": "done", "message": "generation 2 is current, serving with 4 of 4 workers", "details": ""}
STATUS: dict[str, Any] = {
    "status_version": 1,
    "name": "shop",
    "pid": 1,
    "version": "0.1.0",
    "state": "serving",
    "since": 0.0,
    "target": 1,
    "capacity": 1,
    "unreadiness": "",
    "addresses": [],
    "operation": None,
    "generations": [],
    "events": [],
}


class FakeClient:
    """A supervisor that says the same each time; an exception among the lines is raised in their place."""

    commands: ClassVar[list[Command]] = []
    lines: ClassVar[list[dict[str, Any] | BaseException]] = [DONE]
    answer: ClassVar[dict[str, Any]] = STATUS

    name = "shop"

    def __init__(self, path: Path) -> None:
        assert path == Path("/run/shop.sock")

    def status(self) -> dict[str, Any]:
        return self.answer

    def run(self, command: Command) -> Iterator[dict[str, Any]]:
        self.commands.append(command)
        for line in self.lines:
            if isinstance(line, BaseException):
                raise line
            yield line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    """Return the class of the supervisor's stand-in, fresh for this test."""

    def find_socket(name: str | None, _environ: Mapping[str, str], _uid: int) -> Path:
        if name not in (None, "shop"):
            raise ConfigurationError(f"no supervisor named {name} runs here")
        return Path("/run/shop.sock")

    class Client(FakeClient):
        commands: ClassVar[list[Command]] = []

    monkeypatch.setattr(cli, "find_socket", find_socket)
    monkeypatch.setattr(cli, "ControlClient", Client)
    return Client


@pytest.mark.parametrize(
    "argv,command",
    [
        ("reload", Reload()),
        ("reload --no-canary --name shop", Reload(canary=False)),
        ("stop", StopService()),
        ("stop --fast", StopService(fast=True)),
        ("scale 8", Scale(8)),
        ("recycle 4711", Recycle(4711)),
        ("recycle --all", Recycle(0)),
        ("dump 4711", Dump(4711)),
        ("upgrade", Upgrade()),
    ],
)
def test_command_is_sent(client: type[FakeClient], argv: str, command: Command) -> None:
    assert cli.main(argv.split()) == 0
    assert client.commands == [command]


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "scaled",
        "scale",
        "scale 0",
        "scale many",
        "recycle",
        "recycle 3 --all",
        "dump",
        "dump -1",
        "status --names x",
        "status --name a/b",
    ],
)
def test_wrong_command_line_is_a_usage_error(
    client: type[FakeClient], argv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv.split())
    assert caught.value.code == 2
    assert "usage: outrider" in capsys.readouterr().err
    assert client.commands == []


@pytest.mark.parametrize(
    "argv,usage,complaint",
    [
        ("statsu", "outrider [", "there is no command 'statsu'; did you mean status?"),
        ("fly", "outrider [", "there is no command 'fly'; there are run, check, status, top, reload, "),
        ("restart", "outrider [", "there is no command 'restart'; did you mean reload?"),
        ("shop:app -w 2", "outrider [", "there is no command 'shop:app'; did you mean run shop:app?"),
        ("reload shop", "outrider reload [", "unrecognized arguments: shop; did you mean --name shop?\n"),
        ("status --jsno", "outrider status [", "unrecognized arguments: --jsno"),
        ("scale 3 4", "outrider scale [", "unrecognized arguments: 4\n"),
        ("reload --name .x", "outrider reload [", "a leading dot and control characters are not allowed"),
    ],
)
def test_wrong_command_line_is_explained(
    argv: str, usage: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(argv.split())
    text = capsys.readouterr().err
    assert text.startswith(f"usage: {usage}")
    assert complaint in text


def test_help_lists_commands_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert re.findall(r"^    (\w+) ", text, re.MULTILINE) == [
        "run", "check", "status", "top", "reload", "stop", "scale", "recycle", "dump", "upgrade",
    ]  # fmt: skip
    assert re.findall(r"^  (\d+)  ", text, re.MULTILINE) == [str(int(status)) for status in Exit]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    "command,described",
    [
        ("scale", ["Change the number of workers, until the next stop.", "how many workers there shall be"]),
        ("recycle", ["Replace workers by new ones.", "the worker, as `status` shows it"]),
        ("dump", ["Show what a worker is doing: stacks, tasks, requests.", "the worker, as `status` shows it"]),
        ("upgrade", ["Replace the supervisor itself, in place."]),
    ],
)
def test_help_of_a_command_describes_it(command: str, described: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(each in text for each in described)


def test_progress_and_success_go_to_standard_output(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client.lines = [{"progress": "generation 2: starting"}, {"progress": "1 of 4"}, DONE]
    assert cli.main(["reload"]) == 0
    output = capsys.readouterr()
    assert output.out == "generation 2: starting\n1 of 4\nshop: generation 2 is current, serving with 4 of 4 workers\n"
    assert output.err == ""


def test_details_of_a_success_are_shown(client: type[FakeClient], capsys: pytest.CaptureFixture[str]) -> None:
    client.lines = [DONE | {"message": "worker 7", "details": "File app.py\n\x1b[31m"}]
    assert cli.main(["dump", "7"]) == 0
    assert capsys.readouterr().out == "shop: worker 7\nFile app.py\n?[31m\n"


def test_terminal_shows_one_line_that_is_rewritten(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    client.lines = [{"progress": "one"}, {"progress": "two"}, DONE]
    assert cli.main(["reload"]) == 0
    assert terminal.getvalue() == f"\r\x1b[Kone\r\x1b[Ktwo\r\x1b[Kshop: {DONE['message']}\n"


@pytest.mark.parametrize("code,status", [("failed", 1), ("refused", 1), ("stopping", 1), ("superseded", 4)])
def test_failure_shows_last_log_lines_and_message(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str], code: str, status: int
) -> None:
    details = "Traceback (most recent call last):\n  boom\n"
    client.lines = [{"ok": False, "code": code, "message": "rolled back: worker 7 failed to boot", "details": details}]
    assert cli.main(["reload"]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"{details}outrider: shop: reload: rolled back: worker 7 failed to boot\n"


@pytest.mark.usefixtures("client")
def test_missing_supervisor_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--name", "other"]) == 3
    assert capsys.readouterr().err == "outrider: no supervisor named other runs here\n"


@pytest.mark.parametrize(
    "lines,sentence",
    [
        ([{"progress": "one"}, ClientError("it went away")], "it went away"),
        ([{"progress": "one"}], "the supervisor ended before the stop did"),
    ],
)
def test_supervisor_that_goes_away_is_one_sentence(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str], lines: list[Any], sentence: str
) -> None:
    client.lines = lines
    assert cli.main(["stop"]) == 3
    assert capsys.readouterr().err == f"outrider: {sentence}\n"


def test_interrupt_says_that_the_operation_goes_on(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client.lines = [{"progress": "one"}, KeyboardInterrupt()]
    assert cli.main(["reload"]) == 130
    assert capsys.readouterr().err == "outrider: the reload goes on in the supervisor; `outrider status` shows it\n"


def test_interrupted_status_is_no_traceback(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_client: FakeClient) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "status", interrupt)
    assert cli.main(["status"]) == 130


@pytest.mark.usefixtures("client")
def test_status_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out.startswith("shop: serving, 1 of 1 worker ready\n")
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


# status --ready


@pytest.mark.usefixtures("client")
def test_probe_of_a_ready_service_is_a_line_and_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--ready"]) == 0
    assert capsys.readouterr() == ("ready: shop, 1 of 1 workers\n", "")


def test_probe_says_why_a_service_is_not_ready(client: type[FakeClient], capsys: pytest.CaptureFixture[str]) -> None:
    client.answer = STATUS | {"unreadiness": "0 of 1 worker ready"}
    assert cli.main(["status", "--ready"]) == 1
    assert capsys.readouterr() == ("", "outrider: not ready: 0 of 1 worker ready\n")


def test_probe_ends_with_1_where_other_clients_have_a_status_of_their_own(
    client: type[FakeClient], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang(_client: FakeClient) -> dict[str, Any]:
        raise ClientError("it does not answer")

    assert cli.main(["status", "--ready", "--name", "other"]) == 1
    monkeypatch.setattr(client, "status", hang)
    assert cli.main(["status", "--ready"]) == 1
    assert capsys.readouterr().err == "outrider: no supervisor named other runs here\noutrider: it does not answer\n"


def test_probe_of_a_supervisor_that_was_started_earlier_fails(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client.answer = {name: value for name, value in STATUS.items() if name != "unreadiness"}
    assert cli.main(["status", "--ready"]) == 1
    assert "run `outrider upgrade`" in capsys.readouterr().err


@pytest.mark.usefixtures("client")
def test_probe_is_not_json() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["status", "--ready", "--json"])
    assert caught.value.code == 2


def test_status_of_another_version_is_for_scripts_only(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client.answer = {"status_version": 2}
    assert cli.main(["status"]) == 1
    assert "status has version 2, this command knows 1; use --json" in capsys.readouterr().err
    assert cli.main(["status", "--json"]) == 0


def test_client_starts_without_gunicorn_and_asyncio() -> None:
    heavy = "{'gunicorn', 'asyncio', 'uvloop', 'httptools', 'psutil'}"
    script = f"import sys, outrider_supervisor.cli; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_run_hands_the_arguments_to_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    from outrider_supervisor import main as supervisor  # noqa: PLC0415  # as `run` does

    seen: list[Sequence[str]] = []

    def run(argv: Sequence[str]) -> int:
        seen.append(argv)
        return 7

    monkeypatch.setattr(supervisor, "run", run)
    assert cli.main(["run", "-w", "2", "app:app", "--", "-h"]) == 7
    assert seen == [["-w", "2", "app:app", "--", "-h"]]


def test_run_loses_no_sigterm_before_the_supervisor_can_handle_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As process 1, to whom the kernel delivers no signal that is neither handled nor blocked."""
    from outrider_supervisor import main as supervisor  # noqa: PLC0415  # as `run` does

    def run(_argv: Sequence[str]) -> int:
        return int(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    monkeypatch.setattr(supervisor, "run", run)
    assert cli.main(["run", "app:app"]) == 1, "SIGTERM is blocked, and so kept"
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


# top


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("missing", ["textual", "rich"])
def test_top_says_how_to_get_what_draws_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Finder:
        """Does not find it, as where it is not installed."""

        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [each for each in sys.modules if each.startswith(missing) or each == "outrider_supervisor.top"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert cli.main(["top"]) == Exit.FAILED
    assert "pip install 'outrider[top]'" in capsys.readouterr().err


@pytest.mark.usefixtures("client")
def test_top_needs_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top"]) == Exit.FAILED
    assert "top needs a terminal" in capsys.readouterr().err


@pytest.mark.usefixtures("client")
def test_top_is_shown_where_there_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []

    def run(top: object) -> None:
        shown.append(top)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr("outrider_supervisor.top.Top.run", run)
    assert cli.main(["top"]) == Exit.DONE
    assert len(shown) == 1
