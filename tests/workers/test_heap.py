"""The garbage collector leaves alone what the boot has made."""

from __future__ import annotations

import gc

from outrider.heap import freeze_boot_objects


class Cycle:
    """Something that only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


def cycles(objects: list[object]) -> list[object]:
    """Those that are a Cycle. Not isinstance(): that asks proxies for their class, and some cannot tell."""
    return [each for each in objects if type(each) is Cycle]


def test_boot_objects_are_frozen_and_boot_garbage_is_not_kept() -> None:
    kept = [Cycle()]
    Cycle()
    try:
        freeze_boot_objects()
        watched = gc.get_objects()
        assert gc.get_freeze_count() > 0
        assert not any(each is kept for each in watched)
        assert not cycles(watched)
    finally:
        gc.unfreeze()
    assert len(cycles(gc.get_objects())) == 1
    gc.freeze()  # again what the collection of tests has made
