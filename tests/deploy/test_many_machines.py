"""HAProxy in front of three hosts, each a network namespace: what clients lose while hosts are reloaded, stop, and die.

The configurations, the scripts and the commands are those of docs/how-to/many-machines.md and the files it names.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator

import pytest

from outrider_testing import releases
from outrider_testing.documented import REPOSITORY, Command, commands
from outrider_testing.http_client import HTTPConnection, can_connect, encode_request, fetch
from outrider_testing.load import Load, Report
from outrider_testing.load_clients import (
    HalfSentPostClient,
    KeepAliveClient,
    KeepAlivePostClient,
    NewConnectionClient,
    Outcome,
    Pace,
    SlowStreamClient,
)
from outrider_testing.many_machines import PROXY_CONFIG, START_DEADLINE, Shop, Site, running_site
from outrider_testing.shown_output import match
from outrider_testing.waiting import until

pytestmark = [pytest.mark.external, pytest.mark.timeout(120)]

PAGE = "docs/how-to/many-machines.md"
HOSTS, DEPLOY, FAILURE, STOP = "The hosts", "Deploy", "When a host fails", "Take a host out"
MIX = {
    KeepAliveClient: 40,
    KeepAlivePostClient: 20,
    NewConnectionClient: 20,
    HalfSentPostClient: 10,
    SlowStreamClient: 5,
}
COOKIE = "cookie host insert indirect nocache"
PACE = Pace(silence=(0.1, 0.4), stream=(0.5, 1.0))


@pytest.fixture(scope="module")
def module_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The hosts with release 1, and HAProxy, for all tests here."""
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(module_site: Site) -> Site:
    """The same with all hosts up, and no release but the first two on them."""
    until(module_site.all_up, START_DEADLINE, what="three hosts that are up")
    return module_site


def shown(section: str) -> tuple[Command, ...]:
    """The commands in a section of the page."""
    return tuple(command for command in commands(PAGE) if command.section == section)


def type_shown(site: Site, command: Command, status: int = 0) -> None:
    """Type a command of the page, and see that it prints what the page shows."""
    printed = site.type(command.text, status)
    is_as_shown = command.language == "sh" or match(command.output, printed) is not None
    assert is_as_shown, f"{command}\n--- shown ---\n{command.output}\n--- printed ---\n{printed}"


def load(site: Site, *actions: Callable[[], object], requests: int = 300) -> Report:
    """Load HAProxy while the actions run."""
    with site.client.entered():
        report = asyncio.run(Load((site.proxy.address, 80), mix=MIX, pace=PACE).run(requests, actions))
    print(report)
    return report


def check_nothing_lost(report: Report) -> None:
    assert all(report.requests_of(kind) >= 5 for kind in MIX), f"too few requests of a kind\n{report}"
    assert not report.lost, f"{report}"


def bring_back(site: Site, shop: Shop) -> None:
    """Start a host's service anew, once HAProxy has noticed that it was away, and wait until HAProxy uses it again."""
    until(lambda: site.state_of(shop) == "DOWN", START_DEADLINE, what="HAProxy to notice")
    shop.start()
    shop.wait_until_serving()
    until(site.all_up, START_DEADLINE, what="HAProxy to use it again")


def print_in_flight(site: Site, shop: Shop) -> None:
    """Wait until a host has requests in flight, and say how many: there is something to lose."""
    number = until(lambda: site.in_flight(shop), START_DEADLINE, what="requests in flight")
    print(f"{number} requests in flight on {shop.host.name}")


def test_every_command_of_the_page_is_typed_here() -> None:
    assert {command.section for command in commands(PAGE)} == {HOSTS, DEPLOY, FAILURE, STOP}


def test_hosts_are_as_the_page_shows_them(site: Site) -> None:
    status, readiness = shown(HOSTS)
    type_shown(site, status)
    type_shown(site, readiness)


def test_sticky_session_stays_on_its_host(site: Site) -> None:
    text = re.sub(r"^( *server (shop\d) .*)", r"\1 cookie \2", PROXY_CONFIG.read_text(), flags=re.MULTILINE)
    text = text.replace("balance leastconn", f"balance leastconn\n    {COOKIE}").replace("bind :80\n", "bind :8080\n")
    site.start_proxy(re.sub(r"^ *stats socket.*\n", "", text, flags=re.MULTILINE))
    address = (site.proxy.address, 8080)
    with site.client.entered():
        until(lambda: can_connect(address), START_DEADLINE)
        first = fetch(address, "/pid")
        cookie = [("Cookie", first.field("set-cookie").partition(";")[0])]
        again = [fetch(address, "/pid", fields=cookie) for _ in range(5)]
        again += [fetch(address, "/echo", fields=cookie, body=b"x") for _ in range(5)]
    (host,) = (shop.host for shop in site.shops.values() if int(first.field("x-pid")) in shop.host.processes())
    assert {int(response.field("x-pid")) for response in again} <= set(host.processes())
    assert COOKIE in (REPOSITORY / PAGE).read_text()


