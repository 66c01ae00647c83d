from __future__ import annotations

import pytest

from outrider_supervisor.counting import count


@pytest.mark.parametrize("number, expected", [(0, "0 workers"), (1, "1 worker"), (2, "2 workers"), (10, "10 workers")])
def test_only_one_is_singular(number: int, expected: str) -> None:
    assert count(number, "worker") == expected
