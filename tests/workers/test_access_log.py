"""The access log: the same lines as gunicorn's own logger writes, and every way to replace it."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger, SafeAtoms
from gunicorn.instrument.statsd import Statsd

from outrider.access_log import AccessLog, RequestView, ResponseView, request_environ
from outrider.errors import ConfigurationError

COMBINED = Config().access_log_format


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "[21/Nov/2026:12:00:00 +0000]")


@pytest.fixture(autouse=True)
def clean_loggers() -> Iterator[None]:
    yield
    for name in ("gunicorn.access", "gunicorn.error"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.disabled = False


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    cfg = Config()
    cfg.set("accesslog", str(tmp_path / "access.log"))
    cfg.set("errorlog", str(tmp_path / "error.log"))
    return cfg


def make_scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.1", 50000),
        "server": ("127.0.0.1", 8000),
        **changes,
    }


def write(access_log: AccessLog, scope: dict[str, Any] | None = None, status: int = 200) -> None:
    access_log.write(scope or make_scope(), status, RESPONSE_HEADERS, 13, 1_234_567)


def lines_of(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


RESPONSE_HEADERS = [(b"Content-Type", b"text/plain"), (b"X-Quote", b'"')]
SCOPES = [
    make_scope(),
    make_scope(
        method="POST",
        path="/caf\xe9/\n",
        raw_path=b"/caf%C3%A9/%0A",
        query_string=b'a=%20&b="c"',
        http_version="1.0",
        client=None,
        headers=[
            (b"user-agent", b'Agent "X" \xe9'),
            (b"referer", b'http://example.org/"'),
            (b"authorization", b"Basic d2FsdGVyOnNlY3JldA=="),
            (b"x-twice", b"1"),
            (b"x-twice", b"2"),
        ],
    ),
    make_scope(headers=[(b"authorization", b"Basic %%%"), (b"user-agent", b"")], client=("::1", 1)),
    make_scope(headers=[(b"authorization", b"Bearer abc"), (b"authorization", b"Basic OnB3")]),
]
FORMATS = [
    COMBINED,
    *[f"%({atom})s" for atom in "hlutrsmUqHbBfaTDMLp"],
    "%({x-twice}i)s",
    "%({X-Twice}I)s",
    "%({user-agent}i)s",
    "%({content-type}o)s",
    "%({X-Quote}o)s",
    "%({request_method}e)s",
    "%({HTTP_REFERER}e)s",
    "%({remote_port}e)s",
    "%({script_name}e)s|%({none}e)s|%({none}i)s|%({none}o)s",
    "%(none)s %(h)10s|%(m)-8s|%(T)05d|%(D)d|%(B)x",
    "100%% %(s)s",
    "nothing in it",
    '{"status": %(s)s, "path": "%(U)s", "agent": "%(a)s", "took": %(L)s}',
]


@pytest.mark.parametrize("text", FORMATS)
def test_line_is_the_one_gunicorn_writes(cfg: Any, text: str) -> None:
    cfg.set("access_log_format", text)
    log = Logger(cfg)
    access_log = AccessLog(log, cfg)
    for scope in SCOPES:
        write(access_log, scope)
        log.access(
            ResponseView(200, RESPONSE_HEADERS, 13),
            RequestView(scope),
            request_environ(scope),
            timedelta(microseconds=1_234_567),
        )
    lines = lines_of(cfg.accesslog)
    assert len(lines) == 2 * len(SCOPES)
    assert lines[::2] == lines[1::2]


def test_record_differs_from_gunicorns_only_in_line_number(cfg: Any) -> None:
    log = Logger(cfg)
    records: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        records.append(record)
        return True

    log.access_log.addFilter(keep)
    try:
        write(AccessLog(log, cfg))
        log.access(
            ResponseView(200, RESPONSE_HEADERS, 13),
            RequestView(make_scope()),
            request_environ(make_scope()),
            timedelta(microseconds=1_234_567),
        )
    finally:
        log.access_log.filters.clear()
    ours, stock = records
    for name in ("name", "levelno", "pathname", "funcName", "process", "thread", "msg", "exc_info"):
        assert getattr(ours, name) == getattr(stock, name)
    assert dict(ours.args or {}) == dict(stock.args or {})  # type: ignore[arg-type]  # a mapping, given alone


def test_filter_drops_line(cfg: Any) -> None:
    log = Logger(cfg)
    log.access_log.addFilter(lambda record: record.args["U"] != "/health")
    try:
        access_log = AccessLog(log, cfg)
        write(access_log, make_scope(path="/health"))
        write(access_log, make_scope(path="/other"))
    finally:
        log.access_log.filters.clear()
    assert len(lines_of(cfg.accesslog)) == 1


def test_level_switches_lines_off(cfg: Any) -> None:
    log = Logger(cfg)
    log.access_log.setLevel(logging.WARNING)
    write(AccessLog(log, cfg))
    assert lines_of(cfg.accesslog) == []


def test_logger_of_another_class_gets_call_of_info(cfg: Any) -> None:
    class Recorder(logging.Logger):
        def __init__(self) -> None:
            super().__init__("recorder")
            self.messages: list[str] = []

        def info(self, msg: object, *args: Any, **_: Any) -> None:
            self.messages.append(str(msg) % args[0])

    log = Logger(cfg)
    log.access_log = Recorder()
    write(AccessLog(log, cfg))
    assert log.access_log.messages == ['192.0.2.1 - - [21/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 13 "-" "-"']


# -- when it is on


@pytest.mark.parametrize(
    "settings,enabled",
    [
        ({}, False),
        ({"accesslog": "-"}, True),
        ({"syslog": True}, True),
        ({"syslog": True, "disable_redirect_access_to_syslog": True}, False),
        ({"logconfig_dict": {"version": 1}}, True),
        ({"logconfig": "log.ini"}, True),
        ({"logconfig_json": "log.json"}, True),
    ],
)
def test_settings_switch_log_on(settings: dict[str, Any], enabled: bool) -> None:
    cfg = Config()
    log = Logger(cfg)
    for name, value in settings.items():
        cfg.set(name, value)
    assert AccessLog(log, cfg).enabled is enabled


def test_log_follows_settings_changed_after_the_logger_was_made(cfg: Any) -> None:
    log = Logger(cfg)
    cfg.set("accesslog", None)
    assert not AccessLog(log, cfg).enabled


def test_bad_format_is_refused(cfg: Any) -> None:
    cfg.set("access_log_format", "%(h)")
    with pytest.raises(ConfigurationError, match="access_log_format"):
        AccessLog(Logger(cfg), cfg)


# -- statsd


@pytest.fixture
def statsd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "statsd"))
        receiver.settimeout(5)
        yield receiver


def datagrams(receiver: socket.socket) -> list[bytes]:
    receiver.setblocking(False)
    found = []
    while True:
        try:
            found.append(receiver.recv(1000))
        except BlockingIOError:
            return found


def test_statsd_gets_the_metrics_gunicorn_sends(cfg: Any, statsd: socket.socket) -> None:
    cfg.set("statsd_host", f"unix://{statsd.getsockname()}")
    cfg.set("statsd_prefix", "app")
    log = Statsd(cfg)
    try:
        write(AccessLog(log, cfg), status=404)
        ours = datagrams(statsd)
        log.access(
            ResponseView(404, RESPONSE_HEADERS, 13),
            RequestView(make_scope()),
            request_environ(make_scope()),
            timedelta(microseconds=1_234_567),
        )
        assert ours == datagrams(statsd)
        assert ours[0] == b"app.gunicorn.request.duration:1234.567|ms"
    finally:
        log.sock.close()
    first, second = lines_of(cfg.accesslog)
    assert first == second


def test_statsd_gets_metrics_without_lines(statsd: socket.socket) -> None:
    cfg = Config()
    cfg.set("statsd_host", f"unix://{statsd.getsockname()}")
    log = Statsd(cfg)
    try:
        access_log = AccessLog(log, cfg)
        assert access_log.enabled
        write(access_log)
        assert len(datagrams(statsd)) == 3
    finally:
        log.sock.close()


# -- loggers of the user


class Call:
    """The arguments of one call of `access`."""

    def __init__(self, resp: Any, req: Any, environ: Any, request_time: timedelta) -> None:
        self.resp = resp
        self.req = req
        self.environ = environ
        self.request_time = request_time


class OwnLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    calls: list[Call]

    def access(self, resp: Any, req: Any, environ: Any, request_time: timedelta) -> None:
        self.calls = [Call(resp, req, environ, request_time)]


def test_own_logger_gets_gunicorns_arguments() -> None:
    cfg = Config()
    log = OwnLogger(cfg)
    access_log = AccessLog(log, cfg)
    assert access_log.enabled
    write(access_log, make_scope(path="/x", raw_path=b"/x"))
    (call,) = log.calls
    assert call.resp.status == "200 OK"
    assert call.resp.sent == 13
    assert call.req.method == "GET"
    assert call.environ["PATH_INFO"] == "/x"
    assert call.request_time == timedelta(microseconds=1_234_567)


class OwnAtoms(SafeAtoms):  # type: ignore[misc]  # gunicorn has no types
    pass


@pytest.mark.parametrize(
    "member,value",
    [
        ("atoms", lambda *_: {"h": "own"}),
        ("atoms_wrapper_class", OwnAtoms),
        ("now", lambda _: "[own]"),
        ("access_log_enabled", property(lambda _: True)),
        ("_get_user", lambda *_: "own"),
    ],
)
def test_overridden_part_of_logger_is_used(cfg: Any, member: str, value: object) -> None:
    log = type("Own", (Logger,), {member: value})(cfg)
    access_log = AccessLog(log, cfg)
    assert access_log._format is None
    write(access_log)
    assert len(lines_of(cfg.accesslog)) == 1


def test_logger_replaced_on_the_instance_is_used(cfg: Any) -> None:
    log = Logger(cfg)
    calls: list[Any] = []
    log.access = lambda *args: calls.append(args)
    write(AccessLog(log, cfg))
    assert len(calls) == 1


def test_logger_without_dict_is_used() -> None:
    class Slotted:
        __slots__ = ("count",)

        def access(self, *_: Any) -> None:
            self.count = 1

    log = Slotted()
    write(AccessLog(log, Config()))
    assert log.count == 1


def test_failing_logger_does_not_raise(cfg: Any) -> None:
    class Failing(Logger):  # type: ignore[misc]  # gunicorn has no types
        def access(self, *_: Any) -> None:
            raise LookupError("no such atom")

    write(AccessLog(Failing(cfg), cfg))
    text = "\n".join(lines_of(cfg.errorlog))
    assert "Could not write the access log" in text
    assert "no such atom" in text
