from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from outrider_supervisor.messages import (
    MOST_BYTES,
    Alive,
    BackingOff,
    FromMaster,
    MasterBooted,
    MasterFailed,
    ReopenLogs,
    Replace,
    ReplaceAtOnce,
    SetTarget,
    Stop,
    ToMaster,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
    WorkerStuck,
    decode,
    encode,
)

MESSAGES: list[ToMaster | FromMaster] = [
    SetTarget(4),
    Replace(123),
    ReplaceAtOnce(123),
    Stop(fast=True),
    ReopenLogs(),
    MasterBooted(),
    MasterFailed("no module named 'shöp'", "Traceback (most recent call last):\n  …"),
    Alive(),
    WorkerSpawned(124, 123),
    WorkerReady(124),
    WorkerRetiring(123),
    WorkerStuck(123, 31.5),
    WorkerExited(123, "was killed by SIGSEGV", expected=False, was_ready=True),
    BackingOff(3, 4.0),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_message_survives_the_way(message: ToMaster | FromMaster) -> None:
    assert decode(encode(message)) == message


def test_every_kind_of_message_is_tried() -> None:
    assert {type(message) for message in MESSAGES} == {*ToMaster.__args__, *FromMaster.__args__}


@pytest.mark.parametrize("letter", ["x", "é", "\n"])
def test_long_details_lose_their_beginning(letter: str) -> None:
    data = encode(MasterFailed("reason", letter * 3 * MOST_BYTES + "the end"))
    assert len(data) <= MOST_BYTES
    message = decode(data)
    assert message.reason == "reason"
    assert message.details.endswith(f"{letter}the end")


def test_long_reason_is_cut_as_well() -> None:
    data = encode(MasterFailed("because " + "é" * 2 * MOST_BYTES, "details"))
    assert len(data) <= MOST_BYTES
    assert decode(data).reason.startswith("because é")


def test_long_end_of_a_worker_is_cut() -> None:
    data = encode(WorkerExited(1, "said " + "x" * 2 * MOST_BYTES, expected=False, was_ready=False))
    assert len(data) <= MOST_BYTES
    assert decode(data).how.startswith("said x")


def _with(**fields: Any) -> bytes:
    return json.dumps({"type": "SetTarget", **dataclasses.asdict(SetTarget(1)), **fields}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"1",
        b"[]",
        b"{}",
        b'{"type": "Explode"}',
        b'{"type": ["SetTarget"]}',
        b'{"type": "SetTarget"}',
        _with(more=1),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a message between supervisor and master"):
        decode(data)
