"""Replay loads through scaling rules: ``python tests/bench/autoscale --help``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    bench = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(bench), str(bench.parent / "support")]
    from autoscale.run import main

    sys.exit(main())
