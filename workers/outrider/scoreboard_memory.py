"""The shared memory of a scoreboard: its layout, and how it is made and opened.

Layout, version 2. All words are unsigned 64 bit in native byte order. Block 0 is the header, block 1 what workers that
are gone have counted; block n + 2 is row n.

    header   magic "OUTRIDER" | version | bytes per row | rows | high-water mark | reserved ...
    row      the words of `scoreboard.Field`, in order | reserved ... | the cells of `meters`

The high-water mark is the number of rows ever claimed; rows at and above it have never been written.
"""

from __future__ import annotations

import mmap
import os

from outrider.errors import ConfigurationError
from outrider.meters import CELLS

LAYOUT_VERSION = 2
METERS_FROM = 64
"""First word of a row's meters; those before are for fields."""
ROW_WORDS = METERS_FROM + CELLS
ROW_SIZE = 8 * ROW_WORDS
"""Bytes of a block."""
FIRST_ROW = 2 * ROW_WORDS

_MAGIC_AT, _VERSION_AT, _ROW_SIZE_AT, ROWS_AT, HIGH_WATER_AT = range(5)
_MAGIC = int.from_bytes(b"OUTRIDER", "little")


def make_shared(rows: int) -> memoryview[int]:
    """Make a table that this process and those it forks share. Memory is used per row that is written only."""
    words = memoryview(mmap.mmap(-1, _size_of(rows), mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)).cast("Q")
    _write_header(words, rows)
    return words


def make_in(descriptor: int, rows: int) -> None:
    """Make a table in an empty memory file, for processes that `open_table`."""
    os.ftruncate(descriptor, _size_of(rows))
    with mmap.mmap(descriptor, _size_of(rows)) as memory, memoryview(memory).cast("Q") as words:
        _write_header(words, rows)


def open_table(descriptor: int) -> memoryview[int]:
    """Map the table in a memory file.

    Raises:
        ConfigurationError: the descriptor is not open, not a table, or one of another layout.
    """
    try:
        memory = mmap.mmap(descriptor, 0)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unusable(descriptor, f"it cannot be mapped ({reason})") from error
    # A size that is not whole words cannot be cast; it cannot be a table either.
    whole = len(memory) - len(memory) % ROW_SIZE
    words = memoryview(memory)[:whole].cast("Q")
    if whole < ROW_SIZE or words[_MAGIC_AT] != _MAGIC:
        raise _unusable(descriptor, "it holds no scoreboard")
    layout = (words[_VERSION_AT], words[_ROW_SIZE_AT])
    if layout != (LAYOUT_VERSION, ROW_SIZE):
        raise _unusable(descriptor, f"its layout is version {layout[0]} with rows of {layout[1]} bytes")
    if whole < _size_of(words[ROWS_AT]):
        raise _unusable(descriptor, f"it is too short for its {words[ROWS_AT]} rows")
    return words


def make_private_row() -> memoryview[int]:
    """Make an empty row that is in no table."""
    return memoryview(bytearray(ROW_SIZE)).cast("Q")


def _size_of(rows: int) -> int:
    return ROW_SIZE * (2 + rows)


def _write_header(words: memoryview[int], rows: int) -> None:
    words[_VERSION_AT] = LAYOUT_VERSION
    words[_ROW_SIZE_AT] = ROW_SIZE
    words[ROWS_AT] = rows
    words[HIGH_WATER_AT] = 0
    # Last: whoever sees the magic sees a whole header.
    words[_MAGIC_AT] = _MAGIC


def _unusable(descriptor: int, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"scoreboard descriptor {descriptor}: {reason}; allowed is the table of a supervisor of this version "
        f"(layout {LAYOUT_VERSION}, rows of {ROW_SIZE} bytes)"
    )
