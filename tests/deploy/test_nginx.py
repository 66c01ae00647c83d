"""deploy/nginx: real requests through a real nginx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing.programs import check_program, program
from outrider_testing.proxies import SECOND_HOST, Place, place, running, service
from outrider_testing.proxy_scenarios import ProxyScenarios, Stage, check_host_is_left_out, check_tls_passes_through

pytestmark = pytest.mark.external

_MAIN = """\
{modules}
user www-data;
worker_processes 2;
pid nginx.pid;
daemon off;
events {{ }}
{rest}
"""
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_HTTP = "http {{ access_log off; include {directory}/etc/shop.conf; }}"


def nginx(place: Place, rest: str, modules: str = "") -> list[str]:
    """The command of an nginx with this configuration, which must be valid."""
    path = place.directory / "etc/nginx.conf"
    path.write_text(_MAIN.format(rest=rest, modules=modules))
    command = [program("nginx", "apt install nginx"), "-e", "stderr", "-p", f"{place.directory}/run/", "-c", str(path)]
    assert "test is successful" in check_program([*command, "-t"])
    return command


def listening(place: Place, *ports: int) -> dict[str, str]:
    """What stands in the place of the `listen` directives; there is but one address, so IPv6 gets another port."""
    prefixes = (("[::]:", 1000), ("", 0))
    return {
        f"listen {prefix}{port}": f"listen {place.address}:{port + offset}"
        for port in ports
        for prefix, offset in prefixes
    }


def http(place: Place, *alternatives: str) -> list[str]:
    """The same with shop.conf."""
    text = place.render("nginx/shop.conf", *alternatives, changes=listening(place, 80, 443))
    (place.directory / "etc/shop.conf").write_text(text)
    return nginx(place, _HTTP.format(directory=place.directory))


@pytest.fixture(scope="module", params=["tcp", "unix"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """nginx in front of a service."""
    alternatives = () if request.param == "tcp" else (request.param,)
    with place() as here, service(here, "nginx", *alternatives, group="www-data") as server:
        (here.directory / "static/shop.css").write_text("body { }")
        (here.directory / "protected/invoice.txt").write_text("42")
        with running(here, http(here, *alternatives)) as proxy:
            yield Stage(here, server, proxy)


class TestNginx(ProxyScenarios):
    """What must hold behind every proxy."""

    def test_nginx_serves_static_files(self, stage: Stage) -> None:
        with stage.client() as client:
            response = client.get("/static/shop.css")
        assert (response.text, response.headers["server"].partition("/")[0]) == ("body { }", "nginx")

    def test_nginx_sends_the_file_that_the_application_names(self, stage: Stage) -> None:
        with stage.client() as client:
            assert client.get("/accelerated").text == "42"
            assert client.get("/protected/invoice.txt").status_code == 404


def test_host_that_stops_is_left_out() -> None:
    with (
        place() as here,
        service(here, "nginx") as first,
        service(here, "nginx", host=SECOND_HOST) as second,
        running(here, http(here, "two")) as proxy,
    ):
        # nginx has no active checks: it sees that connections are refused, and tries the other host.
        check_host_is_left_out(Stage(here, first, proxy), second, lambda: True)


def test_stream_passes_tls_and_the_client_to_outrider() -> None:
    module = f"load_module {_STREAM_MODULE};" if _STREAM_MODULE.exists() else ""
    with place() as here, service(here, "nginx", "proxy") as server:
        text = here.render("nginx/stream.conf", changes=listening(here, 443))
        with running(here, nginx(here, text, module)) as proxy:
            check_tls_passes_through(Stage(here, server, proxy))
