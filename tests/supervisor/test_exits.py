from __future__ import annotations

import pytest

from outrider_supervisor.exits import describe_exit, describe_worker_exit, split_complaint


@pytest.mark.parametrize(
    "status, sentence",
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-11, "was killed by SIGSEGV"),
        (-40, "was killed by signal 40"),
        (None, "is gone"),
    ],
)
def test_end_is_described(status: int | None, sentence: str) -> None:
    assert describe_exit(status) == sentence


@pytest.mark.parametrize(
    "status, sentence",
    [
        (1, "exited with code 1"),
        (3, "exited with code 3 (failed to boot)"),
        (4, "exited with code 4 (failed to load the application)"),
        (-9, "was killed by SIGKILL, perhaps out of memory"),
    ],
)
def test_end_of_a_worker_is_described_with_its_meaning(status: int, sentence: str) -> None:
    assert describe_worker_exit(status) == sentence


@pytest.mark.parametrize(
    "complaint, expected",
    [
        ("", ("", "")),
        ("no such file", ("no such file", "")),
        ("Traceback:\nKeyError: 1", ("KeyError: 1", "Traceback:\nKeyError: 1")),
    ],
)
def test_sentence_of_a_complaint_is_its_last_line(complaint: str, expected: tuple[str, str]) -> None:
    assert split_complaint(complaint) == expected
