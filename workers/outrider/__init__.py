"""Outrider: a gunicorn worker that serves ASGI applications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider.worker import UvicornWorker

__all__ = ["UvicornWorker", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the worker on first use: reading `__version__` or a leaf module needs no gunicorn and no uvloop."""
    if name == "UvicornWorker":
        from outrider.worker import UvicornWorker  # noqa: PLC0415  # that is the point

        return UvicornWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