def test_request_that_must_not_happen_twice_has_a_connection_of_its_own(site: Site) -> None:
    """One that had been kept might be closed just then."""
    with site.client.entered(), HTTPConnection((site.proxy.address, 80)) as connection:
        for body in (None, b"x") * 5:
            assert connection.request("GET" if body is None else "POST", "/echo", body=body).status == 200
    assert site.reused("shop")
    assert not site.reused("shop_once")


@pytest.mark.parametrize("method,status", [("GET", 200), ("POST", 502)])
def test_request_whose_worker_dies_is_repeated_only_if_that_is_harmless(site: Site, method: str, status: int) -> None:
    held, opened = (site.directory / f"{method}.{suffix}" for suffix in ("held", "open"))
    with site.client.entered(), HTTPConnection((site.proxy.address, 80)) as connection:
        connection.send(encode_request(method, f"/gate/{method}", body=None if method == "GET" else b"x"))
        until(held.exists, START_DEADLINE, what="a worker that has it")
        (shop,) = (shop for shop in site.shops.values() if site.in_flight(shop))
        held.unlink()
        shop.kill_workers()
        opened.touch()
        assert connection.read_response().status == status
    assert held.exists() == (status == 200)
    shop.wait_until_serving()


def test_rolling_reload_loses_nothing(site: Site) -> None:
    bring, rolling_reload = shown(DEPLOY)
    site.build(releases.good(2))
    type_shown(site, bring)
    check_nothing_lost(load(site, lambda: type_shown(site, rolling_reload)))
    assert site.versions() == ["2", "2", "2"]


def test_rolling_reload_stops_where_a_release_does_not_start(site: Site) -> None:
    rolling_reload, way_back = shown(FAILURE)
    site.bring("2", releases.good(2))
    site.bring("3", releases.good(3), shop2=releases.faulty(3, "startup fails"))
    before = site.versions()

    def fail() -> None:
        type_shown(site, rolling_reload, 1)
        assert site.versions() == ["3", *before[1:]]
        assert site.releases() == ["3", *before[1:]]

    def go_back() -> None:
        type_shown(site, way_back)

    check_nothing_lost(load(site, fail, go_back))
    assert site.versions() == ["2", *before[1:]]


def test_rolling_reload_stops_where_a_release_cannot_be_imported(site: Site) -> None:
    shop = site.shops["shop2"]
    versions = site.versions()
    before = [each.generation for each in site.shops.values()]
    shop.write_release(shop.release, "import nothing_there\n")
    output = ""

    def rolling_reload() -> None:
        nonlocal output
        output = site.type("deploy/rolling-reload shop1 shop2 shop3", 1)

    check_nothing_lost(load(site, rolling_reload))
    after = [each.generation for each in site.shops.values()]
    assert after == [before[0] + 1, *before[1:]]
    assert site.versions() == versions
    assert "outrider: shop: reload: rolled back: " in output
    assert "rolling-reload: stopped, shop2 failed with exit status 1" in output
    shop.write_release(shop.release, releases.good(versions[1]))


def test_host_that_is_stopped_and_started_loses_nothing(site: Site) -> None:
    shop = site.shops["shop2"]

    def stop() -> None:
        (command,) = shown(STOP)
        type_shown(site, command)
        assert shop.wait() == 0
        assert site.state_of(shop) == "DOWN", "HAProxy has noticed while the host still served"

    def start() -> None:
        bring_back(site, shop)

    check_nothing_lost(load(site, stop, start))


def test_host_that_is_killed_loses_only_what_was_in_flight_there(site: Site) -> None:
    shop = site.shops["shop1"]

    def kill() -> None:
        print_in_flight(site, shop)
        shop.host.kill_processes()

    def start() -> None:
        bring_back(site, shop)

    report = load(site, kill, start)
    assert all(report.windows[0].touches(each) for each in report.lost), f"{report}"
    repeatable = {KeepAliveClient.kind, NewConnectionClient.kind}
    assert not [each for each in report.lost if each.kind in repeatable], f"{report}"


def test_host_whose_cable_is_pulled_loses_only_what_was_in_flight_there(site: Site) -> None:
    shop = site.shops["shop3"]

    def pull() -> None:
        print_in_flight(site, shop)
        shop.host.set_link(up=False)

    def plug() -> None:
        until(lambda: site.state_of(shop) == "DOWN", START_DEADLINE, what="HAProxy to notice")
        until(lambda: not site.in_flight(shop), START_DEADLINE, what="the end of the connections")
        shop.host.set_link(up=True)
        until(site.all_up, START_DEADLINE, what="HAProxy to use it again")

    report = load(site, pull, plug)
    assert all(report.windows[0].touches(each) for each in report.lost), f"{report}"
    assert not report.count(Outcome.NO_ANSWER), f"{report}"
