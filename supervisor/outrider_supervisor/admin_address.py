"""The address of the admin endpoint: what it may be, and whether other machines can reach it."""

from __future__ import annotations

import ipaddress
import re

_FORM = re.compile(r"unix:(?://)?(?P<path>[^\0]+)|(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_MOST_PORT = 0xFFFF


def parse_address(text: str) -> tuple[str, int] | str:
    """Read `host:port`, `[ipv6]:port` or `unix:path`: host and port, or a path.

    Raises:
        ValueError: it is something else.
    """
    match = _FORM.fullmatch(text)
    if match is None or (match["port"] and int(match["port"]) > _MOST_PORT):
        raise ValueError("empty, host:port (such as 127.0.0.1:9100 or [::1]:9100), or unix:PATH")
    return match["path"] or (match["host"].strip("[]"), int(match["port"]))


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine and nothing else; of names that is said of localhost alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_private(text: str) -> bool:
    """Whether only this machine can reach an address."""
    address = parse_address(text)
    return isinstance(address, str) or is_loopback(address[0])
