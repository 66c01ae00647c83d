"""The image that deploy/docker/Dockerfile makes: built by buildah, run by crun with a read-only root and no rights."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from outrider_supervisor.settings import token
from outrider_testing.compose_project import SERVICES, Project
from outrider_testing.containers import DOCKER, Container, Image, built
from outrider_testing.documented import REPOSITORY, commands
from outrider_testing.load import Load, Mix
from outrider_testing.load_clients import KeepAliveClient, KeepAlivePostClient, NewConnectionClient
from outrider_testing.network import isolated
from outrider_testing.processes import children, process_table
from outrider_testing.shown_output import match

pytestmark = pytest.mark.external

PAGE = "docs/how-to/containers.md"
GRACE = 40.0
"""Seconds of `docker stop --timeout` in the documentation."""

# An application whose release, boot and requests the test steers by files beside it.
SHOP = """
import asyncio, os, pathlib, subprocess

HERE = pathlib.Path(__file__).parent
if (HERE / "broken").exists():
    raise RuntimeError("broken on purpose")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        while (HERE / "closed").exists():
            await asyncio.sleep(0.02)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b"first"
    match scope["path"]:
        case "/pid":
            body = str(os.getpid()).encode()
        case "/gate":
            print("held")  # seen at once: PYTHONUNBUFFERED
            while not (HERE / "open").exists():
                await asyncio.sleep(0.02)
        case "/orphan":  # the shell ends at once; what it has started is nobody's then
            body = subprocess.run(["sh", "-c", "sleep 0.2 >&- 2>&- & echo $!"], capture_output=True).stdout
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""

Run = Callable[..., Container]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Return the image, built once, from a directory that also holds what must not be in it."""
    context = tmp_path_factory.mktemp("context") / "docker"
    shutil.copytree(DOCKER, context)
    for name in (".env", ".git/config", ".venv/bin/python", "secrets/token", "tls.key", "old/__pycache__/shop.pyc"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("secret\n")
    with built(context, {"outrider": REPOSITORY}) as image:
        yield image


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a directory with the test's own application: the code as a volume."""
    directory = tmp_path / "shop"
    directory.mkdir()
    (directory / "shop.py").write_text(SHOP)
    shutil.copy(DOCKER / "gunicorn.conf.py", directory)
    return directory


@pytest.fixture
def run(image: Image, tmp_path: Path) -> Iterator[Run]:
    """Return a function that starts a container; all of them are gone afterwards."""
    with ExitStack() as stack:

        def start(volumes: Mapping[Path, str] | None = None, **environ: str) -> Container:
            host = stack.enter_context(isolated())
            container = Container(image, tmp_path / "container", host, environ=environ, volumes=volumes or {})
            stack.callback(container.close)
            return container.start()

        yield start


def status_of(container: Container) -> dict[str, object]:
    status: dict[str, object] = json.loads(container.execute("outrider", "status", "--json").check())
    return status


# The image


def test_image_holds_the_application_and_what_it_needs_and_nothing_else(image: Image) -> None:
    inside = image.root
    assert sorted(each.name for each in (inside / "srv/shop").iterdir() if each.name not in ("__pycache__", "old")) == [
        "gunicorn.conf.py",
        "requirements.txt",
        "shop.py",
    ]
    assert not list((inside / "srv/shop/old").glob("**/*.pyc"))
    assert list((inside / "srv/shop/__pycache__").glob("shop.*.pyc")), "nobody can write it later"
    assert not [each for each in ("gcc", "cc", "g++", "ld") if (inside / "usr/bin" / each).exists()]
    assert not (inside / "build").exists(), "the sources belong to the stage that builds"
    assert not list((inside / "root/.cache").glob("pip/*"))
    assert image.size - image.base_size < 100 << 20, f"{image.size - image.base_size} bytes beyond the base image"


def test_image_says_how_it_is_run(image: Image) -> None:
    assert image.config["Entrypoint"] == ["outrider", "run"]
    assert image.config["User"] == "10001:10001"
    assert image.config["StopSignal"] == "SIGTERM"
    assert image.healthcheck == ["outrider", "status", "--ready"]
    assert image.config["ExposedPorts"] == {"8000/tcp": {}}


# A container


