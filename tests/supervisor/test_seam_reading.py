"""The seam reads the configuration: the child that does it, and what becomes of its answer."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import actions
from outrider_supervisor.actions import READ_TIMEOUT, Level
from outrider_supervisor.events import ConfigurationRead, ConfigurationRefused
from outrider_supervisor.processes import MOST_COMPLAINT
from outrider_supervisor.seam import KEPT_MASTER_PIDS
from outrider_supervisor.service import Service, ServiceRefused
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import is_running
from outrider_testing.seam_scene import SeamScene
from outrider_testing.services import make_service


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeamScene]:
    scene = SeamScene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


def quoted(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND"


def test_configuration_is_read_by_a_child_and_its_listeners_opened(scene: SeamScene) -> None:
    service = make_service(notes=("a note",), errorlog=str(scene.log))
    scene.python(f'echo "$@" >{scene.directory}/argv\n{quoted(service.to_json())}')
    assert scene.do(actions.ReadConfiguration(), ConfigurationRead) == ConfigurationRead(service)
    assert (scene.directory / "argv").read_text() == "-P -m outrider_supervisor.read_config app:app\n"
    assert len(scene.seam.listeners.sockets(service)) == 1
    assert "[WARNING] a note" in scene.log.read_text()


def test_reader_of_the_configuration_does_not_hear_of_sockets_that_were_handed_over(scene: SeamScene) -> None:
    scene.seam.listeners.adopt(scene.seam.environ)
    scene.python(f"env >{scene.directory}/environ\n{quoted(make_service().to_json())}")
    scene.loop.run_until_complete(scene.seam.read_service())
    assert "LISTEN_" not in (scene.directory / "environ").read_text()


def refusal(scene: SeamScene) -> str:
    return scene.do(actions.ReadConfiguration(), ConfigurationRefused).reason


def test_refusal_is_a_sentence_and_the_traceback_is_its_details(scene: SeamScene) -> None:
    answer = ServiceRefused("KeyError: 'shop'", "Traceback: line 7\n").to_json()
    scene.python(f"echo printed >&2\n{quoted(answer)}\nexit 1")
    refused = scene.do(actions.ReadConfiguration(), ConfigurationRefused)
    assert refused == ConfigurationRefused("KeyError: 'shop'", "printed\nTraceback: line 7\n")
    assert "[ERROR] the configuration can't be used:\nprinted\nTraceback: line 7\n" in scene.log.read_text()


def test_refusal_without_details_is_left_to_the_machine_to_log(scene: SeamScene) -> None:
    scene.python(f"{quoted(ServiceRefused('workers is 0').to_json())}\nexit 1")
    assert scene.do(actions.ReadConfiguration(), ConfigurationRefused) == ConfigurationRefused("workers is 0")
    assert scene.log.read_text() == ""


def test_child_that_fails_is_a_refusal_in_its_words(scene: SeamScene) -> None:
    scene.python("echo 'no such setting' >&2; exit 1")
    assert refusal(scene) == "no such setting"


def test_child_that_fails_with_a_traceback_is_a_refusal_in_its_last_words(scene: SeamScene) -> None:
    scene.python("echo 'Traceback:' >&2; echo 'MemoryError' >&2; exit 1")
    refused = scene.do(actions.ReadConfiguration(), ConfigurationRefused)
    assert refused == ConfigurationRefused("MemoryError", "Traceback:\nMemoryError")


@pytest.mark.parametrize("end, how", [("exit 7", "exited with code 7"), ("kill -9 $$", "was killed by SIGKILL")])
def test_child_that_fails_in_silence_is_a_refusal(scene: SeamScene, end: str, how: str) -> None:
    scene.python(end)
    assert refusal(scene) == f"the process that read the configuration {how}"


def test_child_that_takes_too_long_is_killed_and_a_refusal(scene: SeamScene) -> None:
    scene.python("echo waiting for the network >&2; exec sleep 60")
    scene.seam.do(actions.ReadConfiguration())
    (pid,) = scene.until(lambda: list(scene.seam.children._known), "the child")
    scene.until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), "the child's sleep")
    scene.loop.advance(READ_TIMEOUT)
    (refused,) = scene.until(lambda: scene.events, "the refusal")
    assert refused == ConfigurationRefused("reading the configuration took longer than 60 s", "waiting for the network")
    scene.until(lambda: not is_running(pid), "the end of the child")


@pytest.mark.parametrize("output", ["nonsense", "[]", "{}", '{"addresses": [], "notes": []}', "1"])
def test_child_that_writes_nonsense_is_a_refusal_with_advice(scene: SeamScene, output: str) -> None:
    scene.python(quoted(output))
    assert "run `outrider upgrade` first" in refusal(scene)


def test_field_of_a_newer_version_is_a_refusal_with_advice(scene: SeamScene) -> None:
    scene.python(quoted(make_service().to_json().replace("{", '{"new_setting": 1, ', 1)))
    reason = refusal(scene)
    assert "run `outrider upgrade` first" in reason
    assert "new_setting" in reason


def test_child_that_ends_without_an_answer_is_a_refusal(scene: SeamScene) -> None:
    assert refusal(scene) == "gunicorn.conf.py ended the process that read it; it must not call os._exit"


def test_configuration_that_forks_is_a_refusal(scene: SeamScene) -> None:
    answer = make_service().to_json()
    scene.python(quoted(answer + answer))
    assert refusal(scene).startswith("gunicorn.conf.py answered twice: it forked;")


def test_end_of_a_long_complaint_is_the_refusal(scene: SeamScene) -> None:
    scene.python("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo 'KeyError: 1' >&2; exit 1")
    reason = refusal(scene)
    assert reason.endswith("xKeyError: 1")
    assert len(reason) < MOST_COMPLAINT + 10


def test_log_of_a_configuration_counts_once_its_generation_is_kept(scene: SeamScene) -> None:
    """What is rolled back must not take the supervisor's log with it."""
    other = scene.directory / "other.log"
    service = make_service(errorlog=str(other))
    scene.python(quoted(service.to_json()))
    assert scene.do(actions.ReadConfiguration(), ConfigurationRead) == ConfigurationRead(service)
    assert not other.exists()
    scene.seam.do(actions.KeepListeners(service))
    scene.seam.do(actions.Log(Level.INFO, "from now on"))
    assert "from now on" in other.read_text()


