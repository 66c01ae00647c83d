"""`CONFIG_KWARGS` of a worker class: keywords of `uvicorn.Config` (0.54) in gunicorn's and Outrider's terms.

Each keyword is honoured, accepted with a note where it chooses among uvicorn's own implementations, or
refused with the name of what to use instead. Nothing here imports uvicorn.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gunicorn.config import KNOWN_SETTINGS

from outrider.errors import ConfigurationError
from outrider.settings import did_you_mean, validate_setting

SOURCE = "CONFIG_KWARGS"

_LOG_LEVELS = ("critical", "error", "warning", "info", "debug")
_TRACE = 5  # uvicorn's level below DEBUG


@dataclass(frozen=True, slots=True)
class Translation:
    """What the keywords amount to: values for gunicorn's settings and Outrider's, and notes for the log."""

    gunicorn: dict[str, object] = field(default_factory=dict)
    outrider: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


_Rule = Callable[[Translation, str, Any], None]


def translate(kwargs: Mapping[str, object]) -> Translation:
    """Translate keywords of `uvicorn.Config`. None always stands for "not given", as it does in uvicorn.

    Raises:
        ConfigurationError: a keyword uvicorn does not have, one that is refused, or a value not allowed.
    """
    translation = Translation()
    for name, value in kwargs.items():
        rule = _RULES.get(name)
        if rule is None:
            raise ConfigurationError(f"{SOURCE}: {name!r} is no keyword of uvicorn.Config{did_you_mean(name, _RULES)}")
        if value is not None:
            rule(translation, name, value)
    return translation


def apply_config_kwargs(worker_class: Any, cfg: Any, log: Any = None) -> dict[str, object]:
    """Have the `CONFIG_KWARGS` of a worker class take effect on gunicorn's settings.

    Args:
        worker_class: the class.
        cfg: gunicorn's `Config`, which is changed.
        log: gunicorn's logger, for notes; None to leave them out.

    Returns:
        The values of Outrider's settings.

    Raises:
        ConfigurationError: as `translate`.
    """
    translation = translate(worker_class.CONFIG_KWARGS)
    for name, value in translation.gunicorn.items():
        cfg.set(name, value)
    if log is not None:
        if "loglevel" in translation.gunicorn:
            log.setup(cfg)
        for note in translation.notes:
            log.info("%s of %s: %s", SOURCE, worker_class.__name__, note)
    return translation.outrider


# -- kinds of rules


def _gunicorn(setting: str, convert: Callable[[Any], object] = lambda value: value) -> _Rule:
    """Set a setting of gunicorn."""

    def apply(translation: Translation, name: str, value: Any) -> None:
        validator = next(known.validator for known in KNOWN_SETTINGS if known.name == setting)
        try:
            converted = convert(value)
            validator(converted)
        except (TypeError, ValueError) as error:
            raise _not_allowed(name, value, f"what gunicorn's {setting} allows ({error})") from None
        translation.gunicorn.setdefault(setting, converted)

    return apply


def _outrider(setting: str, convert: Callable[[Any], object] = lambda value: value) -> _Rule:
    """Set a setting of Outrider."""

    def apply(translation: Translation, name: str, value: Any) -> None:
        try:
            converted = convert(value)
        except (TypeError, ValueError) as error:
            raise _not_allowed(name, value, f"what uvicorn allows ({error})") from None
        validate_setting(setting, converted, f"{SOURCE}: {name}")
        translation.outrider[setting] = converted

    return apply


def _choice(accepted: Mapping[object, str | None], advice: str) -> _Rule:
    """Accept some values, each with its note, as choices that make no difference here."""

    def apply(translation: Translation, name: str, value: Any) -> None:
        if not isinstance(value, str | int) or value not in accepted:
            allowed = " or ".join(repr(choice) for choice in accepted)
            raise _not_allowed(name, value, f"{allowed}; {advice}")
        note = accepted[value]
        if note is not None:
            translation.notes.append(f"{name}={value!r}: {note}")

    return apply


def _no_effect(note: str) -> _Rule:
    """Accept any value with a note."""

    def apply(translation: Translation, name: str, value: Any) -> None:
        translation.notes.append(f"{name}={value!r}: {note}")

    return apply


def _refused(advice: str) -> _Rule:
    """Refuse every value but False, which asks for nothing."""

    def apply(_: Translation, name: str, value: Any) -> None:
        if value is not False:
            raise ConfigurationError(f"{SOURCE}: {name}={value!r} can't be served; {advice}")

    return apply


def _not_allowed(name: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{SOURCE}: {name} is {value!r}, but must be {allowed}")


# -- rules of their own


def _loop(translation: Translation, name: str, value: Any) -> None:
    loops = {"auto": "auto", "uvloop": "uvloop", "asyncio": "asyncio", "none": "asyncio"}
    if not isinstance(value, str) or value not in loops:
        raise _not_allowed(name, value, "'auto', 'uvloop' or 'asyncio'")
    translation.gunicorn["asgi_loop"] = loops[value]


def _websocket(translation: Translation, name: str, value: Any) -> None:
    if value == "none":
        translation.outrider["websocket"] = False
    else:
        _choice(
            {"auto": None, "none": None}
            | dict.fromkeys(("websockets", "websockets-sansio", "wsproto"), "Outrider has its own implementation"),
            "a protocol class of uvicorn can't be used",
        )(translation, name, value)


def _log_level(translation: Translation, name: str, value: Any) -> None:
    level = logging.getLevelName(value).lower() if isinstance(value, int) else str(value).lower()
    if value == _TRACE or level == "trace":
        translation.notes.append("log_level='trace': debug is the most there is")
        level = "debug"
    if level not in _LOG_LEVELS:
        raise _not_allowed(name, value, f"one of {', '.join(_LOG_LEVELS)}")
    translation.gunicorn["loglevel"] = level


def _access_log(translation: Translation, name: str, value: Any) -> None:
    if value:
        translation.notes.append(f"{name}={value!r}: gunicorn's accesslog says where it goes, if anywhere")
    else:
        translation.gunicorn["accesslog"] = None
        translation.gunicorn["disable_redirect_access_to_syslog"] = True


def _http2(translation: Translation, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _not_allowed(name, value, "True or False")
    if value:
        translation.gunicorn["http_protocols"] = "h2,h1"
        translation.gunicorn["http2_cleartext"] = "prior-knowledge"


def _proxy_headers(translation: Translation, name: str, value: Any) -> None:
    if not value:
        translation.gunicorn["forwarded_allow_ips"] = ""
        translation.notes.append(f"{name}={value!r}: no address is believed, only peers on Unix sockets are")


def _join_addresses(value: str | Iterable[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _join_headers(value: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name}: {content}" for name, content in value]


_BIND = "use gunicorn's bind"
_RELOAD = "use gunicorn's reload, reload_engine and reload_extra_files"
_SSL_CONTEXT = "use gunicorn's ssl_context hook, which is called with its Config and a default factory"

_RULES: dict[str, _Rule] = {
    "app": _refused("name the application on gunicorn's command line"),
    "host": _refused(_BIND),
    "port": _refused(_BIND),
    "uds": _refused(_BIND),
    "fd": _refused(_BIND),
    "loop": _loop,
    "http": _choice(
        {"auto": None, "httptools": None}
        | dict.fromkeys(("h11", "zttp"), "the parser is httptools with stricter rules on top"),
        "a protocol class of uvicorn can't be used",
    ),
    "http2": _http2,
    "ws": _websocket,
    "ws_max_size": _gunicorn("websocket_max_message_size"),
    "ws_max_queue": _outrider("websocket_max_queue"),
    "ws_ping_interval": _outrider("websocket_ping_interval"),
    "ws_ping_timeout": _outrider("websocket_ping_timeout"),
    "ws_per_message_deflate": _outrider("websocket_per_message_deflate"),
    "lifespan": _gunicorn("asgi_lifespan"),
    "env_file": _refused("use gunicorn's raw_env (--env), or set the variables before gunicorn starts"),
    "log_config": _refused("use gunicorn's logconfig, logconfig_dict or logconfig_json"),
    "log_level": _log_level,
    "access_log": _access_log,
    "use_colors": _choice({False: None, True: "gunicorn's log has no colours"}, "gunicorn formats the log"),
    "interface": _choice({"auto": None, "asgi3": None}, "wrap the application with asgiref (ASGI 2) or a2wsgi (WSGI)"),
    "reload": _refused(_RELOAD),
    "reload_dirs": _refused(_RELOAD),
    "reload_delay": _refused(_RELOAD),
    "reload_includes": _refused(_RELOAD),
    "reload_excludes": _refused(_RELOAD),
    "workers": _refused("use gunicorn's workers (-w)"),
    "proxy_headers": _proxy_headers,
    "server_header": _outrider("server_header"),
    "date_header": _outrider("date_header"),
    "forwarded_allow_ips": _gunicorn("forwarded_allow_ips", _join_addresses),
    "root_path": _gunicorn("root_path"),
    "limit_concurrency": _outrider("limit_concurrency"),
    "limit_max_requests": _gunicorn("max_requests"),
    "limit_max_requests_jitter": _gunicorn("max_requests_jitter"),
    "backlog": _refused("use gunicorn's backlog: gunicorn listens before there is a worker"),
    "timeout_keep_alive": _gunicorn("keepalive"),
    "timeout_notify": _no_effect("the heartbeat follows gunicorn's timeout"),
    "timeout_graceful_shutdown": _gunicorn("graceful_timeout"),
    "timeout_worker_healthcheck": _no_effect("gunicorn's timeout watches the workers"),
    "callback_notify": _refused("start a task of the application's own in its lifespan"),
    "ssl_keyfile": _gunicorn("keyfile", os.fspath),
    "ssl_certfile": _gunicorn("certfile", os.fspath),
    "ssl_keyfile_password": _outrider("keyfile_password"),
    "ssl_version": _choice({ssl.PROTOCOL_TLS_SERVER: None}, _SSL_CONTEXT),
    "ssl_cert_reqs": _gunicorn("cert_reqs"),
    "ssl_ca_certs": _gunicorn("ca_certs", os.fspath),
    "ssl_ciphers": _gunicorn("ciphers"),
    "ssl_context_factory": _refused(_SSL_CONTEXT),
    "headers": _outrider("response_headers", _join_headers),
    "factory": _outrider("app_factory"),
    "h11_max_incomplete_event_size": _refused(
        "use gunicorn's limit_request_line, limit_request_fields and limit_request_field_size"
    ),
    "reset_contextvars": _outrider("reset_contextvars"),
}
