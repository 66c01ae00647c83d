"""Unmasking of what clients send (RFC 6455 §5.3): in C where `websockets` is installed, otherwise in Python."""

from __future__ import annotations

import importlib
from collections.abc import Callable

Unmask = Callable[[bytes, bytes], bytes]


def apply_mask_in_python(data: bytes, mask: bytes) -> bytes:
    """Combine `data` with the four bytes of `mask`, repeated, as two large numbers."""
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def _choose() -> Unmask:
    try:
        speedups = importlib.import_module("websockets.speedups")
    except ImportError:
        return apply_mask_in_python
    found: Unmask = speedups.apply_mask
    return found


apply_mask = _choose()
