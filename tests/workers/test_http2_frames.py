"""What is demanded of frame headers beyond what libnghttp2 sees to."""

from __future__ import annotations

import pytest

from outrider.http2_engine import ErrorCode
from outrider.http2_frames import FRAMES_PER_TURN, MOST_GAPS, MOST_RESETS, PREFACE, FrameWatch, Violation

DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION = 0, 1, 2, 3, 9


def frame(kind: int, stream: int, length: int = 5) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, 0)) + stream.to_bytes(4, "big") + bytes(length)


def check(
    *frames: bytes, size: int = 0, largest: int = 16384, open_streams: tuple[int, ...] = (1, 3, 5, 7)
) -> Violation | None:
    watch = FrameWatch(largest, open_streams)
    data = bytes(PREFACE) + b"".join(frames)
    size = size or len(data)
    for position in range(0, len(data), size):
        violation = watch.check(data[position : position + size])
        if violation is not None:
            assert 0 <= violation.position <= size
            return violation
        watch.settled = max(open_streams, default=1)
    return None


@pytest.mark.parametrize("size", [0, 1, 2, 7, 9, 10, 24, 33])
def test_frames_are_followed_however_they_are_split(size: int) -> None:
    good = (frame(HEADERS, 1), frame(DATA, 1, 0), frame(DATA, 1, 100), frame(HEADERS, 3, 0), frame(PRIORITY, 5))
    assert check(*good, size=size) is None
    violation = check(*good, frame(PRIORITY, 0), size=size)
    assert violation is not None
    assert violation.code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("reserved", [0, 1 << 31])
def test_stream_that_was_skipped_may_not_be_opened(reserved: int) -> None:
    assert check(frame(HEADERS, 1), frame(HEADERS, 7), frame(HEADERS, 9)) is None
    for skipped in (3, 5):
        opened = frame(HEADERS, 1), frame(HEADERS, 7)
        violation = check(*opened, frame(HEADERS, skipped | reserved), size=14, open_streams=(1, 7))
        assert violation is not None
        assert violation.code == ErrorCode.PROTOCOL_ERROR
    assert check(frame(HEADERS, 5), frame(HEADERS, 1), size=14, open_streams=(5,)) is not None


def test_trailers_of_a_stream_that_was_open_are_no_violation() -> None:
    assert check(frame(HEADERS, 1), frame(HEADERS, 7), frame(HEADERS, 9), frame(HEADERS, 7), frame(HEADERS, 1)) is None


def test_what_is_remembered_of_skipped_streams_has_a_bound() -> None:
    watch = FrameWatch(16384, ())
    watch.check(bytes(PREFACE))
    for number in range(1, 10_000, 4):
        watch.frames_left = FRAMES_PER_TURN
        watch.check(frame(HEADERS, number))
    assert len(watch._gaps) == MOST_GAPS


@pytest.mark.parametrize("length, is_allowed", [(20_000, True), (20_001, False)])
def test_continuation_is_held_to_the_frame_size(length: int, is_allowed: bool) -> None:
    violation = check(frame(HEADERS, 1), frame(CONTINUATION, 1, length), largest=20_000)
    assert (violation is None) is is_allowed
    assert violation is None or violation.code == ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize("kind", [DATA, HEADERS])
def test_stream_that_has_ended_takes_nothing_more(kind: int) -> None:
    violation = check(frame(HEADERS, 1), frame(kind, 1), size=14, open_streams=())
    assert violation is not None
    assert violation.code == ErrorCode.STREAM_CLOSED


@pytest.mark.parametrize("kind", [DATA, HEADERS])
@pytest.mark.parametrize("settled", [0, 1])
def test_stream_that_the_client_has_reset_is_late_to_take_more(kind: int, settled: int) -> None:
    watch = FrameWatch(16384, ())
    assert watch.check(bytes(PREFACE) + frame(HEADERS, 1)) is None
    watch.settled = settled
    assert watch.check(frame(RST_STREAM, 1, 4) + frame(kind, 1)) is None
    assert watch.late == [1]


def test_stream_that_the_server_has_reset_may_take_what_was_on_its_way() -> None:
    watch = FrameWatch(16384, ())
    watch.check(bytes(PREFACE) + frame(HEADERS, 1))
    watch.settled = 1
    watch.forgive(1)
    assert watch.check(frame(DATA, 1) + frame(HEADERS, 1)) is None
    assert watch.late == []


def test_resets_that_are_remembered_have_a_bound() -> None:
    watch = FrameWatch(16384, ())
    watch.check(bytes(PREFACE))
    for number in range(1, 4 * MOST_RESETS, 2):
        watch.frames_left = FRAMES_PER_TURN
        watch.check(frame(HEADERS, number) + frame(RST_STREAM, number, 4))
        watch.forgive(number)
    assert len(watch._cancelled) == MOST_RESETS
    assert not watch._forgiven


@pytest.mark.parametrize("size", [1, 5, 9, 14, 33, 10_000, 1 << 20])
@pytest.mark.parametrize("length", [0, 1, 60])
def test_no_more_frames_are_looked_at_than_one_turn_may_have(size: int, length: int) -> None:
    watch = FrameWatch(16384, (1,))
    frames = frame(DATA, 1, length) * (2 * FRAMES_PER_TURN + 1)
    stream = bytes(PREFACE) + frame(HEADERS, 1, 0) + frames + frame(PRIORITY, 0)
    at = 0
    turns = 1
    while (violation := watch.check(stream[at : at + size])) is None:
        at += watch.taken
        if not watch.frames_left:
            assert at == PREFACE + 9 + (9 + length) * (turns * FRAMES_PER_TURN - 1) or size < 9 + length
            watch.frames_left = FRAMES_PER_TURN
            turns += 1
    assert turns == 3
    assert abs(at + violation.position - (len(stream) - 14)) < 9
