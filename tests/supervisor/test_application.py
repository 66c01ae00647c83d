from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.errors import ConfigError

from outrider import gunicorn_settings
from outrider_supervisor.application import (
    OPTIONS_OF_UVICORN,
    SETTINGS_OF_FLAGS,
    ConfigurationFailed,
    OutriderApplication,
    OutriderConfig,
    find_misspelt,
)


@pytest.fixture(autouse=True)
def _fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reading a configuration changes the process: the directory, sys.path and sys.modules."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "__config__", raising=False)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    monkeypatch.setattr(sys, "argv", ["pytest", "--workers", "99", "not:this"])
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("__config__", None)


def configure(text: str, name: str = "gunicorn.conf.py") -> Path:
    path = Path(name).absolute()
    path.write_text(text)
    return path


def failure_of(*argv: str) -> ConfigurationFailed:
    with pytest.raises(ConfigurationFailed) as caught:
        OutriderApplication(argv)
    assert "\n" not in caught.value.reason
    return caught.value


# -- reading


def test_application_reads_the_argv_it_is_given() -> None:
    app = OutriderApplication(["--workers", "3", "shop:app"])
    assert app.cfg.workers == 3
    assert app.app_uri == "shop:app"
    assert app.cfg.proc_name == "shop:app"


def test_default_worker_class_is_ours() -> None:
    assert OutriderApplication(["shop:app"]).cfg.worker_class_str == "outrider.UvicornWorker"


@pytest.mark.parametrize("argv, config", [(["-k", "gthread"], ""), ([], "worker_class = 'gthread'")])
def test_another_worker_class_can_be_chosen(argv: list[str], config: str) -> None:
    configure(config)
    assert OutriderApplication([*argv, "shop:app"]).cfg.worker_class_str == "gthread"


def test_command_line_wins_over_environment_over_file(monkeypatch: pytest.MonkeyPatch) -> None:
    configure("workers = 2\nthreads = 2\ntimeout = 2\nwsgi_app = 'shop:app'")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--threads 3 --timeout 3")
    cfg = OutriderApplication(["--timeout", "4"]).cfg
    assert (cfg.workers, cfg.threads, cfg.timeout) == (2, 3, 4)


def test_file_named_in_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    configure("workers = 5", "other.py")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-c other.py")
    assert OutriderApplication(["shop:app"]).cfg.workers == 5


def test_settings_of_worker_and_supervisor_are_known() -> None:
    configure("max_surge = 3\nprobe_path = '/health'")
    cfg = OutriderApplication(["--header-timeout", "4", "--boot-timeout", "7", "shop:app"]).cfg
    assert (cfg.max_surge, cfg.probe_path, cfg.header_timeout, cfg.boot_timeout) == (3, "/health", 4, 7)


def test_configuration_can_be_a_module() -> None:
    configure("workers = 6", "conf_module_of_test.py")
    assert OutriderApplication(["-c", "python:conf_module_of_test", "shop:app"]).cfg.workers == 6
    del sys.modules["conf_module_of_test"]


def test_configuration_can_have_any_name() -> None:
    configure("workers = 7", "settings.txt")
    assert OutriderApplication(["-c", "file:settings.txt", "shop:app"]).cfg.workers == 7


def test_changed_file_is_read_anew_within_the_second() -> None:
    configure("workers = 1")
    OutriderApplication(["shop:app"])
    configure("workers = 2")
    assert OutriderApplication(["shop:app"]).cfg.workers == 2


def test_file_is_the_module_that_the_worker_looks_into() -> None:
    path = configure("header_timeout = 3")
    OutriderApplication(["shop:app"])
    assert vars(sys.modules["__config__"])["header_timeout"] == 3
    assert sys.modules["__config__"].__file__ == str(path)


def test_application_can_be_named_in_the_file() -> None:
    configure("wsgi_app = 'shop:app'")
    assert OutriderApplication([]).app_uri == "shop:app"


