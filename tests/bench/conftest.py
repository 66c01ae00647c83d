"""The benchmark is a directory that is run, not a package: put its modules in reach of their tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
