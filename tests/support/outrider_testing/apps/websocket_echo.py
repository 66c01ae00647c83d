"""What the WebSockets of Starlette and FastAPI do; those of Channels do the same."""

from __future__ import annotations

from starlette.websockets import WebSocket

SUBPROTOCOL = "echo.example"


async def echo_messages(websocket: WebSocket) -> None:
    """Send every message back; "bye" closes the connection with 4001 and "see you"."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    while (message := await websocket.receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text == "bye":
            await websocket.close(4001, "see you")
            return
        if text is not None:
            await websocket.send_text(text)
        else:
            await websocket.send_bytes(message["bytes"])
