"""`python -m outrider_supervisor.read_config [--import] ARGV`: reads the configuration, for the supervisor.

A short-lived process, because gunicorn.conf.py and the modules it names are the user's code. It writes `Service` as
JSON to its standard output and exits with 0, or `ServiceRefused`, and exits with 1. With `--import` the application is
imported as well, and a refusal is for people, on standard error. It binds nothing, opens no log and writes no file.
"""

from __future__ import annotations

import copy
import importlib
import os
import stat
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import gunicorn
from gunicorn.errors import AppImportError, ConfigError
from gunicorn.glogging import Logger

import outrider
from outrider.app_loading import is_module_missing, resolve_app
from outrider.errors import ConfigurationError
from outrider.settings import load_settings
from outrider.uvicorn_kwargs import translate
from outrider.worker import UvicornWorker
from outrider_supervisor.admin_token import read_token
from outrider_supervisor.application import (
    DEFAULT_WORKER_CLASS,
    ConfigurationFailed,
    OutriderApplication,
    find_log_format,
)
from outrider_supervisor.exposition import MISSING, is_available
from outrider_supervisor.pidfile import refuse_other_files
from outrider_supervisor.service import Service, ServiceRefused
from outrider_supervisor.settings import SupervisorSettings, refuse_variables

IMPORT = "--import"

REFUSED = {
    "daemon": "Outrider runs in the foreground; use systemd or another process manager",
    "reuse_port": "the supervisor owns one listener per address; per-worker ones lose what is queued when one closes",
    "check_config": "use `outrider check`",
    "print_config": "use `gunicorn --print-config`",
}
WITHOUT_EFFECT = {
    "control_socket": "gunicorn's control socket is not opened; use the `outrider` command",
    "pre_exec": "the supervisor starts masters, and `outrider upgrade` takes the place of USR2",
}
_OUR_CLASS = f"for an ASGI application use {DEFAULT_WORKER_CLASS}"
# Frames of these in a traceback say nothing about the user's code.
_NOT_THE_USERS = (
    *(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (gunicorn, importlib, outrider)),
    f"{Path(__file__).parent}{os.sep}",
    "<frozen ",
)


def main(argv: Sequence[str]) -> int:
    """Read the configuration; the exit status."""
    # Descriptor 1 is for the answer: what the user's code prints goes where errors go.
    answer = os.dup(1)
    os.dup2(2, 1)
    imports = bool(argv) and argv[0] == IMPORT
    doing = "reading the configuration"
    try:
        application = OutriderApplication(argv[1:] if imports else argv)
        service = describe(application)
        if imports:
            doing = "importing the application"
            import_application(application)
    except ConfigurationFailed as error:
        refusal = ServiceRefused(error.reason, error.details)
    except BaseException as error:  # noqa: BLE001  # whatever the user's code raises
        refusal = explain(error, doing)
    else:
        _write(answer, service.to_json())
        return 0
    if imports:
        print(f"outrider: {refusal}", file=sys.stderr)  # noqa: T201  # the user's terminal
    else:
        _write(answer, refusal.to_json())
    return 1


def _write(answer: int, text: str) -> None:
    with os.fdopen(answer, "w") as stream:
        stream.write(text)


