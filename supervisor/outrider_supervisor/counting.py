"""Numbers with their noun."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """One worker, but two workers."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
