"""gunicorn's application object for a supervised service: it reads the configuration, and imports the application.

The master uses it, and so does everybody who wants to know what the configuration says. The order is gunicorn's: the
defaults, gunicorn.conf.py, GUNICORN_CMD_ARGS, the command line; the last one counts.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourcelessFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import gunicorn
from gunicorn import util
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import Config, get_default_config_file
from gunicorn.errors import ConfigError

# Both register their settings with gunicorn when they are imported.
import outrider.settings as _worker_settings  # noqa: F401  # see above
import outrider_supervisor.settings as _supervisor_settings  # noqa: F401  # see above
from outrider.errors import ConfigurationError
from outrider.gunicorn_settings import require_http2_library
from outrider.log_journal import marked_as_error
from outrider.setting_registration import SECTION
from outrider.settings import ENVIRONMENT_PREFIX, load_settings

DEFAULT_WORKER_CLASS = "outrider.UvicornWorker"
USAGE = "%(prog)s [OPTIONS] [APP_MODULE]"
# The supervisor or our worker refuses these, or they do nothing; docs/reference/settings.md has the reasons.
HIDDEN = (
    *("daemon", "reuse_port", "check_config", "print_config", "paste", "raw_paste_global_conf"),
    *("control_socket", "control_socket_mode", "control_socket_disable"),
    *("dirty_apps", "dirty_workers", "dirty_timeout", "dirty_threads", "dirty_graceful_timeout"),
)
_ROLE = re.compile(r":\w+:`([^`<]*)(<[^>]*>)?`")
_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: (--[\w-]+)")
OPTIONS_OF_UVICORN = {
    "--host": "--bind HOST:PORT",
    "--port": "--bind HOST:PORT",
    "--uds": "--bind unix:PATH",
    "--fd": "--bind fd://NUMBER",
    "--app-dir": "--pythonpath",
    "--env-file": "--env NAME=value",
    "--loop": "--asgi-loop",
    "--proxy-headers": "--forwarded-allow-ips",
    "--timeout-graceful-shutdown": "--graceful-timeout",
    "--timeout-keep-alive": "--keep-alive",
}
"""What to use for options that people bring from there, where the name does not show it."""
SETTINGS_OF_FLAGS = {
    "access_logfile": "accesslog",
    "error_logfile": "errorlog",
    "log_file": "errorlog",
    "preload": "preload_app",
}
"""Settings that people name as on the command line, where the spelling would not show it, or show another."""
SIMILARITY = 0.8
"""How alike two names must be for one to be taken for a slip of the pen: a setting's, an option's; difflib's ratio."""

ALLOWED = {
    gunicorn.config.validate_bool: "True or False",
    gunicorn.config.validate_pos_int: "a whole number, 0 or more",
    gunicorn.config.validate_list_string: "a string, or a list of strings",
    gunicorn.config.validate_string: "a string",
}
"""What gunicorn's checks take, where their own sentence is one of Python's."""


class ConfigurationFailed(Exception):
    """The configuration cannot be read.

    Attributes:
        reason: one sentence for the user.
        details: the traceback where user's code raised, else empty.
    """

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.details = details

    def exit(self) -> NoReturn:
        """Show it on standard error and end the process with 1, as gunicorn does."""
        text = f"{self.details.rstrip()}\noutrider: {self.reason}".lstrip("\n")
        print(marked_as_error(text, sys.stderr), file=sys.stderr, flush=True)  # noqa: T201  # there is no log yet
        sys.exit(1)


