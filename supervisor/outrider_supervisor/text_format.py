"""Numbers and texts in the form that a terminal shows."""

from __future__ import annotations

from outrider_supervisor.service import Address

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_UNKNOWN = "-"


def format_duration(seconds: float | None) -> str:
    """The two largest units: 0.4s would be 0s, then 12s, 3m05s, 3h12m, 2d04h."""
    if seconds is None:
        return _UNKNOWN
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def format_count(number: int | None) -> str:
    """Three digits at least: 999, 1.2k, 46k, 3.1M. Thousands are thousands."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T"))


def format_size(size: int | None) -> str:
    """A number of bytes as 912B, 46M, 1.2G, in powers of 1024."""
    return _scaled(size, 1024, ("B", "K", "M", "G", "T"))


def format_milliseconds(milliseconds: float | None) -> str:
    """A short time: 0ms, 12ms, 1.4s."""
    if milliseconds is None:
        return _UNKNOWN
    return f"{milliseconds:.0f}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f}s"


def format_percent(percent: float | None) -> str:
    """A percentage without decimals."""
    return _UNKNOWN if percent is None else f"{percent:.0f}%"


def format_address(address: Address) -> str:
    """An address as 127.0.0.1:8000, unix:/run/app.sock, or fd://3."""
    if isinstance(address, int):
        return f"fd://{address}"
    if isinstance(address, str):
        return "unix:" + address.replace("\0", "@", 1)
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain(text: str) -> str:
    """The text without what would steer a terminal: it may come from an application, or from its clients."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def _scaled(number: int | None, base: int, units: tuple[str, ...]) -> str:
    if number is None:
        return _UNKNOWN
    value = float(number)
    for unit in units[:-1]:
        # What would be rounded up to the base is one of the next unit.
        if value < base - 0.5:
            return f"{value:.1f}{unit}" if value < 10 and unit != units[0] else f"{value:.0f}{unit}"
        value /= base
    return f"{value:.1f}{units[-1]}"
