"""The commands of docs/how-to/proxies.md, with the files at the paths they are for, on a machine of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing.certificates import Authority
from outrider_testing.documented import REPOSITORY, Command, commands, files
from outrider_testing.network import Host, isolated
from outrider_testing.programs import program
from outrider_testing.shown_output import match
from outrider_testing.waiting import until

pytestmark = pytest.mark.external

PAGE = "docs/how-to/proxies.md"
NAME, CLIENT = "shop.example.com", "203.0.113.7"
PROXIES = {
    "nginx": ("nginx", "-g", "daemon off;"),
    "HAProxy": ("haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg"),
    "Caddy": ("caddy", "run", "--config", "/etc/caddy/Caddyfile"),
    "Traefik": ("traefik", "--configFile=/etc/traefik/traefik.yml"),
}
CHECK = "Check it"


def test_every_command_is_run_here() -> None:
    assert {command.section for command in commands(PAGE)} == {*PROXIES, CHECK}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A machine with an /etc of its own, where NAME is CLIENT, which has a certificate for it."""
    with isolated() as host:
        host.run("mkdir", "-m", "700", "/run/outrider")
        host.run("mkdir", "/run/etc", "/run/etc/new", "/run/etc/work", "/run/haproxy")
        layers = "lowerdir=/etc,upperdir=/run/etc/new,workdir=/run/etc/work"
        host.run("mount", "-t", "overlay", "overlay", "-o", layers, "/etc")
        host.run("ip", "address", "add", f"{CLIENT}/32", "dev", "lo")
        host.run("sh", "-c", f"echo {CLIENT} {NAME} >>/etc/hosts; mkdir -p /etc/ssl/shop /etc/caddy /srv/shop")
        authority = Authority()
        certificate, key = (Path(path) for path in authority.write_pair(tmp_path, "shop", NAME))
        authority.write_authority(tmp_path / "ca.pem")
        for name, text in {
            "fullchain.pem": certificate.read_text(),
            "privkey.pem": key.read_text(),
            "shop.pem": certificate.read_text() + key.read_text(),
        }.items():
            host.path(f"/etc/ssl/shop/{name}").write_text(text)
        for file in files(PAGE):
            host.path(f"/srv/shop/{file.path}").write_text(file.text)
        yield host


def type_in(host: Host, command: Command, authority: Path) -> None:
    """Run a command as the page shows it; its output must be what the page shows."""
    printed = host.run(
        *("env", f"CURL_CA_BUNDLE={authority}", f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"),
        *("sh", "-c", command.text.replace("sudo ", "")),
        directory=REPOSITORY,
    )
    if command.language == "console":
        assert match(command.output, printed) is not None, f"{command}\n{printed}"


@contextlib.contextmanager
def started(host: Host, log: Path, *words: str, directory: str = "/") -> Iterator[None]:
    """A process on the host, which is ended afterwards; its log is printed."""
    with log.open("wb") as output:
        command = host.command(*words, directory=directory)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        print(f"--- {words[0]} ---\n{log.read_text()[-5000:]}")
        process.terminate()
        process.wait(20)


def answers(host: Host, url: str, authority: Path) -> None:
    """Wait until it does."""
    until(lambda: host.run("curl", "-sf", "--cacert", str(authority), url, check=False), 20.0, what=url)


@pytest.mark.parametrize("proxy", PROXIES)
def test_page_leads_to_a_service_behind_the_proxy(host: Host, tmp_path: Path, proxy: str) -> None:
    authority = tmp_path / "ca.pem"
    here = [command for command in commands(PAGE) if command.section == proxy]
    check = [command for command in commands(PAGE) if command.section == CHECK]
    for command in here:
        type_in(host, command, authority)
    if proxy == "Caddy":  # which could not get a certificate here
        path = host.path("/etc/caddy/Caddyfile")
        path.write_text(path.read_text().replace("#tls ", ""))
    settings = REPOSITORY / f"deploy/{proxy.lower()}/gunicorn.conf.py"
    outrider = (sys.executable, "-m", "outrider_supervisor.cli", "run", "shop:app", "--name", "shop")
    name, *options = PROXIES[proxy]
    environment = ("env", "RUNTIME_DIRECTORY=/run/outrider", f"HOME={tmp_path}")
    with started(host, tmp_path / "service.log", *environment, *outrider, "-c", str(settings), directory="/srv/shop"):
        answers(host, "http://127.0.0.1:9100/readyz", authority)
        with started(host, tmp_path / "proxy.log", *environment, program(name, "see .ci/run"), *options):
            answers(host, f"https://{NAME}/", authority)
            for command in check:
                type_in(host, command, authority)