def test_reload_comes_back_from_a_full_disk(scene: SeamScene) -> None:
    scene.journal.configure("/dev/full", "info")
    scene.journal.write(Level.INFO, "lost")
    service = make_service(errorlog=str(scene.log), notes=("a note",))
    scene.python(quoted(service.to_json()))
    assert scene.do(actions.ReadConfiguration(), ConfigurationRead) == ConfigurationRead(service)
    scene.seam.do(actions.KeepListeners(service))
    scene.seam.do(actions.Log(Level.INFO, "written"))
    assert "written" in scene.log.read_text()


def test_start_without_processes_is_an_error_of_the_configuration(
    scene: SeamScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", fail)
    with pytest.raises(ConfigurationError, match=r"\(Resource temporarily unavailable\); see the limits of processes"):
        scene.loop.run_until_complete(scene.seam.read_service())


def test_process_ids_of_past_masters_are_forgotten_and_of_living_ones_kept(scene: SeamScene) -> None:
    first = scene.start(1)
    past = dict.fromkeys(range(2, 2 + 2 * KEPT_MASTER_PIDS), 0)
    scene.seam.master_pids.update(past)
    scene.seam.adopt_master(scene.seam.masters[1])
    assert scene.seam.master_pids == {1: first} | dict(list(past.items())[-KEPT_MASTER_PIDS:])


def test_child_that_cannot_be_started_is_a_refusal(scene: SeamScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "No such file or directory" in refusal(scene)


def test_listener_that_cannot_be_opened_is_a_refusal(scene: SeamScene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        scene.python(quoted(make_service(addresses=(taken.getsockname(),)).to_json()))
        assert "in use" in refusal(scene)


def test_listener_that_cannot_be_opened_leaves_the_admin_endpoint_as_it_was(scene: SeamScene) -> None:
    scene.loop.run_until_complete(scene.seam.admin.open(make_service(admin_bind="127.0.0.1:0")))
    before = scene.seam.admin.addresses
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = make_service(addresses=(taken.getsockname(),), admin_bind="localhost:0")
        scene.python(quoted(service.to_json()))
        assert "in use" in refusal(scene)
    assert scene.seam.admin.addresses == before
    scene.loop.run_until_complete(scene.seam.admin.close())


def test_admin_endpoint_that_cannot_be_opened_is_a_refusal(scene: SeamScene) -> None:
    scene.python(quoted(make_service(admin_bind="unix:/nowhere/admin.sock").to_json()))
    assert refusal(scene) == "admin_bind: unix:/nowhere/admin.sock: there is no directory /nowhere; create it first"
    assert scene.seam.admin.addresses == []


def test_exception_that_nobody_thought_of_is_a_refusal_and_logged(
    scene: SeamScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_service: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(scene.seam, "open_listeners", fail)
    scene.python(quoted(make_service().to_json()))
    assert refusal(scene) == "ZeroDivisionError('oh')"
    assert "Traceback" in scene.log.read_text()


@pytest.mark.parametrize("kept", [None, make_service()])
def test_stop_ends_the_reading_lest_it_opens_listeners(kept: Service | None, scene: SeamScene) -> None:
    scene.python("exec sleep 60")
    scene.seam.do(actions.ReadConfiguration())
    (pid,) = scene.until(lambda: list(scene.seam.children._known), "the child")
    scene.seam.do(actions.KeepListeners(kept))
    scene.until(lambda: not is_running(pid), "the end of the child")
    assert scene.events == []


def test_close_ends_the_reading(scene: SeamScene) -> None:
    scene.python("exec sleep 60")
    scene.seam.do(actions.ReadConfiguration())
    (pid,) = scene.until(lambda: list(scene.seam.children._known), "the child")
    scene.loop.run_until_complete(scene.seam.close())
    scene.until(lambda: not is_running(pid), "the child's end")
    with contextlib.suppress(ChildProcessError):  # it was reaped in time
        os.waitpid(pid, 0)
