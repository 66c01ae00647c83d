"""Unmasking, with and without `websockets`."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from outrider import websocket_mask
from outrider.websocket_mask import apply_mask_in_python


@pytest.mark.parametrize("size", [*range(10), 125, 126, 65537])
def test_mask_is_applied_octet_by_octet(size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    mask = b"\x00\x01\x80\xff"
    assert apply_mask_in_python(data, mask) == bytes(octet ^ mask[at % 4] for at, octet in enumerate(data))


def test_speedups_are_used_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    speedups = ModuleType("websockets.speedups")
    speedups.apply_mask = max  # type: ignore[attr-defined]  # any function will do
    monkeypatch.setitem(sys.modules, "websockets", ModuleType("websockets"))
    monkeypatch.setitem(sys.modules, "websockets.speedups", speedups)
    assert websocket_mask._choose() is max


def test_python_does_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    assert websocket_mask._choose() is apply_mask_in_python
