"""An application module that exists and imports one that does not."""

from __future__ import annotations

import importlib

importlib.import_module("a_dependency_that_is_not_installed")
