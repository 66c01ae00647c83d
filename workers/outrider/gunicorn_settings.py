"""What becomes of each setting of gunicorn: honoured, refused at boot, or none of a worker's business.

None is ignored in silence. docs/reference/settings.md tells people the same; a test holds both against gunicorn's list.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

from gunicorn.config import SSLVersion

from outrider.errors import ConfigurationError

HONOURED = frozenset(
    {
        # Listeners and connections
        "bind",
        "backlog",
        "reuse_port",
        "worker_connections",
        "keepalive",
        "forwarded_allow_ips",
        "forwarder_headers",
        "header_map",
        "limit_request_field_size",
        "limit_request_fields",
        "limit_request_line",
        "proxy_allow_ips",
        "proxy_protocol",
        "root_path",
        "secure_scheme_headers",
        "websocket_max_message_size",
        # HTTP/2
        "http2_initial_window_size",
        "http2_max_concurrent_streams",
        "http2_max_frame_size",
        "http2_max_header_list_size",
        "http_protocols",
        # TLS
        "ca_certs",
        "cert_reqs",
        "certfile",
        "ciphers",
        "do_handshake_on_connect",
        "keyfile",
        "ssl_context",
        # The worker's life
        "asgi_disconnect_grace_period",
        "asgi_lifespan",
        "asgi_loop",
        "graceful_timeout",
        "max_requests",
        "max_requests_jitter",
        "threads",
        "timeout",
        "post_fork",
        "post_worker_init",
        "worker_abort",
        "worker_exit",
        "worker_int",
        # Requests and logs
        "access_log_format",
        "accesslog",
        "capture_output",
        "disable_redirect_access_to_syslog",
        "dogstatsd_tags",
        "errorlog",
        "logconfig",
        "logconfig_dict",
        "logconfig_json",
        "logger_class",
        "loglevel",
        "post_request",
        "pre_request",
        "statsd_host",
        "statsd_prefix",
        "syslog",
        "syslog_addr",
        "syslog_facility",
        "syslog_prefix",
        # The process
        "chdir",
        "group",
        "initgroups",
        "preload_app",
        "proc_name",
        "pythonpath",
        "raw_env",
        "reload",
        "reload_engine",
        "reload_extra_files",
        "spew",
        "umask",
        "user",
        "worker_tmp_dir",
    }
)

# gunicorn's master, or its command, deals with these alone.
ARBITER_ONLY = frozenset(
    {
        "check_config",
        "child_exit",
        "config",
        "control_socket",
        "control_socket_disable",
        "control_socket_mode",
        "daemon",
        "default_proc_name",
        "dirty_apps",
        "dirty_graceful_timeout",
        "dirty_post_fork",
        "dirty_threads",
        "dirty_timeout",
        "dirty_worker_exit",
        "dirty_worker_init",
        "dirty_workers",
        "enable_backlog_metric",
        "enable_stdio_inheritance",
        "nworkers_changed",
        "on_dirty_starting",
        "on_exit",
        "on_reload",
        "on_starting",
        "paste",
        "pidfile",
        "pre_exec",
        "pre_fork",
        "print_config",
        "raw_paste_global_conf",
        "when_ready",
        "worker_class",
        "workers",
        "wsgi_app",
    }
)

# These limit or tune something that is not served; the setting that would switch it on is refused or absent.
WITHOUT_EFFECT = frozenset(
    {
        "sendfile",  # of WSGI's file wrapper: ASGI bodies are bytes
        "tmp_upload_dir",  # request bodies go to the application and never to a file
        "uwsgi_allow_ips",  # of uWSGI, see protocol
    }
)


class Refusal(NamedTuple):
    """When a setting's value can't be served, what is allowed, and what to do instead."""

    is_refused: Callable[[Any], bool]
    allowed: str
    advice: str


def _lenient(advice: str) -> Refusal:
    return Refusal(bool, "False", f"leniency in the parser lets requests be smuggled; {advice}")


REFUSED: dict[str, Refusal] = {
    "casefold_http_method": _lenient("have the client send methods in upper case"),
    "permit_obsolete_folding": _lenient("have the client send each field on one line (RFC 9112 §5.2)"),
    "permit_unconventional_http_method": _lenient("use a registered method"),
    "permit_unconventional_http_version": _lenient("have the client send HTTP/1.0 or HTTP/1.1"),
    "strip_header_spaces": _lenient("have the client send no space before the colon (RFC 9112 §5.1)"),
    "protocol": Refusal(lambda value: value != "http", "'http'", "in nginx, use proxy_pass instead of uwsgi_pass"),
    "http_parser": Refusal(
        lambda value: value not in ("auto", "fast"),
        "'auto' or 'fast'",
        "the parser is httptools (llhttp); for a parser in Python use gunicorn's own worker, -k asgi",
    ),
    "http2_cleartext": Refusal(
        lambda value: value not in ("off", "prior-knowledge"),
        "'off' or 'prior-knowledge'",
        "RFC 9113 §3.1 made the upgrade from HTTP/1.1 obsolete; have the proxy in front begin with HTTP/2",
    ),
    "ssl_version": Refusal(
        lambda value: value != SSLVersion.default,
        "the default",
        "gunicorn ignores it, too; set minimum_version of the context in the ssl_context hook",
    ),
    "suppress_ragged_eofs": Refusal(
        lambda value: not value, "True", "a request that ends too early is found by its own framing"
    ),
}


def refuse_unsupported(cfg: Any) -> None:
    """Refuse the settings of gunicorn that this worker can't honour.

    Args:
        cfg: gunicorn's `Config`.

    Raises:
        ConfigurationError: for the first of them, with its name, its value and what to do; or because the library for
            HTTP/2 is not installed.
    """
    require_http2_library(cfg, "ngh2")
    for name, refusal in REFUSED.items():
        value = getattr(cfg, name)
        if refusal.is_refused(value):
            raise ConfigurationError(
                f"{name} is {value!r}, but outrider.UvicornWorker allows only {refusal.allowed}: {refusal.advice}"
            )
    if cfg.http2_cleartext != "off" and "h2" not in cfg.http_protocols:
        raise ConfigurationError(
            f"http2_cleartext is {cfg.http2_cleartext!r}, but http_protocols does not include h2: "
            "set it to 'h2,h1', or leave http2_cleartext out"
        )


def require_http2_library(cfg: Any, library: str) -> None:
    """Refuse HTTP/2 where a library that it needs is not installed.

    Raises:
        ConfigurationError: says what to install.
    """
    if "h2" in cfg.http_protocols and find_spec(library) is None:
        raise ConfigurationError(
            f"http_protocols includes h2, for which the library {library} is missing: "
            "install outrider[http2], or drop h2"
        )