class _Parser(argparse.ArgumentParser):
    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Leave out of --help what has no use here, and gunicorn's markup."""
        if kwargs.get("dest") in HIDDEN:
            kwargs["help"] = argparse.SUPPRESS
        elif "help" in kwargs:
            kwargs["help"] = _ROLE.sub(r"\1", kwargs["help"]).replace("``", "`")
        return super().add_argument(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise ConfigurationFailed(f"{message}{self._hint(message)} `{self.prog} --help` shows the options.")

    def _hint(self, message: str) -> str:
        """The option that was meant, if the message names one that does not exist."""
        unknown = _UNKNOWN_OPTION.match(message)
        if unknown is None:
            return "."
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        options = [option for action in shown for option in action.option_strings]
        close = difflib.get_close_matches(unknown[1], options, n=1, cutoff=SIMILARITY)
        meant = OPTIONS_OF_UVICORN.get(unknown[1]) or (close[0] if close else "")
        return f"; did you mean {meant}?" if meant else "."


class OutriderConfig(Config):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's configuration with Outrider's settings in a section of their own in --help."""

    def parser(self) -> argparse.ArgumentParser:
        """gunicorn: the parser of the command line, and of GUNICORN_CMD_ARGS."""
        parser = _Parser(usage=self.usage, prog=self.prog)
        version = f"%(prog)s (gunicorn {gunicorn.__version__})"
        parser.add_argument("-v", "--version", action="version", default=argparse.SUPPRESS, version=version)
        parser.add_argument("args", nargs="*", help=argparse.SUPPRESS)
        ours = parser.add_argument_group(SECTION)
        for setting in sorted(self.settings.values(), key=lambda setting: setting.order):
            setting.add_option(ours if setting.section == SECTION else parser)
        return parser


class OutriderApplication(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types
    """One reading of the configuration; `wsgi()` imports the application.

    Attributes:
        notes: what the user should know about the configuration, a sentence each.
    """

    app_uri: str | None

    def __init__(self, argv: Sequence[str], prog: str = "outrider run") -> None:
        """Read the configuration: this changes the working directory and sys.path, and runs gunicorn.conf.py.

        Args:
            argv: the command line without the program, gunicorn's options and the application's name.
            prog: the program's name, for --help and errors.

        Raises:
            ConfigurationFailed: it cannot be read, or a value is not allowed.
            SystemExit: after --help or --version.
        """
        self._argv = list(argv)
        self.notes: tuple[str, ...] = ()
        super().__init__(USAGE, prog=prog)

    def do_load_config(self) -> None:
        """gunicorn: read the configuration."""
        try:
            self.load_default_config()
            self.load_config()
            require_http2_library(self.cfg, "h2")  # before gunicorn, whose advice is an extra of its own
            self.cfg.validate()
        except ConfigurationFailed:
            raise
        except (ConfigError, RuntimeError) as error:  # gunicorn's, and ours: one sentence for the user
            raise ConfigurationFailed(str(error)) from error
        except Exception as error:
            raise ConfigurationFailed(_describe(error), traceback.format_exc()) from error

    def load_default_config(self) -> None:
        """gunicorn: the defaults."""
        self.cfg = OutriderConfig(self.usage, prog=self.prog)
        worker_class = self.cfg.settings["worker_class"]
        worker_class.default = DEFAULT_WORKER_CLASS  # --help shows it
        worker_class.set(DEFAULT_WORKER_CLASS)
        self.cfg.set("chdir", util.getcwd())  # gunicorn's default is where it was imported

    def load_config(self) -> None:
        """gunicorn: read all sources. Other than gunicorn's own it reads the argv it was given, not the process's."""
        parser = self.cfg.parser()
        options = parser.parse_args(self._argv)
        self.init(parser, options, options.args)
        self.chdir()
        from_environment = self._parse_environment(parser)
        location = options.config or from_environment.config or get_default_config_file()
        if location is not None:
            self.load_config_from_file(location)
        self._set_all(vars(from_environment), "GUNICORN_CMD_ARGS")
        self._set_all(vars(options), "the command line")
        self.chdir()
        if self.app_uri is None:
            self.app_uri = self.cfg.wsgi_app
        if self.app_uri is None:
            raise ConfigurationFailed(
                f"no application was given: `{self.prog} MODULE:NAME`, or wsgi_app in gunicorn.conf.py"
            )
        if self.cfg.dirty_workers and self.cfg.dirty_apps:
            raise ConfigurationFailed(
                "dirty_apps is not supported under the supervisor: leave it and dirty_workers out"
            )

    def chdir(self) -> None:
        """gunicorn: go to the directory of the service, and have its modules found first."""
        try:
            super().chdir()
        except OSError as error:
            raise ConfigurationFailed(
                f"chdir is {self.cfg.chdir!r}, but that directory can't be entered: {error.strerror}"
            ) from error

    def load_config_from_module_name_or_filename(self, location: str) -> dict[str, Any]:
        """gunicorn: read the configuration file. Settings keep what it does not name."""
        if location.startswith("python:"):
            load: Callable[[str], Mapping[str, Any]] = self.get_config_from_module_name
        else:
            load = self.get_config_from_filename
        name = location.removeprefix("python:").removeprefix("file:")
        values = dict(self._run_config_file(load, name))
        self._set_all({key: value for key, value in values.items() if key in self.cfg.settings}, name)
        self.notes += tuple(find_misspelt(values, self.cfg.settings, name))
        return values

    def get_config_from_filename(self, filename: str) -> dict[str, Any]:
        """gunicorn: run the file as the module `__config__`. What it raises goes through."""
        module = ModuleType("__config__")
        module.__file__ = filename
        sys.modules[module.__name__] = module
        try:
            if filename.endswith(".pyc"):
                code: Any = SourcelessFileLoader(module.__name__, filename).get_code(module.__name__)
            else:
                # Without the cache of bytecode, which would miss a change within the second.
                code = compile(Path(filename).read_bytes(), filename, "exec")
        except OSError as error:
            raise ConfigurationFailed(f"config file {filename}: {error.strerror}") from error
        exec(code, vars(module))  # noqa: S102  # that is what a configuration file is
        return vars(module)

    def set_import_path(self) -> None:
        """Put `pythonpath` in front of sys.path, as gunicorn does before it imports the application."""
        for path in (self.cfg.pythonpath or "").split(","):
            absolute = os.path.abspath(path)  # noqa: PTH100  # sys.path holds strings; symbolic links stay
            if path and absolute not in sys.path:
                sys.path.insert(0, absolute)

    def _parse_environment(self, parser: argparse.ArgumentParser) -> argparse.Namespace:
        try:
            return parser.parse_args(self.cfg.get_cmd_args_from_env())
        except (ConfigurationFailed, ValueError) as error:  # ValueError: a quote is not closed
            raise ConfigurationFailed(f"GUNICORN_CMD_ARGS: {error}") from error

    def _run_config_file(self, load: Callable[[str], Mapping[str, Any]], name: str) -> Mapping[str, Any]:
        try:
            return load(name)
        except (ConfigurationFailed, KeyboardInterrupt):
            raise
        except BaseException as error:  # a sys.exit() in there, too
            line = _line_in(error, name)
            raise ConfigurationFailed(
                f"config file {name}{line}: {_describe(error)}", _format_user_code(error)
            ) from error

    def _set_all(self, values: Mapping[str, Any], source: str) -> None:
        for name, value in values.items():
            # argparse gives None for what is not on the command line; in the file it is a value.
            if name == "args" or (value is None and source in ("GUNICORN_CMD_ARGS", "the command line")):
                continue
            try:
                self.cfg.set(name, value)
            except ConfigurationError as error:
                reason = str(error).replace("(gunicorn's configuration)", f"({source})")
                raise ConfigurationFailed(reason) from error
            except Exception as error:
                allowed = ALLOWED.get(self.cfg.settings[name].validator)
                problem = f"but must be {allowed}" if allowed else f"which is not allowed: {error}"
                raise ConfigurationFailed(f"{name} is {value!r} ({source}), {problem}") from error


def find_log_format(cfg: Any) -> str:
    """Outrider's setting `log_format`, which holds for any worker class under the supervisor."""
    variable = f"{ENVIRONMENT_PREFIX}LOG_FORMAT"
    return load_settings(cfg, {name: value for name, value in os.environ.items() if name == variable}).log_format


def find_misspelt(values: Mapping[str, Any], settings: Mapping[str, object], source: str) -> list[str]:
    """Return a sentence for each name of a configuration file that looks like a setting with a slip in it.

    gunicorn ignores names that it does not know, for a configuration file is a program and needs its own. So only
    names are looked at that a setting could have: plain lower case, and no module, function or class.
    """
    notes = []
    for name, value in values.items():
        if name in settings or name.startswith("_") or name != name.lower():
            continue
        if isinstance(value, ModuleType) or callable(value):
            continue
        close = difflib.get_close_matches(name, settings, n=1, cutoff=SIMILARITY)
        meant = SETTINGS_OF_FLAGS.get(name) or next(iter(close), "")
        if meant:
            notes.append(f"{source}: {name} is no setting and is ignored; did you mean {meant}?")
    return notes


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    return traceback.format_exception_only(error)[-1].strip()


def _line_in(error: BaseException, filename: str) -> str:
    if isinstance(error, SyntaxError) and error.filename == filename:
        return f", line {error.lineno}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == filename]
    return f", line {lines[-1]}" if lines else ""


def _format_user_code(error: BaseException) -> str:
    """The traceback without our own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
