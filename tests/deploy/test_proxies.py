"""The files of deploy/ for proxies, as far as reading them tells; test_nginx.py and its like run them."""

from __future__ import annotations

import re
import runpy

import pytest
import yaml

from outrider_testing.proxies import DEPLOY, choose

# Seconds after which the proxy closes an idle connection, and for which it waits for a response.
_IDLE = {
    "nginx/shop.conf": r"^    keepalive_timeout (\d+)s;",
    "caddy/Caddyfile": r"\tkeepalive (\d+)s$",
    "traefik/dynamic/shop.yml": r"idleConnTimeout: (\d+)s$",
}
_RESPONSE = {
    "nginx/shop.conf": r"proxy_read_timeout (\d+)s;",
    "haproxy/haproxy.cfg": r"timeout server (\d+)s$",
    "haproxy/tcp.cfg": r"timeout server (\d+)s$",
    "caddy/Caddyfile": r"response_header_timeout (\d+)s$",
    "traefik/dynamic/shop.yml": r"responseHeaderTimeout: (\d+)s$",
}


def seconds(path: str, pattern: str) -> int:
    """The number in a file."""
    (found,) = re.findall(pattern, (DEPLOY / path).read_text(), re.MULTILINE)
    return int(found)


def setting(path: str, name: str) -> int:
    """A setting of the gunicorn.conf.py that belongs to a file."""
    value = runpy.run_path(str(DEPLOY / path.partition("/")[0] / "gunicorn.conf.py"))[name]
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("path", _IDLE)
def test_proxy_closes_an_idle_connection_before_outrider_does(path: str) -> None:
    assert seconds(path, _IDLE[path]) < setting(path, "keepalive")


@pytest.mark.parametrize("path", _RESPONSE)
def test_proxy_waits_for_longer_than_a_drain(path: str) -> None:
    assert seconds(path, _RESPONSE[path]) > setting(path, "graceful_timeout")


@pytest.mark.parametrize("path", ["haproxy/haproxy.cfg", "haproxy/many-hosts.cfg"])
def test_reload_of_haproxy_is_to_answer_on_connections_that_were_kept(path: str) -> None:
    assert "    option idle-close-on-response\n" in (DEPLOY / path).read_text()


def test_upload_may_take_longer_than_the_minute_of_traefik() -> None:
    assert seconds("traefik/traefik.yml", r"readTimeout: (\d+)s") > 60


def test_service_of_traefik_has_the_timeouts_of_its_file() -> None:
    http = yaml.safe_load((DEPLOY / "traefik/dynamic/shop.yml").read_text())["http"]
    assert http["services"]["shop"]["loadBalancer"]["serversTransport"] in http["serversTransports"]


@pytest.mark.parametrize("name", ["traefik.yml", "dynamic/shop.yml"])
def test_yaml_is_yaml_with_every_alternative(name: str) -> None:
    text = (DEPLOY / "traefik" / name).read_text()
    for alternative in sorted({*re.findall(r"^\s*#([a-z0-9]+) ", text, re.MULTILINE)}):
        assert yaml.safe_load(choose(text, alternative))
