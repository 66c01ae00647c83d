"""What docs/reference says in the words of the code: `make reference` writes it, tests/docs/test_reference.py compares.

A page marks the place with `<!-- NAME: begin … -->` and `<!-- NAME: end -->`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from outrider.gunicorn_settings import REFUSED
from outrider.setting_registration import SECTION
from outrider.settings import OutriderSettings
from outrider_supervisor import actions, admin_app, cli, control_commands, read_config, status
from outrider_supervisor.application import OutriderConfig
from outrider_supervisor.exits import Exit
from outrider_supervisor.handled_signals import HANDLED_SIGNALS
from outrider_supervisor.metrics import METRICS
from outrider_supervisor.resources import METRICS as METRICS_NAME
from outrider_supervisor.resources import RESOURCES
from outrider_supervisor.settings import SupervisorSettings
from outrider_testing.field_descriptions import Described, describe_fields

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


class Block(NamedTuple):
    """A part of a page, and what makes it."""

    page: str
    name: str
    render: Callable[[], str]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("| --- ", "|---").replace("---|\n", "---|\n")


def _code(text: object) -> str:
    return f"`{text}`"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


# -- settings


def worker_settings() -> str:
    """Outrider's own, which the worker reads."""
    rows = []
    for field in dataclasses.fields(OutriderSettings):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        rows.append((_code(field.name), _code(repr(default)), field.metadata["description"]))
    return table(("Setting", "Default", "What it does"), rows)


def supervisor_settings() -> str:
    """Those of the supervisor."""
    rows = []
    for field in dataclasses.fields(SupervisorSettings):
        flag = field.metadata["flag"]
        shown = f"{flag.name} {flag.meta or ''}".strip()
        rows.append((_code(field.name), _code(repr(field.default)), _code(shown), field.metadata["description"]))
    return table(("Setting", "Default", "Flag", "What it does"), rows)


def refused_settings() -> str:
    """gunicorn's settings of which only some values are allowed."""
    rows = [(_code(name), refusal.allowed, _sentence(refusal.advice)) for name, refusal in REFUSED.items()]
    return table(("Setting", "Allowed", "Why, and what to do instead"), rows)


def settings_under_the_supervisor() -> str:
    """gunicorn's settings that the supervisor refuses, or has no use for."""
    rows = [(_code(name), "refused", _sentence(reason)) for name, reason in read_config.REFUSED.items()]
    rows += [(_code(name), "no effect", _sentence(reason)) for name, reason in read_config.WITHOUT_EFFECT.items()]
    return table(("Setting", "What happens", "Why"), rows)


# -- the command line


def commands() -> str:
    """The commands with their arguments; `run` and `check` take gunicorn's. All others have `--name`."""
    parser, parsers = cli._parsers()
    [subparsers] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    summaries = {each.dest: each.help or "" for each in subparsers._choices_actions}
    parts = []
    for name, command in parsers.items():
        if name in cli._STARTED:
            parts.append(f"### `outrider {name}`\n\n{_sentence(summaries[name].partition(': ')[0])}\n")
            parts.append(f"`outrider {name} [OPTIONS] APP`, with the options [below](#options-of-run-and-check).\n")
        else:
            parts += [f"### `outrider {name}`\n", f"{command.description}\n", f"`{_usage(name, command)}`\n"]
            own = [each for each in _arguments(command) if each.dest != "name"]
            if own:
                rows = ((_code(_invocation(each)), _sentence(each.help or "")) for each in own)
                parts.append(table(("Argument", "Meaning"), rows))
    return "\n".join(parts)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (each for each in parser._actions if each.dest not in ("help", "version") and each.help != argparse.SUPPRESS)


