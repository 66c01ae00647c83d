"""The application of the examples. Put yours in its place."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI(title="shop")


@app.get("/")
async def index() -> dict[str, str]:
    """Say hello."""
    return {"message": "Hello from the shop"}
