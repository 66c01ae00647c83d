"""An application module that cannot be imported."""

from __future__ import annotations

message = "the application module fails on purpose"
raise ValueError(message)
