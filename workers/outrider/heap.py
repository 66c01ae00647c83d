"""What the worker asks of its memory: of the C library's allocator, and of Python's garbage collector."""

from __future__ import annotations

import gc

_LARGE_BLOCK = 4 << 20


def keep_freed_memory() -> None:
    """Have the C library's allocator keep what request bodies free, for the next ones.

    glibc gives the top of its heap back to the kernel once 128 KiB are free there, and a busy server takes it again at
    the price of a page fault for each 4 KiB. The limit becomes twice the largest block that was ever mapped on its own
    and freed. The block is never touched, so it costs no memory.
    """
    bytes(_LARGE_BLOCK)


def freeze_boot_objects() -> None:
    """Have the garbage collector leave alone what the boot has made: modules, classes, routes.

    They live as long as the worker. A full collection would walk over all of them, which holds the loop up for 20 ms
    with a small application and for far longer with a large one, while requests wait.
    """
    gc.collect()
    gc.freeze()
