"""Outrider's own settings: each is declared once, as a field of `OutriderSettings`.

Importing this module makes each field a gunicorn `Setting`, too: a flag and a name for gunicorn.conf.py.
Stock gunicorn reads its configuration before it imports the worker class, so `load_settings` also looks
where gunicorn could not.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from gunicorn import config as gunicorn_config

from outrider import setting_values as check
from outrider.errors import ConfigurationError
from outrider.setting_declaration import Flag, declare, switch_off, switch_on, validated
from outrider.setting_registration import register

ENVIRONMENT_PREFIX = "OUTRIDER_"

# Variables with the prefix that are no settings. A process that starts workers hands them facts this way.
RESERVED_VARIABLES = frozenset({"OUTRIDER_ADMIN_TOKEN", "OUTRIDER_SCOREBOARD_FD", "OUTRIDER_SOAK"})
RESERVED_PREFIXES = ("OUTRIDER_SUPERVISOR_",)
# Settings that are not the worker's. Its process never reads them, so a variable would silently mean nothing.
SUPERVISOR_SETTINGS = frozenset(
    {
        "admin_bind",
        "admin_token_file",
        "boot_timeout",
        "canary",
        "canary_requests",
        "canary_seconds",
        "max_surge",
        "max_worker_age",
        "max_worker_memory",
        "max_workers",
        "min_workers",
        "restart_intensity",
        "scale_down_window",
        "scale_up_step",
        "scale_up_window",
        "stop_delay",
        "target_utilisation",
    }
)
# Kubernetes puts these into every pod of a namespace that has a service named "outrider" or "outrider-…".
KUBERNETES_VARIABLE = re.compile(
    r"OUTRIDER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class OutriderSettings:
    """The values. Times are seconds, sizes bytes; 0 switches a limit off."""

    header_timeout: float = declare(
        10.0,
        check.seconds,
        Flag("--header-timeout", "SECONDS"),
        "Longest time a client may take to send the header of a request, or its first byte on a new "
        "connection. 0 switches it off.",
    )
    body_timeout: float = declare(
        30.0,
        check.seconds,
        Flag("--body-timeout", "SECONDS"),
        "Longest pause between two pieces of a request body while the application waits for more. "
        "0 switches it off, and `min_body_rate` for requests with it.",
    )
    min_body_rate: int = declare(
        240,
        check.count,
        Flag("--min-body-rate", "BYTES"),
        "Least bytes a second, on average, that a client must send of its request and take of its response. "
        "0 switches it off.",
    )
    write_timeout: float = declare(
        30.0,
        check.seconds,
        Flag("--write-timeout", "SECONDS"),
        "Longest time a client may take less than `min_body_rate` of its response while more waits for it; "
        "then it is cut off. 0 switches it off.",
    )
    stall_warning: float = declare(
        1.0,
        check.seconds,
        Flag("--stall-warning", "SECONDS"),
        "Warn in the error log, with the stack, when the event loop is blocked for longer. 0 switches it off.",
    )
    probe_path: str = declare(
        "",
        check.probe_path,
        Flag("--probe-path", "PATH"),
        "Path of an in-process GET that must answer 2xx, within 30 s, before the worker is ready. Empty: no probe.",
    )
    server_header: bool = declare(
        True,
        check.boolean,
        switch_off("--no-server-header", "Send no `server: outrider`."),
        "Send `server: outrider` unless the application sends its own.",
    )
    date_header: bool = declare(
        True,
        check.boolean,
        switch_off("--no-date-header", "Send no `date`."),
        "Send `date` unless the application sends its own.",
    )
    response_headers: tuple[tuple[bytes, bytes], ...] = declare(
        (),
        check.response_headers,
        Flag("--response-header", "HEADER", action="append"),
        "Headers that are added to every response, each as `Name: value`. A list in gunicorn.conf.py, one a "
        "line in the environment; one a flag for `outrider run`.",
    )
    drain_linger: float = declare(
        2.0,
        check.seconds,
        Flag("--drain-linger", "SECONDS"),
        "How long a draining worker keeps an idle keep-alive connection open for a request that may be on "
        "its way. `graceful_timeout` bounds it. 0 closes such connections at once.",
    )
    accept_gate: bool = declare(
        True,
        check.boolean,
        switch_off("--no-accept-gate", "Do not spread connections evenly: the first worker to ask takes each."),
        "Spread connections evenly: a worker that holds clearly more than the freest one steps aside for it, and ends "
        "some kept-alive connections with their next response.",
    )
    limit_concurrency: int = declare(
        0,
        check.count,
        Flag("--limit-concurrency", "REQUESTS"),
        "Most requests in progress in one worker; those beyond are answered with 503. 0 switches it off.",
    )
    reset_contextvars: bool = declare(
        False,
        check.boolean,
        switch_on("--reset-contextvars"),
        "Run each request in an empty context instead of a copy of the worker's.",
    )
    sni_certificates: tuple[tuple[str, str], ...] = declare(
        (),
        check.certificates,
        Flag("--sni-certificate", "CERTFILE[,KEYFILE]", action="append"),
        "Further certificates, for clients that name one of their DNS names (SNI); any other client gets `certfile`. "
        "A list of paths and pairs of paths in gunicorn.conf.py, one a line in the environment; one a flag for "
        "`outrider run`.",
    )
    keyfile_password: str = declare(
        "",
        check.secret,
        Flag("--keyfile-password", "PASSWORD"),
        "Password of the keys in `keyfile` and `sni_certificates`. Other users can see a command line.",
    )
    fast_tls: bool = declare(
        True,
        check.boolean,
        switch_off("--no-fast-tls", "Use the event loop's own TLS even where `outrider[tls]` is installed."),
        "Use the TLS transport of aiofastnet, where `outrider[tls]` has installed it.",
    )
    log_format: str = declare(
        "auto",
        check.log_format,
        Flag("--log-format", "FORMAT"),
        "How the lines of the access log and the error log look: `text`, gunicorn's formats, `json`, one object a "
        "line, or `auto`: `text`, but in systemd's journal without time and pid, and with a priority. What a logconfig "
        "or a logger class of your own formats stays as it is. See docs/reference/logging.md.",
    )
    server_timing: bool = declare(
        False,
        check.boolean,
        switch_on("--server-timing"),
        "Tell the client in a `server-timing` header how long the application took to begin its response.",
    )
    app_factory: bool = declare(
        False,
        check.boolean,
        switch_on("--app-factory"),
        "Call the application object without arguments to get the ASGI application.",
    )
    websocket: bool = declare(
        True,
        check.boolean,
        switch_off("--no-websocket", "Take a request to switch to WebSocket for plain HTTP."),
        "Serve WebSockets. Without, a request to switch is treated as the plain HTTP request it also is.",
    )
    websocket_max_queue: int = declare(
        32,
        check.count,
        Flag("--websocket-max-queue", "MESSAGES"),
        "Most messages of one WebSocket that wait for the application; at this number, or above 64 KiB, its client "
        "waits. 0 means 1024.",
    )
    websocket_ping_interval: float = declare(
        20.0,
        check.seconds,
        Flag("--websocket-ping-interval", "SECONDS"),
        "Time between two pings to the client of a WebSocket. 0 switches them off.",
    )
    websocket_ping_timeout: float = declare(
        20.0,
        check.seconds,
        Flag("--websocket-ping-timeout", "SECONDS"),
        "Longest time after a ping without a sign of life; then the client is taken for gone. 0 switches it off.",
    )
    websocket_handshake_timeout: float = declare(
        30.0,
        check.seconds,
        Flag("--websocket-handshake-timeout", "SECONDS"),
        "Longest time the application may take to accept or deny a WebSocket; then the client gets a 503. "
        "0 switches it off.",
    )
    websocket_close_timeout: float = declare(
        10.0,
        check.seconds,
        Flag("--websocket-close-timeout", "SECONDS"),
        "Longest time to wait for the client's part in closing a WebSocket. 0 switches it off.",
    )
    websocket_per_message_deflate: bool = declare(
        True,
        check.boolean,
        switch_off("--no-websocket-per-message-deflate", "Do not compress WebSocket messages."),
        "Compress WebSocket messages of 128 bytes and more for clients that offer it (permessage-deflate, RFC 7692).",
    )


_FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(OutriderSettings)}


class _Missing:
    """The value of a setting that a source does not give."""


_MISSING = _Missing()


def load_settings(
    cfg: Any, environ: Mapping[str, str] = os.environ, overrides: Mapping[str, object] | None = None
) -> OutriderSettings:
    """Collect the settings; for each, the first of these that gives it counts.

    1. `overrides`, the CONFIG_KWARGS of a worker class;
    2. gunicorn's command line (or a call of `cfg.set`), where gunicorn knew the setting when it read that;
    3. the environment variable OUTRIDER_<NAME>;
    4. gunicorn.conf.py;
    5. the default.

    Args:
        cfg: gunicorn's `Config`.
        environ: environment variables.
        overrides: values by setting name.

    Raises:
        ConfigurationError: a value that is not allowed, or a variable or override that is no setting.
    """
    overrides = overrides or {}
    for name in overrides:
        if name not in _FIELDS:
            raise ConfigurationError(f"{name!r} is no setting of Outrider{did_you_mean(name, _FIELDS)}")
    _refuse_unknown_variables(environ)
    config_file = _config_file_values(cfg)
    values: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        validate = field.metadata["validator"]
        variable = ENVIRONMENT_PREFIX + name.upper()
        in_file = config_file.get(name, _MISSING)
        if name in overrides:
            values[name] = validated(name, validate, overrides[name], "CONFIG_KWARGS")
        elif (given := _given_to_gunicorn(cfg, name, in_file=in_file is not _MISSING)) is not _MISSING:
            values[name] = given
        elif variable in environ:
            values[name] = validated(name, validate, environ[variable], f"environment variable {variable}")
        elif in_file is not _MISSING:
            values[name] = validated(name, validate, in_file, "gunicorn's configuration file")
    return OutriderSettings(**values)


def did_you_mean(name: str, known: Mapping[str, object]) -> str:
    """End a message about an unknown name: the closest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(known)}"


