"""The table in a memory file: what is shared, and what is refused."""

from __future__ import annotations

import os

import pytest

from outrider.errors import ConfigurationError
from outrider.scoreboard import Scoreboard
from outrider.scoreboard_memory import LAYOUT_VERSION, ROW_SIZE

VERSION_AT, ROW_SIZE_AT, ROWS_AT = 8, 16, 24
"""Bytes from the beginning."""


def test_two_openers_of_memory_file_share_table(memory_file: int) -> None:
    writer = Scoreboard.create_in(memory_file, rows=5)
    reader = Scoreboard.from_descriptor(memory_file)
    writer.claim(generation=9)
    assert reader.capacity == 5
    assert [snapshot.generation for snapshot in reader.rows()] == [9]


def test_scoreboard_outlives_descriptor_it_was_opened_from() -> None:
    descriptor = os.memfd_create("scoreboard")
    board = Scoreboard.create_in(descriptor, rows=2)
    os.close(descriptor)
    assert board.claim().index == 0


def test_scoreboard_refuses_closed_descriptor() -> None:
    descriptor = os.memfd_create("scoreboard")
    os.close(descriptor)
    with pytest.raises(ConfigurationError, match=rf"descriptor {descriptor}: it cannot be mapped \(Bad file"):
        Scoreboard.from_descriptor(descriptor)


def test_scoreboard_refuses_empty_file(memory_file: int) -> None:
    with pytest.raises(ConfigurationError, match="cannot mmap an empty file"):
        Scoreboard.from_descriptor(memory_file)


@pytest.mark.parametrize("content", [b"x", b"x" * ROW_SIZE, b"OUTRIDER", b"x" * 1000])
def test_scoreboard_refuses_foreign_file(memory_file: int, content: bytes) -> None:
    os.write(memory_file, content)
    with pytest.raises(ConfigurationError, match="holds no scoreboard; allowed is"):
        Scoreboard.from_descriptor(memory_file)


@pytest.mark.parametrize(
    "offset, value, reason",
    [
        (VERSION_AT, LAYOUT_VERSION + 1, f"its layout is version {LAYOUT_VERSION + 1} with rows of {ROW_SIZE} bytes"),
        (ROW_SIZE_AT, 128, f"its layout is version {LAYOUT_VERSION} with rows of 128 bytes"),
        (ROWS_AT, 6, "it is too short for its 6 rows"),
    ],
)
def test_scoreboard_refuses_other_layout(memory_file: int, offset: int, value: int, reason: str) -> None:
    Scoreboard.create_in(memory_file, rows=5)
    os.pwrite(memory_file, value.to_bytes(8, "little"), offset)
    with pytest.raises(ConfigurationError, match=reason) as raised:
        Scoreboard.from_descriptor(memory_file)
    assert "\n" not in str(raised.value)
