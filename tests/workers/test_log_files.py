"""Log files that are opened anew, or can't be."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from outrider.log_files import reopen_log_files


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Logger]:
    """gunicorn's logger, which writes the errors and the access log to files."""
    cfg = Config()
    cfg.set("errorlog", str(tmp_path / "error.log"))
    cfg.set("accesslog", str(tmp_path / "access.log"))
    yield Logger(cfg)
    for name in ("gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def test_files_that_were_moved_are_opened_anew(log: Logger, tmp_path: Path) -> None:
    for name in ("error.log", "access.log"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    assert reopen_log_files(log)
    log.error("after")
    log.access_log.info("GET /")
    assert "after" in (tmp_path / "error.log").read_text()
    assert "GET /" in (tmp_path / "access.log").read_text()


def test_all_stay_where_they_are_if_one_cannot_be_opened(log: Logger, tmp_path: Path) -> None:
    for name in ("error.log", "access.log"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    (tmp_path / "access.log").mkdir()
    assert not reopen_log_files(log)
    log.error("after")
    log.access_log.info("GET /")
    told = f"{tmp_path}/access.log cannot be opened (Is a directory): the logs stay where they are"
    assert told in (tmp_path / "error.log.1").read_text()
    assert "after" in (tmp_path / "error.log.1").read_text()
    assert "GET /" in (tmp_path / "access.log.1").read_text()