def test_chdir_is_followed_and_importable(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    OutriderApplication(["--chdir", "deep", "shop:app"])
    assert Path.cwd() == tmp_path / "deep"
    assert str(tmp_path / "deep") in sys.path


def test_python_path_is_put_first(tmp_path: Path) -> None:
    app = OutriderApplication(["--pythonpath", "one,two", "shop:app"])
    app.set_import_path()
    app.set_import_path()
    assert sys.path[:2] == [str(tmp_path / "two"), str(tmp_path / "one")]
    assert sys.path.count(str(tmp_path / "one")) == 1


def test_application_is_imported_once() -> None:
    configure("calls = []\ndef app(): calls.append(1)", "shop_of_test.py")
    app = OutriderApplication(["shop_of_test:app"])
    assert app.wsgi() is app.wsgi()
    del sys.modules["shop_of_test"]


# -- help


def test_help_shows_our_settings_in_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        OutriderApplication(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    gunicorns, _, ours = text.partition("\nOutrider:\n")
    assert text.startswith("usage: outrider run [OPTIONS] [APP_MODULE]")
    assert "--header-timeout" in ours
    assert "--max-surge" in ours
    assert "--workers" in gunicorns
    assert "--workers" not in ours
    assert "[outrider.UvicornWorker]" in gunicorns


def test_help_leaves_out_what_has_no_use_and_the_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        OutriderApplication(["--help"])
    text = capsys.readouterr().out
    for flag in ("--daemon", "--reuse-port", "--check-config", "--print-config", "control-socket", "--dirty-app"):
        assert flag not in text
    assert ":ref:" not in text
    assert "``" not in text
    assert "The Gunicorn config file. [./gunicorn.conf.py]" in text


# -- refusing


def test_unknown_option_is_refused() -> None:
    assert failure_of("--nosuch", "3").reason == (
        "unrecognized arguments: --nosuch. `outrider run --help` shows the options."
    )


@pytest.mark.parametrize(
    "argument, meant",
    [("--wrokers", "--workers"), ("--websocket-ping-intervall=5", "--websocket-ping-interval"), ("--deamon", "")],
)
def test_misspelt_option_is_refused_with_a_suggestion(argument: str, meant: str) -> None:
    hint = f"; did you mean {meant}?" if meant else "."
    assert failure_of("shop:app", argument).reason == (
        f"unrecognized arguments: {argument}{hint} `outrider run --help` shows the options."
    )


@pytest.mark.parametrize("argument", ["--host=0.0.0.0", "--port=8000", "--uds=shop.sock", "--loop=uvloop"])
def test_option_of_uvicorn_is_refused_with_ours(argument: str) -> None:
    option = argument.partition("=")[0]
    assert failure_of("shop:app", argument).reason.startswith(
        f"unrecognized arguments: {argument}; did you mean {OPTIONS_OF_UVICORN[option]}? "
    )


def test_options_suggested_for_those_of_uvicorn_exist() -> None:
    ours = {meant.split()[0] for meant in OPTIONS_OF_UVICORN.values()}
    text = OutriderConfig("", prog="outrider run").parser().format_help()
    assert {option for option in ours if f"{option} " not in text} == set()


def test_unknown_option_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--wrokers 3")
    assert failure_of("shop:app").reason.startswith("GUNICORN_CMD_ARGS: unrecognized arguments: --wrokers")


def test_http2_without_gunicorns_library_is_refused_with_our_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_settings, "find_spec", lambda name: None if name == "h2" else name)
    assert failure_of("--http-protocols", "h2,h1", "shop:app").reason == (
        "http_protocols includes h2, for which the library h2 is missing: install outrider[http2], or drop h2"
    )


def test_open_quote_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--name 'shop")
    assert failure_of("shop:app").reason == "GUNICORN_CMD_ARGS: No closing quotation"


def test_missing_application_is_refused() -> None:
    assert failure_of().reason == (
        "no application was given: `outrider run MODULE:NAME`, or wsgi_app in gunicorn.conf.py"
    )


def test_missing_file_is_refused() -> None:
    assert failure_of("-c", "none.py", "shop:app").reason == "config file none.py: No such file or directory"


@pytest.mark.parametrize(
    "line,problem",
    [
        ("workers = 'many'", "workers is 'many' ({}), but must be a whole number, 0 or more"),
        ("timeout = 1.5", "timeout is 1.5 ({}), but must be a whole number, 0 or more"),
        ("bind = 8000", "bind is 8000 ({}), but must be a string, or a list of strings"),
        ("preload_app = 'yes'", "preload_app is 'yes' ({}), but must be True or False"),
        ("proc_name = 1", "proc_name is 1 ({}), but must be a string"),
        ("user = 'nobody-here'", "user is 'nobody-here' ({}), which is not allowed: No such user: 'nobody-here'"),
    ],
)
def test_value_that_is_not_allowed_names_setting_value_and_file(line: str, problem: str) -> None:
    path = configure(line)
    assert failure_of("shop:app").reason == problem.format(path)


def test_value_of_ours_that_is_not_allowed_names_what_is() -> None:
    failure = failure_of("--max-surge", "0", "shop:app")
    assert failure.reason == "max_surge is '0' (the command line), but must be a whole number, 1 or more"


def test_file_that_raises_is_refused_with_the_line_and_the_traceback() -> None:
    path = configure("workers = 1\nworkers = 1 / 0\n")
    failure = failure_of("shop:app")
    assert failure.reason == f"config file {path}, line 2: ZeroDivisionError: division by zero"
    assert failure.details.startswith("Traceback")
    assert "workers = 1 / 0" in failure.details
    assert "application.py" not in failure.details


def test_syntax_error_in_the_file_is_refused_with_the_line() -> None:
    path = configure("a = 1\nworkers = = 2\n")
    assert failure_of("shop:app").reason == f"config file {path}, line 2: SyntaxError: invalid syntax"


def test_exit_in_the_file_is_refused() -> None:
    path = configure("import sys\nsys.exit('no license')")
    assert failure_of("shop:app").reason == f"config file {path}, line 2: it called sys.exit('no license')"


def test_settings_that_do_not_go_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_cfg: OutriderConfig) -> None:
        raise ConfigError("http_protocols includes h2 but the h2 package is not installed.")

    monkeypatch.setattr(OutriderConfig, "validate", refuse)
    assert failure_of("shop:app").reason == "http_protocols includes h2 but the h2 package is not installed."


