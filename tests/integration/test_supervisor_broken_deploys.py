"""A deployment that is broken, in whatever way, never takes the place of the one that works."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from outrider_testing import releases
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.load import MIX, Load, Report
from outrider_testing.load_clients import Pace
from outrider_testing.outrider_process import Completed, OutriderProcess
from outrider_testing.serving import Supervise, supervising

SOAK = bool(os.environ.get("OUTRIDER_SOAK"))
WORKERS = 2
REQUESTS = 10_000 if SOAK else 200
PACE = Pace(silence=(0.3, 0.6), stream=(0.6, 0.8))

# The first release is given all the time it needs to boot; a broken one sets its own limits.
OPTIONS = ("--canary-requests", "10")
LAUNCHER = () if SOAK else BUSY_MACHINE
# It ends as soon as the fault is seen. However late that is, the canary must not have passed before.
CANARY = "canary_seconds = 10"
IMPATIENT = "boot_timeout = 1; graceful_timeout = 1"


@dataclass(frozen=True)
class Deploy:
    """What is deployed, and what the caller of `outrider reload` must be told."""

    name: str
    app: str
    cause: str
    config: str = CANARY
    reaches_users: bool = False
    """Whether it boots, so that the canary's own requests may suffer."""


DEPLOYS = (
    Deploy("import error", "import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    Deploy(
        "import error, preloaded",
        "import no_such_module\n",
        "ModuleNotFoundError: No module named 'no_such_module'",
        f"{CANARY}; preload_app = True",
    ),
    Deploy("syntax error", "def app(:\n", "SyntaxError: invalid syntax"),
    Deploy("lifespan failure", releases.faulty(2, "startup fails"), "the database is away"),
    Deploy("hang at import", "import threading\n\nthreading.Event().wait()\n", "boot_timeout", IMPATIENT),
    Deploy(
        "hang at import, preloaded",
        "import threading\n\nthreading.Event().wait()\n",
        "boot_timeout",
        f"{IMPATIENT}; preload_app = True",
    ),
    Deploy("hang in lifespan", releases.faulty(2, "startup hangs"), "boot_timeout", IMPATIENT),
    Deploy("exit at import", "import os\n\nos._exit(7)\n", "exited with code 7"),
    Deploy(
        "crash 2 s after it was ready",
        releases.faulty(2, "crashes", seconds=2.0),
        "exited with code 7",
        reaches_users=True,
    ),
    Deploy("half of the requests fail", releases.faulty(2, "half fails"), "were 5xx", reaches_users=True),
    Deploy(
        "blocked loop",
        releases.faulty(2, "blocks", seconds=0.2),
        "its event loop was blocked",
        f"{CANARY}; graceful_timeout = 1",
        reaches_users=True,
    ),
    Deploy("configuration raises", releases.good(2), "KeyError: 'SECRET'", 'os.environ["SECRET"]'),
    Deploy("configuration is wrong", releases.good(2), "many", 'workers = "many"'),
    Deploy("bad certificate", releases.good(2), "bad.pem", 'certfile = keyfile = "bad.pem"'),
)


SECOND_WORKER_CRASHES = """\
import os

if "FRAGILE" in os.environ:
    try:
        os.close(os.open("booted", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        os._exit(9)

"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutriderProcess]:
    """A service that lives through all broken deploys: its first generation must be there to the end, and alone."""
    with supervising(tmp_path_factory.mktemp("service")) as supervise:
        server = supervise(*OPTIONS, workers=WORKERS, files={"bad.pem": "no certificate"}, launcher=LAUNCHER)
        yield server
        server.wait_until_settled(WORKERS, generation=1)


@pytest.mark.timeout(300 if SOAK else 60)
@pytest.mark.parametrize("deploy", DEPLOYS, ids=lambda deploy: deploy.name)
def test_broken_deploy_is_rolled_back(service: OutriderProcess, deploy: Deploy) -> None:
    before = service.workers(1)
    assert service.current()["number"] == 1
    assert len(before) == WORKERS
    happened = len(service.events())
    completed: list[Completed] = []

    def reload() -> None:
        releases.deploy(service.directory, deploy.app)
        with releases.configured(service.directory, deploy.config):
            completed.append(service.reload())

    report = asyncio.run(Load(service.address, mix=MIX, pace=PACE).run(REQUESTS, [reload]))
    print(report)
    (command,) = completed
    print(command.output)
    assert command.code == 1
    assert deploy.cause in command.output
    assert service.status()["operation"] is None
    assert service.workers(1) == before
    check_losses(report, ports_held(service.events()[happened:]), reaches_users=deploy.reaches_users)


def ports_held(events: list[str]) -> set[int]:
    """The clients' ports of the connections that a broken release held when its fault appeared."""
    return {int(port) for event in events if event.startswith("held ") for port in event.split()[1:]}


def check_losses(report: Report, held: set[int], *, reaches_users: bool) -> None:
    """Nobody suffers but those whom the canary served."""
    if not reaches_users:
        assert set(report.versions) == {"1"}
        assert not report.lost, f"{report}"
    strangers = [each for each in report.lost if each.version != "2" and (each.version or each.port not in held)]
    assert not strangers, f"{strangers}\n{report}"
    (window,) = report.windows
    meanwhile = sum(window.touches(each) for each in report.exchanges)
    # Its share of the connections is a third; the rest is for chance.
    assert len(report.lost) <= meanwhile / 2, f"{report}"


def test_good_deploy_follows_a_broken_one(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, "--no-canary", workers=WORKERS)
    releases.deploy(server.directory, "import no_such_module\n")
    server.reload().check(1)
    releases.deploy(server.directory, releases.good(3))
    server.reload().check()
    server.wait_until_settled(WORKERS, generation=3)
    assert server.get("/pid").field("x-version") == "3"


def test_crash_in_the_roll_is_rolled_back(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, "--no-canary", workers=WORKERS)
    # The first worker serves, the second does not come up. What the old generation starts again must come up: it finds
    # the new code, but has the environment of its own configuration.
    releases.configure(server.directory, 'raw_env = ["FRAGILE=1"]')
    releases.deploy(server.directory, SECOND_WORKER_CRASHES + releases.good(2))
    output = server.reload().check(1)
    assert "exited with code 9" in output
    server.wait_until_settled(WORKERS, generation=1)
