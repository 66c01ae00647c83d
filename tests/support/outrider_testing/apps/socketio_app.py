"""A Socket.IO server that sends events back."""

from __future__ import annotations

import socketio

server = socketio.AsyncServer(async_mode="asgi")


async def repeat(sid: str, data: object) -> object:
    """Send the event back, and acknowledge it with its data."""
    await server.emit("repeated", data, to=sid)
    return data


server.on("repeat", repeat)
app = socketio.ASGIApp(server)