def describe(application: OutriderApplication) -> Service:
    """What the supervisor must know.

    Raises:
        ConfigurationError: it can't be used. Other exceptions are gunicorn's, a foreign worker class's or the user's.
    """
    cfg = application.cfg
    _refuse(cfg)
    own = SupervisorSettings.from_gunicorn(cfg)
    worker_class = _load_checked_worker_class(cfg)
    return Service(
        name=cfg.proc_name,
        application=application.app_uri or "",
        worker_class=cfg.worker_class_str,
        reports_state=issubclass(worker_class, UvicornWorker),
        addresses=tuple(cfg.address),
        backlog=cfg.backlog,
        umask=cfg.umask,
        uid=cfg.uid,
        gid=cfg.gid,
        workers=own.starting_workers(cfg.workers),
        graceful_timeout=cfg.graceful_timeout,
        timeout=cfg.timeout,
        stop_delay=own.stop_delay,
        boot_timeout=own.boot_timeout,
        canary=own.canary,
        canary_seconds=own.canary_seconds,
        canary_requests=own.canary_requests,
        max_surge=own.max_surge,
        restart_intensity=own.restart_intensity,
        max_requests=cfg.max_requests,
        max_requests_jitter=cfg.max_requests_jitter,
        max_worker_age=own.max_worker_age,
        max_worker_memory=own.max_worker_memory,
        preload=cfg.preload_app,
        directory=cfg.chdir,
        pidfile=cfg.pidfile,
        errorlog=cfg.errorlog,
        loglevel=cfg.loglevel,
        log_format=find_log_format(cfg),
        admin_bind=own.admin_bind,
        admin_token=read_token(own, os.environ),
        min_workers=own.min_workers,
        max_workers=own.max_workers,
        target_utilisation=own.target_utilisation,
        scale_up_window=own.scale_up_window,
        scale_down_window=own.scale_down_window,
        scale_up_step=own.scale_up_step,
        notes=tuple(_notes(application, worker_class)),
    )


def import_application(application: OutriderApplication) -> None:
    """Import the application as a worker would, and see whether it is one.

    Raises:
        ConfigurationError: there is no such application, or it is of another kind.
        Exception: what the application raises.
    """
    cfg = application.cfg
    application.set_import_path()
    uri = application.app_uri or ""
    try:
        found = application.wsgi()
    except ModuleNotFoundError as error:
        if not is_module_missing(error, uri):
            raise
        raise ConfigurationError(
            f"can't import the application {uri!r}: {error}. "
            "Check the name, the working directory, --chdir and --pythonpath."
        ) from None
    except AppImportError as error:
        raise ConfigurationError(f"can't import the application {uri!r}: {error} Name it MODULE:NAME.") from error
    worker_class = cfg.worker_class
    if issubclass(worker_class, UvicornWorker):
        settings = load_settings(cfg, overrides=translate(worker_class.CONFIG_KWARGS).outrider)
        resolve_app(found, settings.app_factory, repr(uri))


def explain(error: BaseException, doing: str) -> ServiceRefused:
    """Say what is wrong, with a traceback of the user's code where that raised.

    Args:
        error: what was raised.
        doing: what was going on; the sentence begins with it where the error is not ours or gunicorn's.
    """
    cause = error.__cause__
    if isinstance(error, ConfigurationError | ConfigError | AppImportError) or not _is_from_user(error):
        sentence = str(error) or repr(error)
        return ServiceRefused(sentence, _traceback(cause) if cause is not None and _is_from_user(cause) else "")
    summary = traceback.format_exception_only(error)[-1].strip()
    return ServiceRefused(f"{doing} raised {summary}", _traceback(error))


def _refuse(cfg: Any) -> None:
    for name, reason in REFUSED.items():
        if getattr(cfg, name):
            raise ConfigurationError(f"{name} is {getattr(cfg, name)!r}, but must be False: {reason}")
    if cfg.workers < 1:
        raise ConfigurationError(f"workers is {cfg.workers!r}, but must be 1 or more")
    if cfg.errorlog != "-":
        _refuse_odd_log("errorlog", cfg.errorlog)
    if cfg.pidfile:
        refuse_other_files(Path(cfg.pidfile))
    for name in ("errorlog", "accesslog"):
        path = getattr(cfg, name)
        if path and path != "-" and not os.access(path if Path(path).exists() else Path(path).parent, os.W_OK):
            raise ConfigurationError(f"{name} is {path!r}, which this user may not write; does the directory exist?")
    if cfg.logconfig and not Path(cfg.logconfig).exists():
        raise ConfigurationError(f"logconfig is {cfg.logconfig!r}, but there is no such file")


