"""A service as the supervisor knows it, for tests that care about few of its fields."""

from __future__ import annotations

import os
from typing import Any

from outrider_supervisor.service import Service

_FIELDS: dict[str, Any] = {
    "name": "shop",
    "application": "app:app",
    "worker_class": "outrider.UvicornWorker",
    "reports_state": True,
    "addresses": (("127.0.0.1", 0),),
    "backlog": 16,
    "umask": 0,
    "uid": os.geteuid(),
    "gid": os.getegid(),
    "workers": 2,
    "graceful_timeout": 30.0,
    "boot_timeout": 60.0,
    "canary": True,
    "canary_seconds": 5.0,
    "canary_requests": 20,
    "max_surge": 1,
    "restart_intensity": 10,
    "max_requests": 0,
    "max_requests_jitter": 0,
    "max_worker_age": 0.0,
    "max_worker_memory": 0,
    "preload": False,
    "directory": "/",
    "pidfile": None,
    "errorlog": "-",
    "loglevel": "info",
}


def make_service(**fields: Any) -> Service:
    """A service with these fields, and ordinary ones for the rest."""
    return Service(**{**_FIELDS, **fields})
