"""What settings do: those that a reload takes over, the pidfile, and those that have workers replaced."""

from __future__ import annotations

import contextlib
import signal
import ssl
from pathlib import Path

import trustme

from outrider_testing import releases
from outrider_testing.http_client import HTTPConnection, can_connect, encode_request, fetch
from outrider_testing.launchers import with_numbers
from outrider_testing.outrider_process import COMMAND_DEADLINE, OutriderProcess
from outrider_testing.processes import process_table
from outrider_testing.serving import Supervise

NO_CANARY = "--no-canary"

WSGI = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"wsgi"]
"""


def reload(server: OutriderProcess, config: str) -> str:
    """Change the configuration and reload."""
    releases.configure(server.directory, config)
    return server.reload().check()


# Taken over by a reload


def test_reload_takes_over_the_worker_class(supervise: Supervise) -> None:
    server = supervise(NO_CANARY)
    releases.deploy(server.directory, WSGI)
    reload(server, "worker_class = 'gthread'")
    server.wait_until_settled(1, generation=2)
    assert server.get("/").body == b"wsgi"


def test_reload_takes_over_certificates(supervise: Supervise) -> None:
    server = supervise(NO_CANARY)
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    shown = []
    for generation in (2, 3):
        issued = authority.issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(server.directory / "server.pem")
        reload(server, "certfile = keyfile = 'server.pem'")
        server.wait_until_settled(1, generation=generation)
        assert fetch(server.address, "/", tls=trusting).body == b"hello"
        shown.append(ssl.get_server_certificate(server.tcp_address, timeout=5.0))
        assert shown[-1].split() == issued.cert_chain_pems[0].bytes().decode().split()
    assert shown[0] != shown[1]


def test_requests_queued_at_an_address_that_a_reload_removes_are_answered(supervise: Supervise, tmp_path: Path) -> None:
    server = supervise(NO_CANARY)
    removed, added = server.address, str(tmp_path / "added")
    (old,) = server.workers()
    with contextlib.ExitStack() as stack:
        # Nobody accepts them before the reload is over.
        server.signal(signal.SIGSTOP, old)
        stack.callback(resume, server, old)
        queued = [stack.enter_context(contextlib.closing(HTTPConnection(removed, timeout=10.0))) for _ in range(5)]
        for connection in queued:
            connection.send(encode_request("GET", "/"))
        reload(server, f"bind = 'unix:{added}'")
        assert fetch(added, "/").body == b"hello"
        resume(server, old)
        for connection in queued:
            answer = connection.read_response()
            assert (answer.body, answer.field("x-pid")) == (b"hello", str(old))
    server.wait_until_settled(1, generation=2)
    assert not can_connect(removed)
    assert fetch(added, "/").body == b"hello"


def resume(server: OutriderProcess, pid: int) -> None:
    """Let a stopped process go on."""
    with contextlib.suppress(ProcessLookupError):
        server.signal(signal.SIGCONT, pid)


# What a reload takes


class Crowd:
    """Counts the processes of a service again and again, and remembers the most."""

    def __init__(self, server: OutriderProcess) -> None:
        self.masters = self.workers = 0
        self._server = server
        self._before: tuple[set[int], set[int]] = set(), set()

    def look(self) -> None:
        """Count those that were there the last time too: they were there at the same time, for certain."""
        table = [each for each in process_table() if each.session == self._server.pid]
        masters = {each.pid for each in table if each.parent == self._server.pid and is_a_master(each.pid)}
        workers = {each.pid for each in table if each.parent in masters}
        masters_before, workers_before = self._before
        self._before = masters, workers
        self.masters = max(self.masters, len(masters & masters_before))
        self.workers = max(self.workers, len(workers & workers_before))


def is_a_master(pid: int) -> bool:
    """Tell by the title; other children read the configuration, or are about to execute something."""
    try:
        return b"master" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_reload_with_surge_1_takes_one_worker_and_one_master_more_at_most(supervise: Supervise) -> None:
    # How long a worker takes to boot or to go is the machine's affair here.
    launcher = with_numbers(canary__MOST_LAG=3, rollout__RETIRE_PATIENCE=60)
    server = supervise(
        "--max-surge", "1", "--canary-seconds", "0.2", "--canary-requests", "0", workers=3, launcher=launcher
    )
    crowd = Crowd(server)
    reload = server.begin("reload")

    def look_until_over() -> bool:
        crowd.look()
        return reload.poll() is not None

    server.until(look_until_over, COMMAND_DEADLINE, "the end of the reload")
    server.finish(reload).check()
    assert crowd.workers == 3 + 1
    assert crowd.masters == 2
    server.wait_until_settled(3, generation=2)


# The pidfile


def test_pidfile_names_the_supervisor_and_goes_with_it(supervise: Supervise) -> None:
    server = supervise(NO_CANARY, config="pidfile = 'one.pid'")
    one, two = (server.directory / f"{name}.pid" for name in ("one", "two"))
    assert int(one.read_text()) == server.pid
    server.upgrade().check()
    assert int(one.read_text()) == server.pid
    reload(server, "pidfile = 'two.pid'")
    assert int(two.read_text()) == server.pid
    assert not one.exists()
    server.command("stop").check()
    assert server.wait() == 0
    assert not two.exists()


def test_supervisor_refuses_a_pidfile_of_a_process_that_runs(supervise: Supervise) -> None:
    server = supervise("--pid", "shop.pid", workers=0, files={"shop.pid": "1\n"})
    assert server.wait() == 1
    (line,) = server.log_text().splitlines()
    assert "shop.pid belongs to process 1" in line


# Replaced by themselves


def test_worker_is_replaced_when_it_is_too_old(supervise: Supervise) -> None:
    server = supervise("--max-worker-age", "1.5")
    (old,) = server.workers()
    server.until_log(rf"worker {old} is \d s old \(max_worker_age\): it is replaced", 10.0)
    server.wait_until_gone(old, 10.0)
    assert server.get("/").status == 200


def test_worker_is_replaced_when_it_takes_too_much_memory(supervise: Supervise) -> None:
    # Any worker takes more.
    server = supervise("--max-worker-memory", "1M", launcher=with_numbers(measure__MEMORY_PERIOD=0.1))
    (old,) = server.workers()
    server.until_log(rf"worker {old} uses \d+ MiB \(max_worker_memory\): it is replaced", 20.0)
    server.wait_until_gone(old, 10.0)
    assert server.get("/").status == 200
