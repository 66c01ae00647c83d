"""Translation of CONFIG_KWARGS from uvicorn's worker."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from outrider.errors import ConfigurationError
from outrider.settings import load_settings
from outrider.uvicorn_kwargs import Translation, translate

# The parameters of uvicorn.Config.__init__ in 0.54 with their defaults: tests do without uvicorn.
UVICORN_CONFIG: dict[str, Any] = {
    "app": None,
    "host": "127.0.0.1",
    "port": 8000,
    "uds": None,
    "fd": None,
    "loop": "auto",
    "http": "auto",
    "http2": False,
    "ws": "auto",
    "ws_max_size": 16 * 1024 * 1024,
    "ws_max_queue": 32,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "ws_per_message_deflate": True,
    "lifespan": "auto",
    "env_file": None,
    "log_config": {"version": 1},
    "log_level": None,
    "access_log": True,
    "use_colors": None,
    "interface": "auto",
    "reload": False,
    "reload_dirs": None,
    "reload_delay": 0.25,
    "reload_includes": None,
    "reload_excludes": None,
    "workers": None,
    "proxy_headers": True,
    "server_header": True,
    "date_header": True,
    "forwarded_allow_ips": None,
    "root_path": "",
    "limit_concurrency": None,
    "limit_max_requests": None,
    "limit_max_requests_jitter": 0,
    "backlog": 2048,
    "timeout_keep_alive": 5,
    "timeout_notify": 30,
    "timeout_graceful_shutdown": None,
    "timeout_worker_healthcheck": 5,
    "callback_notify": None,
    "ssl_keyfile": None,
    "ssl_certfile": None,
    "ssl_keyfile_password": None,
    "ssl_version": ssl.PROTOCOL_TLS_SERVER,
    "ssl_cert_reqs": ssl.CERT_NONE,
    "ssl_ca_certs": None,
    "ssl_ciphers": None,
    "ssl_context_factory": None,
    "headers": None,
    "factory": False,
    "h11_max_incomplete_event_size": None,
    "reset_contextvars": False,
}


@pytest.mark.parametrize("name,default", UVICORN_CONFIG.items())
def test_every_keyword_of_uvicorn_is_known(name: str, default: object) -> None:
    try:
        translate({name: default})
    except ConfigurationError as error:
        assert "is no keyword" not in str(error)  # noqa: PT017  # a refusal by name is an answer, too


@pytest.mark.parametrize("name", UVICORN_CONFIG)
def test_none_is_not_given(name: str) -> None:
    assert translate({name: None}) == Translation({}, {}, [])


def test_no_keywords_are_nothing() -> None:
    assert translate({}) == Translation({}, {}, [])


def test_kwargs_of_uvicorn_workers_are_accepted() -> None:
    assert translate({"loop": "auto", "http": "auto"}) == Translation({"asgi_loop": "auto"}, {}, [])
    h11 = translate({"loop": "asyncio", "http": "h11"})
    assert h11.gunicorn == {"asgi_loop": "asyncio"}
    assert len(h11.notes) == 1
    assert h11.notes[0].startswith("http='h11': ")


@pytest.mark.parametrize(
    "name,value,setting,expected",
    [
        ("loop", "uvloop", "asgi_loop", "uvloop"),
        ("loop", "none", "asgi_loop", "asyncio"),
        ("ws_max_size", 1024, "websocket_max_message_size", 1024),
        ("lifespan", "on", "asgi_lifespan", "on"),
        ("log_level", "WARNING", "loglevel", "warning"),
        ("log_level", 40, "loglevel", "error"),
        ("log_level", "trace", "loglevel", "debug"),
        ("log_level", 5, "loglevel", "debug"),
        ("access_log", False, "accesslog", None),
        ("access_log", False, "disable_redirect_access_to_syslog", True),
        ("proxy_headers", False, "forwarded_allow_ips", []),
        ("forwarded_allow_ips", "10.0.0.1, ::1", "forwarded_allow_ips", ["10.0.0.1", "::1"]),
        ("forwarded_allow_ips", ["10.0.0.0/8", "*"], "forwarded_allow_ips", ["10.0.0.0/8", "*"]),
        ("root_path", "/api", "root_path", "/api"),
        ("limit_max_requests", 1000, "max_requests", 1000),
        ("limit_max_requests_jitter", 50, "max_requests_jitter", 50),
        ("timeout_keep_alive", 65, "keepalive", 65),
        ("timeout_graceful_shutdown", 10, "graceful_timeout", 10),
        ("ssl_keyfile", Path("key.pem"), "keyfile", "key.pem"),
        ("ssl_certfile", "cert.pem", "certfile", "cert.pem"),
        ("ssl_cert_reqs", ssl.CERT_REQUIRED, "cert_reqs", 2),
        ("ssl_ca_certs", "ca.pem", "ca_certs", "ca.pem"),
        ("ssl_ciphers", "ECDHE+AESGCM", "ciphers", "ECDHE+AESGCM"),
    ],
)
def test_keyword_sets_gunicorn_setting(name: str, value: object, setting: str, expected: object) -> None:
    cfg = Config()
    for key, translated in translate({name: value}).gunicorn.items():
        cfg.set(key, translated)
    assert getattr(cfg, setting) == expected


@pytest.mark.parametrize(
    "name,value,setting,expected",
    [
        ("server_header", False, "server_header", False),
        ("date_header", False, "date_header", False),
        ("limit_concurrency", 100, "limit_concurrency", 100),
        ("factory", True, "app_factory", True),
        ("reset_contextvars", True, "reset_contextvars", True),
        ("ws", "none", "websocket", False),
        ("ws_max_queue", 8, "websocket_max_queue", 8),
        ("ws_ping_interval", 5.0, "websocket_ping_interval", 5.0),
        ("ws_ping_timeout", 7.5, "websocket_ping_timeout", 7.5),
        ("ws_per_message_deflate", False, "websocket_per_message_deflate", False),
        ("headers", [("X-A", "1"), ("X-B", "2: 3")], "response_headers", ((b"X-A", b"1"), (b"X-B", b"2: 3"))),
    ],
)
def test_keyword_sets_outrider_setting(name: str, value: object, setting: str, expected: object) -> None:
    settings = load_settings(Config(), {}, translate({name: value}).outrider)
    assert getattr(settings, setting) == expected


def test_http2_is_offered_over_tls_and_without() -> None:
    translation = translate({"http2": True})
    assert translation.gunicorn == {"http_protocols": "h2,h1", "http2_cleartext": "prior-knowledge"}


def test_http2_is_true_or_false() -> None:
    with pytest.raises(ConfigurationError, match="True or False"):
        translate({"http2": "yes"})


@pytest.mark.parametrize("order", [1, -1])
def test_proxy_headers_off_wins_over_forwarded_allow_ips(order: int) -> None:
    kwargs = {"proxy_headers": False, "forwarded_allow_ips": "*"}
    translation = translate(dict(list(kwargs.items())[::order]))
    assert translation.gunicorn == {"forwarded_allow_ips": ""}


@pytest.mark.parametrize(
    "name,value",
    [
        ("http", "httptools"),
        ("http2", False),
        ("ws", "auto"),
        ("use_colors", False),
        ("interface", "asgi3"),
        ("reload", False),
        ("proxy_headers", True),
        ("ssl_version", ssl.PROTOCOL_TLS_SERVER),
    ],
)
def test_keyword_asks_for_what_is_so_anyway(name: str, value: object) -> None:
    assert translate({name: value}) == Translation({}, {}, [])


@pytest.mark.parametrize(
    "name,value",
    [
        ("http", "zttp"),
        ("ws", "wsproto"),
        ("log_level", "trace"),
        ("access_log", True),
        ("use_colors", True),
        ("proxy_headers", False),
        ("timeout_notify", 30),
        ("timeout_worker_healthcheck", 5),
    ],
)
def test_keyword_without_effect_is_noted_in_one_line(name: str, value: object) -> None:
    (note,) = translate({name: value}).notes
    assert note.startswith(f"{name}={value!r}: ")
    assert "\n" not in note


@pytest.mark.parametrize(
    "name,value,instead",
    [
        ("app", "app:app", "command line"),
        ("host", "0.0.0.0", "bind"),
        ("port", 8000, "bind"),
        ("uds", "/tmp/sock", "bind"),  # noqa: S108  # never opened
        ("fd", 3, "bind"),
        ("env_file", ".env", "raw_env"),
        ("log_config", {"version": 1}, "logconfig_dict"),
        ("reload", True, "gunicorn's reload"),
        ("reload_dirs", ["."], "reload_extra_files"),
        ("reload_delay", 1.0, "gunicorn's reload"),
        ("reload_includes", ["*.py"], "gunicorn's reload"),
        ("reload_excludes", ["*.py"], "gunicorn's reload"),
        ("workers", 4, "gunicorn's workers"),
        ("backlog", 100, "gunicorn's backlog"),
        ("callback_notify", print, "lifespan"),
        ("ssl_context_factory", print, "ssl_context hook"),
        ("h11_max_incomplete_event_size", 1000, "limit_request_field_size"),
    ],
)
def test_keyword_is_refused_with_what_to_use(name: str, value: object, instead: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        translate({name: value})
    message = str(caught.value)
    assert message.startswith(f"CONFIG_KWARGS: {name}={value!r} can't be served; ")
    assert instead in message
    assert "\n" not in message


def test_password_is_handed_on() -> None:
    assert translate({"ssl_keyfile_password": "hunter2"}).outrider == {"keyfile_password": "hunter2"}


def test_refusal_hides_the_password() -> None:
    with pytest.raises(ConfigurationError, match="keyfile_password is ") as caught:
        translate({"ssl_keyfile_password": b"hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name,value",
    [
        ("loop", "zuvloop"),
        ("loop", object),
        ("http", "h12"),
        ("http", object),
        ("ws", ["auto"]),
        ("interface", "wsgi"),
        ("use_colors", "yes"),
        ("ssl_version", ssl.PROTOCOL_TLS_CLIENT),
        ("lifespan", "maybe"),
        ("log_level", "loud"),
        ("log_level", 41),
        ("limit_max_requests", -1),
        ("timeout_keep_alive", 2.5),
        ("forwarded_allow_ips", "proxy.local"),
        ("forwarded_allow_ips", 5),
        ("server_header", "perhaps"),
        ("limit_concurrency", -1),
        ("headers", [("X-A", "1\r\nX-B: 2")]),
        ("headers", ["X-A"]),
        ("headers", 5),
        ("ssl_certfile", 5),
    ],
)
def test_bad_value_is_refused_in_one_line(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"must be ") as caught:
        translate({name: value})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_implementation_of_websocket_that_is_unknown_is_refused_with_all_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"must be 'auto' or 'none' or 'websockets' or "):
        translate({"ws": "nonsense"})


def test_unknown_keyword_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigurationError, match=r"'root_pat' is no keyword .* did you mean root_path\?"):
        translate({"root_pat": "/"})
