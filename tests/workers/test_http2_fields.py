"""Fields of HTTP/2 responses."""

from __future__ import annotations

import pytest

from outrider import http2_fields
from outrider.http1_encoding import DefaultHeaders, InvalidResponse, Kind
from outrider.http2_fields import DefaultFields, encode_fields


def test_fields_are_in_lower_case_and_without_white_space_around() -> None:
    assert encode_fields([(b"X-A", b" b: c "), (b"empty", b"")])[0] == ((b"x-a", b"b: c"), (b"empty", b""))


def test_content_length_and_default_fields_are_found() -> None:
    fields, length, _, given = encode_fields([(b"Content-Length", b"5"), (b"Date", b"today")])
    assert fields == ((b"content-length", b"5"), (b"date", b"today"))
    assert (length, given) == (5, Kind.DATE)


def test_memoryviews_are_fields_and_are_not_kept() -> None:
    header = (memoryview(b"x-view"), memoryview(b"v"))
    assert encode_fields([header])[0] == ((b"x-view", b"v"),)  # type: ignore[list-item]  # ASGI says byte strings
    parts: list[object] = [part for known in http2_fields._known_sets for pair in known for part in pair]
    assert not any(isinstance(part, memoryview) for part in parts)


def test_sets_that_repeat_are_encoded_once() -> None:
    assert encode_fields([(b"x-once", b"1")]) is encode_fields([(b"x-once", b"1")])


def test_sets_that_are_kept_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_fields, "_CACHED_SETS", 3)
    for number in range(10):
        encode_fields([(b"x-number", b"%d" % number)])
    assert len(http2_fields._known_sets) <= 3


def test_large_sets_are_not_kept() -> None:
    assert encode_fields([(b"x", b"y" * 2000)]) is not encode_fields([(b"x", b"y" * 2000)])


@pytest.mark.parametrize("header", [(b"", b""), (b":status", b"200"), (b"a", b"\0"), (b"content-length", b"x"), b"a"])
def test_invalid_fields_are_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidResponse):
        encode_fields([header])


def test_default_fields_follow_the_default_headers() -> None:
    defaults = DefaultHeaders(server=True, date=True, extra=[(b"X-E", b"e")])
    fields = DefaultFields(defaults)
    assert dict(fields[0]).keys() == {b"x-e", b"server", b"date"}
    assert dict(fields[Kind.SERVER]).keys() == {b"x-e", b"date"}
    before = fields[0]
    assert fields[0] is before
    defaults.refresh(1000)
    assert fields[0] != before
