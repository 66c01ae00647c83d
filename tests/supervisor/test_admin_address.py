"""The address of the admin endpoint."""

from __future__ import annotations

import pytest

from outrider_supervisor.admin_address import is_loopback, is_private, parse_address


@pytest.mark.parametrize(
    "text, expected",
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("[::1]:9100", ("::1", 9100)),
        ("localhost:0", ("localhost", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("unix:/run/admin.sock", "/run/admin.sock"),
        ("unix:///run/admin.sock", "/run/admin.sock"),
        ("unix:admin.sock", "admin.sock"),
    ],
)
def test_address_is_read(text: str, expected: object) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["9100", ":9100", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:9100", "http://localhost:9100", "unix:"],
)
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", "127.0.0.1.nip.io", ""]
)
def test_what_may_be_another_machine_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "text, expected", [("unix:/x", True), ("[::1]:1", True), ("0.0.0.0:1", False), ("[::]:1", False)]
)
def test_private_is_what_nobody_else_reaches(text: str, expected: bool) -> None:
    assert is_private(text) is expected
