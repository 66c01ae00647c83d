"""Check a server's answer to a load, over the protocol of the load."""

from __future__ import annotations

import contextlib

import h2load
from address import Address, Client
from loads import Feature, Load
from websocket_wire import WebSocket


def check(address: Address, load: Load, times: int = 1) -> str:
    """Make up to ``times`` requests on one connection and return what is wrong with an answer, or the empty string.

    Raises:
        OSError, http.client.HTTPException: no answer.

    """
    if Feature.HTTP2 in load.needs:
        return h2load.check(load, address, times)
    client = WebSocket(address, load) if load.is_websocket else Client(address, load)
    with contextlib.closing(client):
        return next(filter(None, (client.check() for _ in range(times))), "")
