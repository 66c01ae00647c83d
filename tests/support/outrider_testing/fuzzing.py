"""What the fuzz tests share: how many examples they try, how bytes are damaged and how they are cut."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# `make fuzz` asks for many times as many, and for other ones each time.
EXAMPLES = int(os.environ.get("OUTRIDER_FUZZ", "0"))

FUZZ = settings(
    max_examples=EXAMPLES or 100,
    deadline=None,
    derandomize=not EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def damaged(draw: st.DrawFn, octets: bytes, alphabet: bytes = bytes(range(256))) -> bytes:
    """The same, most often, or with a few octets changed."""
    data = bytearray(octets)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3])) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from(alphabet))
    return bytes(data)


def cut(draw: st.DrawFn, octets: bytes, most: int = 8) -> list[bytes]:
    """The same in pieces, some of them perhaps empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(octets)), max_size=most)))
    return [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