def _invocation(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if not action.option_strings:
        return str(value)
    options = ", ".join(action.option_strings)
    return options if action.nargs == 0 else f"{options} {value}"


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    words = []
    grouped = {id(action): group for group in parser._mutually_exclusive_groups for action in group._group_actions}
    for action in _arguments(parser):
        group = grouped.get(id(action))
        if group is None:
            words.append(f"[{_invocation(action)}]" if action.option_strings else _invocation(action))
        elif action is group._group_actions[0]:
            choice = " | ".join(_invocation(each) for each in group._group_actions)
            words.append(f"({choice})" if group.required else f"[{choice}]")
    return " ".join(["outrider", name, *words])


def _options(*, ours: bool) -> str:
    config = OutriderConfig()
    is_ours = {name: setting.section == SECTION for name, setting in config.settings.items()}
    rows = [
        (_code(_invocation(each)), _code(each.dest))
        for each in _arguments(config.parser())
        if each.option_strings and is_ours[each.dest] is ours
    ]
    return table(("Option", "Setting"), rows)


def outrider_options() -> str:
    """The options of `run` and `check` that Outrider adds."""
    return _options(ours=True)


def gunicorn_options() -> str:
    """Those that gunicorn has as well."""
    return _options(ours=False)


def exit_statuses() -> str:
    """How the commands end."""
    return table(("Status", "Meaning"), ((str(int(each)), each.meaning) for each in Exit))


def signals() -> str:
    """What the supervisor does with a signal."""
    names = ((_code(number.name.removeprefix("SIG")), meaning) for number, meaning in HANDLED_SIGNALS.items())
    return table(("Signal", "What the supervisor does"), names)


# -- over HTTP


def metrics() -> str:
    """Each metric family."""
    rows = (
        (_code(each.shown_name), each.kind, ", ".join(map(_code, each.labels)), _sentence(each.help))
        for each in METRICS
    )
    return table(("Metric", "Type", "Labels", "Meaning"), rows)


def _requests(prefix: str, resources: Mapping[str, str], names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    for name, meaning in resources.items():
        yield _code(f"GET {prefix}{name}"), "", meaning
    for name in names:
        form = control_commands.FORMS[name]
        meaning = (form.kind.__doc__ or "").replace("\n", " ")
        yield _code(f"POST {prefix}{name}"), " or ".join(map(_code, form.examples)), re.sub(" +", " ", meaning)


def control_requests() -> str:
    """What the control socket takes."""
    rows = _requests(control_commands.PREFIX, RESOURCES, control_commands.FORMS)
    return table(("Request", "Body", "Meaning"), rows)


def admin_requests() -> str:
    """What the admin endpoint takes."""
    rows = [(_code(f"GET {path}"), "", meaning) for path, meaning in admin_app.OPEN_PATHS.items()]
    resources = dict(RESOURCES)
    rows.append((_code(f"GET {admin_app.METRICS_PATH}"), "", resources.pop(METRICS_NAME)))
    rows += _requests(admin_app.API, resources, sorted(admin_app.COMMANDS))
    return table(("Request", "Body", "Meaning"), rows)


def outcomes() -> str:
    """How an operation ends."""
    described = describe_fields(Path(actions.__file__).read_text(encoding="utf-8"))["Code"]
    rows = ((_code(each.value), described[each.name].text) for each in actions.Code)
    return table(("`code`", "Meaning"), rows)


def status_fields() -> str:
    """Each field of the status, however deep."""
    described = describe_fields(Path(status.__file__).read_text(encoding="utf-8"))
    rows = [(_code(path), field.json_type, field.text) for path, field in _walk("", "Status", described)]
    return table(("Field", "Type", "Meaning"), rows)


def _walk(prefix: str, kind: str, described: Mapping[str, Mapping[str, Described]]) -> Iterator[tuple[str, Any]]:
    for name, field in described[kind].items():
        yield prefix + name, field
        if field.contents is not None:
            yield from _walk(f"{prefix}{name}{'[]' if field.is_list else ''}.", field.contents, described)


BLOCKS = (
    Block("settings.md", "settings", worker_settings),
    Block("settings.md", "supervisor settings", supervisor_settings),
    Block("settings.md", "refused settings", refused_settings),
    Block("settings.md", "settings under the supervisor", settings_under_the_supervisor),
    Block("command-line.md", "commands", commands),
    Block("command-line.md", "outrider options", outrider_options),
    Block("command-line.md", "gunicorn options", gunicorn_options),
    Block("exit-codes.md", "exit statuses", exit_statuses),
    Block("signals.md", "signals", signals),
    Block("metrics.md", "metrics", metrics),
    Block("metrics.md", "admin requests", admin_requests),
    Block("control-api.md", "control requests", control_requests),
    Block("control-api.md", "outcomes", outcomes),
    Block("control-api.md", "status fields", status_fields),
)


def find(text: str, name: str) -> tuple[int, int]:
    """Where the block is in a page.

    Raises:
        ValueError: it is not there, or more than once.
    """
    pattern = re.compile(rf"^<!-- {name}: begin\b[^\n]*-->\n+(.*?\n)\n*<!-- {name}: end -->$", re.MULTILINE | re.DOTALL)
    found = [match.span(1) for match in pattern.finditer(text)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} blocks {name!r}")
    return found[0]


def main() -> None:
    """Write all blocks into the pages."""
    for block in BLOCKS:
        path = REFERENCE / block.page
        text = path.read_text(encoding="utf-8")
        begin, end = find(text, block.name)
        path.write_text(text[:begin] + block.render() + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
