"""Upgrade is ignored, although llhttp stops parsing at it."""

from __future__ import annotations

import pytest

from outrider_testing.fakes import Client, ManualLoop, constant, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def test_upgrade_is_ignored(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(UPGRADE + GET)
    assert client.statuses == [200, 200]
    assert "upgrade: h2c" in client.answers()[0].json()["headers"]
    assert not client.is_closed()


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
)
@pytest.mark.parametrize("split", [0, 5])
def test_body_of_an_ignored_upgrade_is_read(loop: ManualLoop, framing: bytes, split: int) -> None:
    client = Client.of(loop, echo)
    data = UPGRADE.removesuffix(b"\r\n") + framing
    client.feed(data[: len(data) - split])
    client.feed(data[len(data) - split :])
    assert client.answer().json()["body"] == "hello"
    assert client.answer().closes
    assert client.is_closed()


def test_many_pipelined_upgrades_are_answered(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(UPGRADE * 2000 + GET)
    assert client.statuses == [200] * 2001


def test_malformed_body_of_an_ignored_upgrade_is_refused(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(UPGRADE.removesuffix(b"\r\n") + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    assert client.statuses == [400]
    assert client.is_closed()


@pytest.mark.parametrize("padding", [b"", b"X: " + b"y" * 8000 + b"\r\n" + b"Y: " + b"z" * 8000 + b"\r\n"])
@pytest.mark.parametrize("bad, status", [(b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505)])
def test_refusal_of_a_request_behind_an_upgrade_is_its_own(
    loop: ManualLoop, padding: bytes, bad: bytes, status: int
) -> None:
    client = Client.of(loop, constant())
    client.feed(UPGRADE.removesuffix(b"\r\n") + padding + b"\r\n" + bad)
    assert client.statuses == [200, status]
