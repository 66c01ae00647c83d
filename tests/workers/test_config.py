"""The figures that the server reads, from gunicorn's settings and Outrider's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from gunicorn.config import Config

from outrider.config import MOST_FIELDS, UNLIMITED_HEAD, HTTP2Config, ServerConfig, WebSocketConfig
from outrider.errors import ConfigurationError
from outrider.settings import OutriderSettings
from outrider_testing.fakes import make_config


def load(**settings: Any) -> ServerConfig:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return ServerConfig.from_gunicorn(cfg, OutriderSettings())


@pytest.mark.parametrize(
    "setting, value, name",
    [
        ("keepalive", 7, "keepalive"),
        ("worker_connections", 77, "worker_connections"),
        ("graceful_timeout", 8, "graceful_timeout"),
        ("asgi_disconnect_grace_period", 9, "disconnect_grace"),
        ("limit_request_line", 1000, "limit_request_line"),
        ("limit_request_fields", 50, "limit_request_fields"),
        ("limit_request_field_size", 900, "limit_request_field_size"),
        ("root_path", "/root", "root_path"),
        ("header_map", "refuse", "header_map"),
        ("proxy_protocol", "v2", "proxy_protocol"),
    ],
)
def test_setting_of_gunicorn_is_taken(setting: str, value: object, name: str) -> None:
    assert getattr(load(), name) != value
    assert getattr(load(**{setting: value}), name) == value


@pytest.mark.parametrize(
    "name, value",
    [
        ("header_timeout", 1.5),
        ("body_timeout", 1.5),
        ("min_body_rate", 7),
        ("write_timeout", 1.5),
        ("drain_linger", 1.5),
        ("limit_concurrency", 7),
        ("accept_gate", False),
        ("reset_contextvars", True),
    ],
)
def test_setting_of_outrider_is_taken(name: str, value: Any) -> None:
    own = dataclasses.replace(OutriderSettings(), **{name: value})
    assert getattr(load(), name) != value
    assert getattr(ServerConfig.from_gunicorn(Config(), own), name) == value


def test_http2_has_the_settings_of_gunicorn() -> None:
    settings: dict[str, Any] = {
        "max_concurrent_streams": 7,
        "initial_window_size": 70000,
        "max_frame_size": 20000,
        "max_header_list_size": 9000,
    }
    config = load(http_protocols="h2,h1", **{f"http2_{name}": value for name, value in settings.items()})
    assert config.http2 == HTTP2Config(cleartext=False, **settings)
    with_cleartext = load(http_protocols="h2,h1", http2_cleartext="prior-knowledge").http2
    assert with_cleartext is not None
    assert with_cleartext.cleartext


def test_http2_that_is_no_protocol_of_the_service_has_no_settings() -> None:
    assert load(http2_cleartext="prior-knowledge").http2 is None


def test_websocket_has_settings_of_gunicorn_and_outrider() -> None:
    settings: dict[str, Any] = {
        "max_queue": 7,
        "ping_interval": 1.5,
        "ping_timeout": 2.5,
        "handshake_timeout": 3.5,
        "close_timeout": 4.5,
        "per_message_deflate": False,
    }
    own = OutriderSettings(**{f"websocket_{name}": value for name, value in settings.items()})
    cfg = Config()
    cfg.set("websocket_max_message_size", 1000)
    assert ServerConfig.from_gunicorn(cfg, own).websocket == WebSocketConfig(max_message_size=1000, **settings)


def test_websocket_that_is_not_served_has_no_settings() -> None:
    assert ServerConfig.from_gunicorn(Config(), OutriderSettings(websocket=False)).websocket is None


def test_peers_and_header_names_are_prepared() -> None:
    config = load(
        forwarded_allow_ips="192.0.2.0/24",
        proxy_allow_ips="198.51.100.7",
        secure_scheme_headers={"X-Forwarded-Proto": "https"},
        forwarder_headers="SCRIPT_NAME,Remote_User",
    )
    assert config.trusted_proxies.trusts("192.0.2.9")
    assert not config.trusted_proxies.trusts("198.51.100.7")
    assert config.proxy_allowed.trusts("198.51.100.7")
    assert not config.proxy_allowed.trusts("192.0.2.9")
    assert config.secure_scheme_headers == {b"x-forwarded-proto": b"https"}
    assert config.forwarder_headers == {b"script_name", b"remote_user"}


def test_error_names_the_setting() -> None:
    cfg = Config()
    # gunicorn would refuse it in set(), but not where a hook writes to the list.
    cfg.settings["proxy_allow_ips"].value = ["nonsense"]
    with pytest.raises(ConfigurationError, match=r"^proxy_allow_ips: 'nonsense' is not allowed"):
        ServerConfig.from_gunicorn(cfg, OutriderSettings())


def test_unlimited_number_of_fields_has_an_end() -> None:
    assert load(limit_request_fields=0).limit_request_fields == MOST_FIELDS


@pytest.mark.parametrize(
    "line, size, short",
    [(4094, 8190, 4094), (4094, 100, 100), (0, 8190, 8190), (4094, 0, 4094), (0, 0, UNLIMITED_HEAD)],
)
def test_short_head_has_no_line_over_its_limit(line: int, size: int, short: int) -> None:
    assert make_config(limit_request_line=line, limit_request_field_size=size).short_head == short


def test_largest_head_is_the_sum_of_its_limits() -> None:
    config = make_config(limit_request_line=1000, limit_request_fields=10, limit_request_field_size=100)
    assert config.largest_head == 1000 + 10 * (100 + 2) + 4


@pytest.mark.parametrize("unlimited", ["limit_request_line", "limit_request_field_size"])
def test_largest_head_of_unlimited_lines_has_an_end(unlimited: str) -> None:
    assert 0 < make_config(**{unlimited: 0}).largest_head <= 8 * UNLIMITED_HEAD
