"""Validation of the values of Outrider's settings."""

from __future__ import annotations

import math

import pytest

from outrider import setting_values as check


@pytest.mark.parametrize("value,expected", [(0, 0.0), (2, 2.0), (0.5, 0.5), ("1.5", 1.5), (" 3 ", 3.0), ("1e1", 10.0)])
def test_seconds_accepts_number(value: object, expected: float) -> None:
    assert check.seconds(value) == expected
    assert type(check.seconds(value)) is float


@pytest.mark.parametrize("value", [-1, "-0.1", "abc", "", None, True, math.inf, math.nan, "inf", "nan", [], 10**400])
def test_seconds_refuses_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="a number of seconds, 0 or more"):
        check.seconds(value)


@pytest.mark.parametrize("value,expected", [(0, 0), (240, 240), ("16", 16)])
def test_count_accepts_whole_number(value: object, expected: int) -> None:
    assert check.count(value) == expected


@pytest.mark.parametrize("value", [-1, "-1", "1.5", 1.5, "many", None, True])
def test_count_refuses_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="a whole number, 0 or more"):
        check.count(value)


@pytest.mark.parametrize("value", [True, "true", "True", " YES ", "on", "1"])
def test_boolean_accepts_true(value: object) -> None:
    assert check.boolean(value) is True


@pytest.mark.parametrize("value", [False, "false", "no", "OFF", "0"])
def test_boolean_accepts_false(value: object) -> None:
    assert check.boolean(value) is False


@pytest.mark.parametrize("value", ["", "2", "maybe", None, 1, 0, []])
def test_boolean_refuses_other_values(value: object) -> None:
    with pytest.raises(ValueError, match="true or false"):
        check.boolean(value)


@pytest.mark.parametrize("value", ["", "/", "/health?deep=1", "/a%20b"])
def test_probe_path_accepts_path(value: str) -> None:
    assert check.probe_path(value) == value


@pytest.mark.parametrize("value", ["health", "/a b", "/a\r\nb", "/ä", "/a#b", None, 1, "http://x/"])
def test_probe_path_refuses_other_values(value: object) -> None:
    with pytest.raises(ValueError, match="a path that starts with /"):
        check.probe_path(value)


@pytest.mark.parametrize(
    "value,expected",
    [
        ("", ()),
        ([], ()),
        (["X-A: 1", "x-b:2 "], ((b"X-A", b"1"), (b"x-b", b"2"))),
        ("X-A: 1\nX-B: a, b", ((b"X-A", b"1"), (b"X-B", b"a, b"))),
        (("X-C: \xe9:x",), ((b"X-C", b"\xe9:x"),)),
        (["X-Empty:"], ((b"X-Empty", b""),)),
    ],
)
def test_response_headers_accepts_lines(value: object, expected: tuple[tuple[bytes, bytes], ...]) -> None:
    assert check.response_headers(value) == expected


@pytest.mark.parametrize(
    "value,message",
    [
        (None, "a list"),
        ({"X-A": "1"}, "a list"),
        ([("X-A", "1")], "which .* is not"),
        (["no colon"], "'no colon' is not"),
        (["X A: 1"], "token"),
        ([": 1"], "token"),
        (["X-A : 1"], "token"),
        (["X-A: 1\r\nX-B: 2"], "CR, LF or NUL"),
        (["X-A: \0"], "CR, LF or NUL"),
        (["X-A: \u20ac"], "Latin-1"),
        (["Content-Length: 5"], "other than Content-Length"),
        (["transfer-encoding: chunked"], "other than transfer-encoding"),
        (["Connection: close"], "other than Connection"),
    ],
)
def test_response_headers_refuses_bad_line(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check.response_headers(value)


def test_secret_accepts_text_and_does_not_show_it() -> None:
    secret = check.secret("a b")
    assert secret == "a b"
    assert secret.encode() == b"a b"
    assert f"{secret} {secret!r} {secret!s}" == "*** *** ***"
    assert f"{check.secret('')}" == ""


def test_secret_refuses_other_values() -> None:
    with pytest.raises(ValueError, match="a string"):
        check.secret(b"a b")


@pytest.mark.parametrize(
    "value,expected",
    [
        ([], ()),
        ("", ()),
        ("both.pem", (("both.pem", "both.pem"),)),
        ("a.crt,a.key\nboth.pem", (("a.crt", "a.key"), ("both.pem", "both.pem"))),
        (["a.crt,a.key", "both.pem"], (("a.crt", "a.key"), ("both.pem", "both.pem"))),
        ([("a.crt", "a.key"), ["both.pem"]], (("a.crt", "a.key"), ("both.pem", "both.pem"))),
        ((("a,b.crt", "a.key"),), (("a,b.crt", "a.key"),)),
    ],
)
def test_certificates_accepts_paths(value: object, expected: tuple[tuple[str, str], ...]) -> None:
    assert check.certificates(value) == expected


@pytest.mark.parametrize(
    "value", [None, {"a": "b"}, [None], ["a,b,c"], [",a"], ["a,"], [("a", "b", "c")], [()], [(1, 2)]]
)
def test_certificates_refuses_other_values(value: object) -> None:
    with pytest.raises(ValueError, match='a list of "CERTFILE" or "CERTFILE,KEYFILE" strings'):
        check.certificates(value)
