"""The commands of the control socket as data, as a path, and as JSON."""

from __future__ import annotations

import pytest

from outrider_supervisor.control_commands import (
    Command,
    CommandError,
    Dump,
    Recycle,
    Reload,
    Scale,
    StopService,
    Upgrade,
    decode,
    encode,
)

COMMANDS: list[tuple[Command, str, bytes]] = [
    (Reload(), "reload", b'{"canary": true}'),
    (Reload(canary=False), "reload", b'{"canary": false}'),
    (StopService(fast=True), "stop", b'{"fast": true}'),
    (Scale(4), "scale", b'{"workers": 4}'),
    (Recycle(123), "recycle", b'{"pid": 123}'),
    (Recycle(0), "recycle", b'{"all": true}'),
    (Dump(123), "dump", b'{"pid": 123}'),
    (Upgrade(), "upgrade", b"{}"),
]


@pytest.mark.parametrize("command, name, body", COMMANDS)
def test_command_survives_the_wire(command: Command, name: str, body: bytes) -> None:
    assert encode(command) == (f"/v1/{name}", body)
    assert decode(name, body) == command


@pytest.mark.parametrize(
    "name, command", [("reload", Reload(canary=True)), ("stop", StopService(fast=False)), ("upgrade", Upgrade())]
)
def test_empty_body_means_the_defaults(name: str, command: Command) -> None:
    assert decode(name, b"") == command


@pytest.mark.parametrize(
    "name, body, sentence",
    [
        ("reload", b"canary", "the body is not JSON"),
        ("reload", b"\xff\xfe{", "the body is not JSON"),
        ("reload", b"[]", "the body must be a JSON object"),
        ("reload", b'{"canary": 1}', "canary=1: it must be true or false"),
        ("reload", b'{"canry": true}', "unknown field 'canry' for reload"),
        ("scale", b"", "workers is missing: it must be a whole number from 1"),
        ("scale", b'{"workers": 0}', "workers is 0: "),
        ("scale", b'{"workers": true}', "workers is true: "),
        ("scale", b'{"workers": "4"}', 'workers is "4": '),
        ("scale", b'{"workers": 4.0}', "workers is 4.0: "),
        ("recycle", b"{}", 'give {"pid": NUMBER} or {"all": true}'),
        ("recycle", b'{"all": true, "pid": 3}', "pid and all exclude each other"),
        ("recycle", b'{"all": false}', 'give {"pid": NUMBER} or {"all": true}'),
        ("dump", b'{"pid": -1}', "pid is -1: "),
        ("upgrade", b'{"now": true}', "unknown field 'now' for upgrade"),
    ],
)
def test_wrong_body_is_refused_with_a_sentence(name: str, body: bytes, sentence: str) -> None:
    with pytest.raises(CommandError) as refusal:
        decode(name, body)
    assert str(refusal.value).startswith(sentence)


def test_body_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(CommandError, match="nested too deeply"):
        decode("scale", b"[" * 60_000)
