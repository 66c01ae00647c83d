"""What a worker may hold next to the freest one."""

from __future__ import annotations

import pytest

from outrider.balance import LEAD, LEAD_PART, room_to_accept, surplus_to_shed


def test_worker_may_lead_by_a_few_and_a_part_of_its_own() -> None:
    assert room_to_accept(0, 0) == LEAD
    assert room_to_accept(LEAD, 0) == 0
    assert room_to_accept(10 * LEAD_PART, 10 * LEAD_PART) == LEAD + 10


@pytest.mark.parametrize("held,fewest", [(0, 0), (1, 0), (2, 1), (LEAD + 1, 1), (LEAD, 5), (50, 50), (40, 400)])
def test_worker_within_its_lead_sheds_nothing(held: int, fewest: int) -> None:
    assert surplus_to_shed(held, fewest) == 0


@pytest.mark.parametrize("held", [2, 3, LEAD])
def test_worker_that_holds_several_gives_one_to_who_has_none(held: int) -> None:
    assert surplus_to_shed(held, 0) == 1


def test_surplus_is_shed_in_parts() -> None:
    assert surplus_to_shed(LEAD + 2, 1) == 1
    assert surplus_to_shed(LEAD + 9, 1) == 2
    assert surplus_to_shed(400, 0) == 400 // 8 + 1


def test_shedding_ends_evenly_spread() -> None:
    """Three workers that hold all connections, a fourth that has just been started and gets what they shed."""
    held = [100, 100, 100, 0]
    for _ in range(40):
        fewest = min(held)
        for index, own in enumerate(held):
            shed = surplus_to_shed(own, min(held[:index] + held[index + 1 :]))
            held[index] -= shed
            held[held.index(min(held))] += shed
        if min(held) == fewest and fewest:
            break
    assert max(held) - min(held) <= LEAD + max(held) // LEAD_PART