def _refuse_odd_log(name: str, path: str) -> None:
    """A FIFO would keep the supervisor waiting for a reader; what is open already, as /dev/stderr is, would not."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return  # it is yet to be made, or see below
    is_open_already = os.path.dirname(os.path.realpath(path)) == f"/proc/{os.getpid()}/fd"  # noqa: PTH120  # "pipe:[1]" is no path
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or is_open_already):
        raise ConfigurationError(f"{name} is {path!r}, but must be a regular file, a character device or '-'")


def _load_checked_worker_class(cfg: Any) -> Any:
    """The worker class, which can use the configuration in the environment of its workers."""
    try:
        os.environ.update(cfg.env)
    except RuntimeError as error:  # gunicorn's, which shows the one that is wrong
        raise ConfigurationError(f"raw_env (--env): {error}, but must be NAME=value") from error
    refuse_variables(os.environ)
    worker_class = _load_worker_class(cfg)
    check = getattr(worker_class, "check_config", None)
    if check is not None:
        check(cfg, cfg.logger_class(_without_logs(cfg)))
    return worker_class


def _load_worker_class(cfg: Any) -> Any:
    try:
        worker_class = cfg.worker_class
    except RuntimeError as error:
        cause = error.__context__  # gunicorn puts its traceback into the message
        if cause is None:
            raise
        summary = traceback.format_exception_only(cause)[-1].strip()
        raise ConfigurationError(
            f"worker_class is {cfg.worker_class_str!r}, which can't be loaded: {summary}; {_OUR_CLASS}"
        ) from cause
    if not isinstance(worker_class, type):
        raise ConfigurationError(f"worker_class is {cfg.worker_class_str!r}, which is no class; {_OUR_CLASS}")
    return worker_class


def _without_logs(cfg: Any) -> Any:
    """A configuration of which a logger opens no file: a log file made here would belong to the wrong user."""
    quiet = copy.copy(cfg)
    quiet.settings = {name: setting.copy() for name, setting in cfg.settings.items()}
    silent: dict[str, Any] = {
        "errorlog": "-",
        "accesslog": None,
        "loglevel": "error",
        "capture_output": False,
        "syslog": False,
    }
    silent |= {"logconfig": None, "logconfig_dict": {}, "logconfig_json": None, "statsd_host": None}
    for name, value in silent.items():
        quiet.settings[name].value = value
    return quiet


def _notes(application: OutriderApplication, worker_class: Any) -> list[str]:
    cfg = application.cfg
    notes = list(application.notes)
    if not issubclass(worker_class, UvicornWorker):
        notes.append(
            f"worker_class is {cfg.worker_class_str!r}, which reports no state: its workers count as ready when they "
            f"have booted; {_OUR_CLASS}"
        )
    for name, reason in WITHOUT_EFFECT.items():
        setting = cfg.settings[name]
        if setting.get() != setting.default:
            notes.append(f"{name} has no effect: {reason}")
    if cfg.admin_bind and not is_available():
        notes.append(f"admin_bind: {MISSING}; the rest of the endpoint does without")
    if cfg.loglevel.lower() not in Logger.LOG_LEVELS:
        notes.append(f"loglevel is {cfg.loglevel!r} and counts as 'info'; there are: {', '.join(Logger.LOG_LEVELS)}")
    if cfg.reload and cfg.preload_app:
        notes.append("reload has no effect with preload_app: what the master has imported stays")
    return notes


def _is_from_user(error: BaseException) -> bool:
    """Whether the user's code is on the stack, or is what cannot be compiled."""
    return isinstance(error, SyntaxError) or _first_user_frame(error.__traceback__) is not None


def _first_user_frame(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        trace = trace.tb_next
    return trace


def _traceback(error: BaseException) -> str:
    """The traceback from where the user's code begins."""
    start = _first_user_frame(error.__traceback__)
    lines = traceback.format_exception(type(error), error, start) if start else traceback.format_exception_only(error)
    return "".join(lines)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # a thread that the application has started must not hold this process up