def test_container_serves_without_rights_on_a_read_only_root(run: Run) -> None:
    container = run().until_healthy()
    assert json.loads(container.fetch()) == {"message": "Hello from the shop"}
    facts = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{container.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert facts["Uid"].split() == ["10001"] * 4
    assert (int(facts["CapEff"], 16), int(facts["CapBnd"], 16), facts["NoNewPrivs"]) == (0, 0, "1")
    assert facts["Seccomp"] == "2", "with a filter"
    assert facts["NSpid"].split()[-1] == "1"
    touched = container.execute("sh", "-c", "for each in / /srv/shop /opt/venv; do touch $each/x; done")
    assert touched.output.count("Read-only file system") == 3
    assert status_of(container)["pid"] == 1
    assert container.stop(GRACE) == 0
    assert "Traceback" not in container.log()


def test_container_has_a_worker_for_each_core_and_counts_again_on_reload(run: Run, tmp_path: Path) -> None:
    limits = tmp_path / "cgroup"
    limits.mkdir()
    (limits / "cgroup.controllers").write_text("cpu memory\n")
    (limits / "cpu.max").write_text("150000 100000\n")
    container = run({limits: "/sys/fs/cgroup"}).until_healthy()
    assert status_of(container)["target"] == 1
    (limits / "cpu.max").write_text("max 100000\n")
    container.execute("outrider", "reload", "--no-canary").check()
    assert status_of(container)["target"] == len(os.sched_getaffinity(0))


def test_container_is_unhealthy_until_a_worker_serves_and_when_none_does(run: Run, shop: Path) -> None:
    closed = shop / "closed"
    closed.touch()
    container = run({shop: "/srv/shop"}, WEB_CONCURRENCY="1")
    container.until(lambda: "starting" in container.check_health().output, "a supervisor")
    assert container.check_health().code == 1
    closed.unlink()
    container.until_healthy()

    (shop / "broken").touch()
    worker = container.fetch("/pid")
    container.execute("sh", "-c", f"kill -9 {worker}")
    container.until(lambda: container.check_health().code == 1, "an unhealthy container")
    assert "not ready: 0 of 1 worker ready" in container.check_health().output
    (shop / "broken").unlink()
    container.until_healthy()


def test_container_finishes_its_requests_when_it_is_stopped(run: Run, shop: Path) -> None:
    container = run({shop: "/srv/shop"}).until_healthy()
    with subprocess.Popen(container.fetch_command("/gate"), stdout=subprocess.PIPE) as request:
        container.until(lambda: "held" in container.log(), "a request in flight")
        container.signal("SIGTERM")
        container.until(lambda: not container.fetch(seconds=1), "a container that takes nothing new")
        (shop / "open").touch()
        body, _ = request.communicate(timeout=GRACE)
    assert (request.returncode, body) == (0, b"first")
    assert container.wait(GRACE) == 0


def test_code_in_a_volume_is_reloaded_or_rolled_back(run: Run, shop: Path) -> None:
    container = run({shop: "/srv/shop"}).until_healthy()
    assert container.fetch() == "first"
    (shop / "shop.py").write_text(SHOP.replace("first", "second"))
    done = container.execute("outrider", "reload", "--no-canary")
    assert (done.code, container.fetch()) == (0, "second"), done.output
    (shop / "shop.py").write_text("raise RuntimeError('a typo')\n")
    done = container.execute("outrider", "reload")
    assert (done.code, container.fetch()) == (1, "second")
    assert "RuntimeError: a typo" in done.output


def test_process_1_reaps_orphans_of_strangers(run: Run, shop: Path) -> None:
    container = run({shop: "/srv/shop"}, WEB_CONCURRENCY="1").until_healthy()
    init = container.pid
    assert container.fetch("/orphan").strip().isdigit()
    container.until(lambda: len(children(init)) == 1, "an end of the orphan")
    container.until(
        lambda: not [each for each in process_table() if each.parent == init and each.state == "Z"], "no zombie"
    )


# The page


def test_commands_show_what_the_page_shows(run: Run, tmp_path: Path) -> None:
    limits = tmp_path / "cgroup"  # of two cores, as in the page
    limits.mkdir()
    (limits / "cgroup.controllers").write_text("cpu memory\n")
    (limits / "cpu.max").write_text("200000 100000\n")
    container = run({limits: "/sys/fs/cgroup"}, GUNICORN_CMD_ARGS="--canary-seconds 0.5").until_healthy()
    shown = [each for each in commands(PAGE) if each.text.startswith("docker exec shop ")]
    assert len(shown) == 3
    for command in shown:
        printed = container.execute(*shlex.split(command.text)[3:]).check()
        assert match(command.output, printed) is not None, f"{command}\n--- printed ---\n{printed}"


def test_page_makes_a_token_that_outrider_takes(tmp_path: Path) -> None:
    (command,) = (each for each in commands(PAGE) if "openssl" in each.text)
    subprocess.run(["bash", "-ec", command.text], cwd=tmp_path, check=True)
    assert token((tmp_path / "secrets/admin_token").read_text().strip())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


# Two of them behind the proxies of deploy/compose

MIX: Mix = {KeepAliveClient: 30, NewConnectionClient: 20, KeepAlivePostClient: 10}


@pytest.mark.parametrize("proxy", ["caddy", "traefik"])
def test_deployment_one_container_after_the_other_loses_no_request(proxy: str, image: Image, tmp_path: Path) -> None:
    with ExitStack() as stack:
        project = Project(image, tmp_path, stack)
        for name in SERVICES:
            project.start(name, 1)
        project.start_proxy(proxy)
        first, second = (partial(project.start, name, 2) for name in SERVICES)
        deployment = [first, partial(project.wait_until_used, 2), second]
        with project.entered():
            report = asyncio.run(Load((project.address, 80), mix=MIX).run(300, deployment))
        print(report)
        assert set(report.versions) == {"1", "2"}
        assert not report.lost, project.log()
        assert re.search(r'^127\.0\.0\.1 .*"HEAD / ', project.log(), re.MULTILINE), "the client, and not the proxy"