def test_dirty_workers_are_refused() -> None:
    configure("dirty_workers = 1\ndirty_apps = ['shop:Task']")
    assert failure_of("shop:app").reason.startswith("dirty_apps is not supported")


def test_failure_is_shown_with_its_traceback_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ConfigurationFailed("it is wrong", "Traceback\n").exit()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "Traceback\noutrider: it is wrong\n"


# -- misspelt names


def test_name_like_a_setting_is_noted() -> None:
    path = configure("worker = 3\ngracefull_timeout = 4\npreload = True\naccess_logfile = '-'")
    notes = OutriderApplication(["shop:app"]).notes
    assert notes == (
        f"{path}: worker is no setting and is ignored; did you mean workers?",
        f"{path}: gracefull_timeout is no setting and is ignored; did you mean graceful_timeout?",
        f"{path}: preload is no setting and is ignored; did you mean preload_app?",
        f"{path}: access_logfile is no setting and is ignored; did you mean accesslog?",
    )


def test_settings_suggested_for_flags_exist() -> None:
    assert set(SETTINGS_OF_FLAGS.values()) <= set(OutriderConfig("", prog="outrider run").settings)


@pytest.mark.parametrize(
    "values",
    [
        {"workers": 1},
        {"WORKER": 1},
        {"_worker": 1},
        {"worker": os},
        {"worker": print},
        {"worker": SimpleNamespace},
        {"database": 1},
    ],
    ids=["a setting", "a constant", "private", "a module", "a function", "a class", "unlike any"],
)
def test_other_names_are_the_files_own(values: dict[str, object]) -> None:
    assert find_misspelt(values, {"workers": None, "bind": None}, "f") == []


def test_chdir_to_what_is_no_directory_is_one_sentence() -> None:
    path = configure("", "file")
    expected = f"chdir is '{path}', but that directory can't be entered: Not a directory"
    assert failure_of("--chdir", "file", "shop:app").reason == expected
