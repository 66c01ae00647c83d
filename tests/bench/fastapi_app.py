"""The FastAPI application of the JSON load.

Apart from the raw applications, so that FastAPI's memory is not in their figures.
"""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/json")
async def greet() -> dict[str, str]:
    """Return one small object."""
    return {"message": "Hello, World!"}