def validate_setting(name: str, value: object, source: str) -> Any:
    """Return the value of the named setting as `OutriderSettings` holds it.

    Raises:
        ConfigurationError: the value is not allowed; the message says that it came from `source`.
    """
    return validated(name, _FIELDS[name].metadata["validator"], value, source)


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    variables = {ENVIRONMENT_PREFIX + name.upper(): name for name in _FIELDS}
    gunicorns = {setting.name: setting for setting in gunicorn_config.KNOWN_SETTINGS}
    for name in environ:
        if (
            name.startswith(ENVIRONMENT_PREFIX)
            and name not in variables
            and name not in RESERVED_VARIABLES
            and not name.startswith(RESERVED_PREFIXES)
            and not KUBERNETES_VARIABLE.fullmatch(name)
        ):
            setting = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            if setting in SUPERVISOR_SETTINGS:
                raise ConfigurationError(
                    f"the environment variable {name} is not read: {setting} is a flag of `outrider run` "
                    "and a name in gunicorn.conf.py"
                )
            if setting in gunicorns:
                flag = "".join(f"{option}, or " for option in gunicorns[setting].cli or () if option.startswith("--"))
                raise ConfigurationError(
                    f"the environment variable {name} is not read: {setting} is gunicorn's own; "
                    f"use {flag}{setting} in gunicorn.conf.py"
                )
            raise ConfigurationError(
                f"the environment variable {name} is no setting of Outrider{did_you_mean(name, variables)}"
            )


def _config_file_values(cfg: Any) -> Mapping[str, object]:
    """The names in the module that gunicorn made of its configuration file; none if there is no file."""
    location = cfg.config or ""
    module = location.removeprefix("python:") if location.startswith("python:") else "__config__"
    return vars(sys.modules[module]) if module in sys.modules else {}


def _given_to_gunicorn(cfg: Any, name: str, *, in_file: bool) -> object:
    """The setting's value if gunicorn took it from its command line.

    gunicorn sets first what the configuration file gives and then what the command line gives, without a
    trace of which was which. When it re-reads both on HUP it knows our settings, which it did not at its
    start: the one time it sets what is in the file must not count, or from HUP on the file would win over
    the environment.
    """
    setting = cfg.settings.get(name)
    times_set = getattr(setting, "times_set", 0)
    return setting.get() if times_set > in_file else _MISSING


register(_FIELDS)
