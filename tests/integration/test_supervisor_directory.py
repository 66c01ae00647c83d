"""The directory that `outrider run` was started in: a symbolic link to a release, switched by a deployment; or gone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.outrider_process import MODULE, OutriderProcess
from outrider_testing.serving import Supervise

CHANGE_DIRECTORY = """\
import os, shutil, sys
shutil.copy("gunicorn.conf.py", "r1")
os.symlink("r1", "current")
os.environ["PWD"] = os.path.join(os.getcwd(), "current")
os.chdir("current")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""What `cd current` in a shell does."""

pytestmark = pytest.mark.timeout(60)


def make_release(directory: Path, number: int) -> None:
    release = directory / f"r{number}"
    release.mkdir()
    (release / "app.py").write_text(releases.good(number))
    configuration = (directory / "gunicorn.conf.py").read_text()
    (release / "gunicorn.conf.py").write_text(
        f"{configuration}\ndef when_ready(server):\n    record('read r{number}')\n"
    )


def switch(directory: Path, number: int) -> None:
    """Have `current` mean another release, at one blow."""
    new = directory / "new"
    new.symlink_to(f"r{number}")
    new.replace(directory / "current")


@pytest.fixture
def deployed(supervise: Supervise) -> OutriderProcess:
    return supervise(
        "--no-canary", launcher=(sys.executable, "-c", CHANGE_DIRECTORY), files={"r1/app.py": releases.good(1)}
    )


def test_reload_serves_the_release_that_the_link_was_switched_to(deployed: OutriderProcess) -> None:
    make_release(deployed.directory, 2)
    switch(deployed.directory, 2)
    deployed.reload().check()
    deployed.wait_until_settled(1, generation=2)
    assert deployed.version() == "2"
    assert "read r2" in deployed.events()  # its gunicorn.conf.py, too


def test_reload_after_an_upgrade_follows_a_link_whose_first_release_was_removed(deployed: OutriderProcess) -> None:
    make_release(deployed.directory, 2)
    switch(deployed.directory, 2)
    shutil.rmtree(deployed.directory / "r1")
    deployed.upgrade().check()
    deployed.reload().check()
    deployed.wait_until_settled(1, generation=2)
    assert deployed.version() == "2"


def test_reload_says_in_a_sentence_that_the_directory_is_gone(deployed: OutriderProcess) -> None:
    (deployed.directory / "current").unlink()
    output = deployed.reload().check(1)
    assert f"the directory {deployed.directory / 'current'}, in which the supervisor was started, is gone" in output
    assert "Traceback" not in deployed.log_text()
    assert deployed.version() == "1"


def test_start_in_a_removed_directory_fails_with_a_sentence(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, sys.executable, "-P", "-m", MODULE, "run", "app:app"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "the working directory does not exist any more" in done.stderr
    assert done.stderr.count("\n") == 1
