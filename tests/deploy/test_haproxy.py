"""deploy/haproxy/haproxy.cfg and tcp.cfg: real requests through a real HAProxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outrider_testing.http_client import HTTPConnection, connect
from outrider_testing.programs import check_program, program
from outrider_testing.proxies import HTTPS, SECOND_HOST, Place, place, running, service
from outrider_testing.proxy_scenarios import ProxyScenarios, Stage, check_host_is_left_out, check_tls_passes_through
from outrider_testing.waiting import until

pytestmark = pytest.mark.external


def haproxy(place: Place, path: str, *alternatives: str) -> list[str]:
    """The command of a HAProxy with this configuration, which must be valid."""
    changes = {
        "log /dev/log local0": "log stdout format raw local0",
        "chroot /var/lib/haproxy": f"chroot {place.directory}/run",
        "/run/haproxy/admin.sock": f"{place.directory}/run/admin.sock",
        "bind :443": f"bind {place.address}:443",
        "bind :::443 v6only": f"bind {place.address}:1443",
    }
    if path == "haproxy/haproxy.cfg":
        changes |= {
            "bind :80": f"bind {place.address}:80",
            "bind :::80 v6only": f"bind {place.address}:1080",
            "addr 127.0.0.1": f"addr {place.address}",
        }
    config = place.directory / "etc/haproxy.cfg"
    config.write_text(place.render(path, *alternatives, changes=changes))
    command = [program("haproxy", "apt install haproxy"), "-db", "-f", str(config)]
    out = check_program([*command, "-c"])
    assert "Configuration file is valid" in out, out
    assert "WARNING" not in out, out
    return command


@pytest.fixture(scope="module", params=["tcp", "h2c", "unix"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """HAProxy in front of a service."""
    alternatives = () if request.param == "tcp" else (request.param,)
    with place() as here:
        (here.directory / "run/shop").mkdir()
        with (
            service(here, "haproxy", *alternatives, group="haproxy") as server,
            running(here, haproxy(here, "haproxy/haproxy.cfg", *alternatives)) as proxy,
        ):
            yield Stage(here, server, proxy, "2" if request.param == "h2c" else "1.1")


class TestHAProxy(ProxyScenarios):
    """What must hold behind every proxy."""

    # HAProxy sees that a client has gone when it next has something for it.
    LEFT = "/ticks/left"


def is_down(place: Place, server: str) -> bool:
    """Tell whether HAProxy knows that a server is down, by its own account."""
    with connect(f"{place.directory}/run/admin.sock") as sock:
        sock.sendall(b"show servers state shop\n")
        table = sock.makefile().read()
    (row,) = (line.split() for line in table.splitlines() if f" {server} " in line)
    operational_state = row[5]  # management guide, "show servers state": 0 is stopped, 2 running
    return operational_state == "0"


def test_host_that_stops_is_left_out() -> None:
    with (
        place() as here,
        service(here, "haproxy") as first,
        service(here, "haproxy", host=SECOND_HOST) as second,
        running(here, haproxy(here, "haproxy/haproxy.cfg", "two")) as proxy,
    ):
        check_host_is_left_out(Stage(here, first, proxy), second, lambda: is_down(here, "shop1"))


def test_tcp_passes_tls_and_the_client_to_outrider() -> None:
    with (
        place() as here,
        service(here, "haproxy", "proxy") as server,
        running(here, haproxy(here, "haproxy/tcp.cfg")) as proxy,
    ):
        check_tls_passes_through(Stage(here, server, proxy))


def test_reload_of_haproxy_answers_on_connections_that_were_kept() -> None:
    with (
        place() as here,
        service(here, "haproxy", workers=1),
        running(here, command := haproxy(here, "haproxy/haproxy.cfg")) as old,
        HTTPConnection((here.address, HTTPS), tls=here.client_context()) as connection,
    ):
        connection.request("GET", "/pid")
        with running(here, [*command, "-sf", str(old.process.pid)]):
            until(lambda: "Proxy web stopped" in old.log(), 10.0, what="the old HAProxy to know")
            response = connection.request("POST", "/echo", body=b"x")
            assert (response.status, response.field("connection")) == (200, "close")
