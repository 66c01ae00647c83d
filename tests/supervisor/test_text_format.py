"""Numbers and texts for a terminal."""

from __future__ import annotations

import pytest

from outrider_supervisor.text_format import (
    format_address,
    format_count,
    format_duration,
    format_milliseconds,
    format_percent,
    format_size,
    plain,
)


@pytest.mark.parametrize(
    "seconds,text",
    [
        (-0.2, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (11520, "3h12m"),
        (86399, "23h59m"),
        (86400 * 12 + 4 * 3600, "12d04h"),
    ],
)
def test_duration_shows_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    "number,text",
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (1234, "1.2k"),
        (45678, "46k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (2_500_000_000, "2.5G"),
        (7 * 10**15, "7000.0T"),
    ],
)
def test_count_shows_two_digits_at_least(number: int, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    "size,text", [(0, "0B"), (1023, "1023B"), (1024, "1.0K"), (46 << 20, "46M"), (1200 << 20, "1.2G")]
)
def test_size_is_in_powers_of_1024(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize("milliseconds,text", [(0.2, "0ms"), (12.4, "12ms"), (1400, "1.4s")])
def test_milliseconds_become_seconds(milliseconds: float, text: str) -> None:
    assert format_milliseconds(milliseconds) == text


def test_unknown_is_a_dash() -> None:
    assert {f(None) for f in (format_duration, format_count, format_size, format_milliseconds, format_percent)} == {"-"}


def test_plain_text_cannot_steer_a_terminal() -> None:
    assert plain("a\x1b[31mb\r\x07\n\tc é") == "a?[31mb??\n\tc é"


@pytest.mark.parametrize(
    "address,text",
    [
        (("127.0.0.1", 8000), "127.0.0.1:8000"),
        (("::1", 80), "[::1]:80"),
        ("/run/shop.sock", "unix:/run/shop.sock"),
        ("\0shop", "unix:@shop"),
        (3, "fd://3"),
    ],
)
def test_address_is_as_people_write_it(address: tuple[str, int] | str | int, text: str) -> None:
    assert format_address(address) == text
