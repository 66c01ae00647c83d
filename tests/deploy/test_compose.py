"""deploy/compose: valid by the specification, and one with itself, with the image, and with what Outrider does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider_supervisor.application import OutriderConfig
from outrider_supervisor.master import END_MARGIN
from outrider_supervisor.pool import DRAIN_MARGIN
from outrider_testing.compose_project import COMPOSE
from outrider_testing.containers import DOCKER

FILES = ("compose.caddy.yaml", "compose.traefik.yaml")
STYLE = """
extends: default
rules:
  comments: {min-spaces-from-content: 1, require-starting-space: false}  # "#sticky" marks an alternative
  comments-indentation: disable
  document-start: disable
  line-length: {max: 120}
"""


def load(name: str) -> Any:
    return yaml.safe_load((COMPOSE / name).read_text())


def services(name: str) -> dict[str, Any]:
    """The services of a file, with what they take over from shop.yaml by `extends`; none changes any of it."""
    found = load(name)["services"]
    for key, service in found.items():
        if "extends" in service:
            assert service == {"extends": {"file": "shop.yaml", "service": "shop"}}, key
            found[key] = load("shop.yaml")["services"]["shop"]
    return dict(found)


def seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)(ms|s|m)", duration)
    assert match, duration
    return int(match[1]) * {"ms": 0.001, "s": 1, "m": 60}[match[2]]


def settings() -> dict[str, Any]:
    """What deploy/docker/gunicorn.conf.py and the environment in shop.yaml set."""
    values: dict[str, Any] = {}
    exec((DOCKER / "gunicorn.conf.py").read_text(), values)  # noqa: S102  # it is ours
    arguments = load("shop.yaml")["services"]["shop"]["environment"]["GUNICORN_CMD_ARGS"]
    options = vars(OutriderConfig().parser().parse_args(shlex.split(arguments)))
    return values | {name: value for name, value in options.items() if value is not None}


def tool(name: str, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    done = subprocess.run(command, cwd=COMPOSE, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# By the tools of others


def test_files_are_what_the_compose_specification_allows() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "shop.yaml", *FILES)


def test_yaml_is_tidy() -> None:
    tool("yamllint", "--strict", "--config-data", STYLE, ".")


# With itself


@pytest.mark.parametrize("name", FILES)
def test_what_is_named_is_there(name: str) -> None:
    project = load(name)
    used: dict[str, set[str]] = {"networks": set(), "volumes": set(), "secrets": set()}
    for service in services(name).values():
        used["networks"].update(service["networks"])
        used["secrets"].update(service.get("secrets", ()))
        instances = [key for key in services(name) if key != "proxy"] if service["image"] != "shop" else []
        assert service.get("depends_on", {}) == {key: {"condition": "service_healthy"} for key in instances}
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).is_dir(), source
            else:
                used["volumes"].add(source)
    for kind, names in used.items():
        assert names == set(project.get(kind, ())), kind


def test_image_is_built_from_what_is_there() -> None:
    build = load("shop.yaml")["services"]["shop"]["build"]
    assert (COMPOSE / build["context"] / "Dockerfile").is_file()
    needed = set(re.findall(r"^COPY --from=(\w+) ", (DOCKER / "Dockerfile").read_text(), re.MULTILINE))
    stages = set(re.findall(r"^FROM .* AS (\w+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE))
    assert needed - stages == set(build["additional_contexts"])
    assert (COMPOSE / build["additional_contexts"]["outrider"] / "pyproject.toml").is_file()


@pytest.mark.parametrize("name", FILES)
def test_secret_is_a_file_that_is_not_in_the_repository(name: str) -> None:
    assert load(name)["secrets"] == {"admin_token": {"file": "./secrets/admin_token"}}
    assert not (COMPOSE / "secrets").exists()
    assert (COMPOSE / ".gitignore").read_text() == "/secrets/\n"
    assert settings()["admin_token_file"] == "/run/secrets/admin_token"


# With the image and with Outrider


@pytest.mark.parametrize("name", FILES)
def test_every_service_is_kept_small(name: str) -> None:
    for service in services(name).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        assert service["restart"] == "unless-stopped"
        assert not service.get("privileged")
        assert "healthcheck" in service
        assert service["logging"] == {"driver": "local"}, "it rotates"
        added = ["NET_BIND_SERVICE"] if service["image"] != "shop" else None
        assert service.get("cap_add") == added


@pytest.mark.parametrize("name", FILES)
def test_clients_reach_the_proxy_alone(name: str) -> None:
    """The service believes whoever reaches it (FORWARDED_ALLOW_IPS)."""
    assert {"80:80", "443:443"} <= set(services(name)["proxy"]["ports"]) <= {"80:80", "443:443", "443:443/udp"}
    for key, service in services(name).items():
        assert ("ports" in service, set(service["networks"])) == (
            (True, {"frontend", "backend"}) if key == "proxy" else (False, {"backend"})
        )


def test_container_is_given_the_time_that_a_drain_takes() -> None:
    shop = load("shop.yaml")["services"]["shop"]
    longest = settings()["graceful_timeout"] + DRAIN_MARGIN + END_MARGIN
    assert seconds(shop["stop_grace_period"]) >= longest
    assert shop["tmpfs"] == ["/tmp"], "where the control socket is; the root filesystem is read-only"  # noqa: S108  # the container's


@pytest.mark.parametrize("name", FILES)
def test_proxy_is_given_the_time_to_finish_what_it_holds(name: str) -> None:
    transport = load("traefik/traefik.yaml")["entryPoints"]["websecure"]["transport"]
    patience = {
        "compose.caddy.yaml": words_of_caddy()["grace_period"],
        "compose.traefik.yaml": transport["lifeCycle"]["graceTimeOut"],
    }
    assert settings()["graceful_timeout"] <= seconds(patience[name])
    assert seconds(patience[name]) < seconds(services(name)["proxy"]["stop_grace_period"])


def test_service_believes_the_proxy() -> None:
    assert load("shop.yaml")["services"]["shop"]["environment"]["FORWARDED_ALLOW_IPS"] == "*"
    assert settings()["secure_scheme_headers"] == {"X-FORWARDED-PROTO": "https"}, "Caddy and Traefik replace it"


def test_health_check_is_that_of_the_image() -> None:
    check = load("shop.yaml")["services"]["shop"]["healthcheck"]
    text = (DOCKER / "Dockerfile").read_text()
    ((options, command),) = re.findall(r"^HEALTHCHECK ([^\[]*)CMD (\[.*\])$", text, re.MULTILINE)
    assert ["CMD", *yaml.safe_load(command)] == check.pop("test")
    assert seconds(check.pop("start_interval")) <= 1, "`up --wait` ends as soon as the service is ready"
    in_image = dict(re.findall(r"--([\w-]+)=(\w+)", options))
    assert in_image == {name.replace("_", "-"): str(value) for name, value in check.items()}


def test_service_that_boots_slowly_or_misses_a_check_is_not_given_up() -> None:
    check = load("shop.yaml")["services"]["shop"]["healthcheck"]
    assert check["retries"] > 1
    assert seconds(check["start_period"]) >= 30
    assert seconds(check["interval"]) * check["retries"] <= 60


# With the proxies


def test_traefik_knows_its_own_names() -> None:
    static, dynamic = load("traefik/traefik.yaml"), load("traefik/dynamic.yaml")["http"]
    (router,) = dynamic["routers"].values()
    assert set(router["entryPoints"]) <= set(static["entryPoints"])
    assert router["service"] in dynamic["services"]
    assert set(router["middlewares"]) == set(dynamic["middlewares"])
    resolver = static["entryPoints"]["websecure"]["http"]["tls"]["certResolver"]
    storage = static["certificatesResolvers"][resolver]["acme"]["storage"]
    (proxy,) = (service for key, service in services("compose.traefik.yaml").items() if key == "proxy")
    inside = dict(volume.split(":")[:2] for volume in proxy["volumes"])
    assert str(Path(storage).parent) == inside["certificates"]
    assert Path(static["providers"]["file"]["filename"]).parent == Path(inside["./traefik"])
    assert (COMPOSE / "traefik" / Path(static["providers"]["file"]["filename"]).name).is_file()
    assert "ping" in static, "the container's health check asks for it"


def test_traefik_sends_clients_to_tls_and_lets_them_upload() -> None:
    points = load("traefik/traefik.yaml")["entryPoints"]
    redirection = points["web"]["http"]["redirections"]["entryPoint"]
    assert redirection == {"to": "websecure", "scheme": "https"}
    assert seconds(points["websecure"]["transport"]["respondingTimeouts"]["readTimeout"]) >= 600


def test_traefik_sends_requests_where_the_service_listens() -> None:
    balancer = load("traefik/dynamic.yaml")["http"]["services"]["shop"]["loadBalancer"]
    port = port_of_service()
    instances = [key for key in services("compose.traefik.yaml") if key != "proxy"]
    assert [each["url"] for each in balancer["servers"]] == [f"http://{key}:{port}" for key in instances]
    check = balancer["healthCheck"]
    check_admin_endpoint(check["path"], check["port"], check["interval"])
    transport = load("traefik/dynamic.yaml")["http"]["serversTransports"][balancer["serversTransport"]]
    check_times(
        transport["forwardingTimeouts"]["idleConnTimeout"], transport["forwardingTimeouts"]["responseHeaderTimeout"]
    )


def test_proxies_pass_on_nothing_that_clients_claim_to_be() -> None:
    (headers, _) = load("traefik/dynamic.yaml")["http"]["middlewares"].values()
    by_traefik = {name for name, value in headers["headers"]["customRequestHeaders"].items() if not value}
    by_caddy = set(re.findall(r"header_up -([\w-]+)", (COMPOSE / "caddy" / "Caddyfile").read_text()))
    assert by_traefik == {"X-Forwarded-Protocol", "X-Forwarded-Ssl", "Forwarded"}
    assert by_caddy == {*by_traefik, "X-Forwarded-Port"}, "Traefik replaces that"


def test_proxies_believe_no_client() -> None:
    points = load("traefik/traefik.yaml")["entryPoints"]
    assert ["forwardedHeaders" in point or "proxyProtocol" in point for point in points.values()] == [False, False]
    assert "trusted_proxies" not in (COMPOSE / "caddy" / "Caddyfile").read_text()


def test_proxies_try_again_until_they_have_noticed() -> None:
    http = load("traefik/dynamic.yaml")["http"]
    assert len(http["services"]["shop"]["loadBalancer"]["servers"]) == 2
    # Each finds the one of two that is down by one chance in two; all of them, by one in half a million.
    assert http["middlewares"]["shop-retry"]["retry"]["attempts"] == 20
    words = words_of_caddy()
    assert seconds(words["lb_try_duration"]) > 2 * seconds(words["health_interval"])


def test_sticky_sessions_are_two_lines_to_uncomment() -> None:
    text = (COMPOSE / "traefik" / "dynamic.yaml").read_text().replace("#sticky ", "")
    balancer = yaml.safe_load(text)["http"]["services"]["shop"]["loadBalancer"]
    assert balancer["sticky"]["cookie"]["httpOnly"] is True


def test_caddy_keeps_its_certificates_and_tries_again_what_it_should() -> None:
    proxy = services("compose.caddy.yaml")["proxy"]
    inside = dict(volume.split(":")[:2] for volume in proxy["volumes"])
    assert inside == {"./caddy": "/etc/caddy", "certificates": "/data", "state": "/config"}, "as the image has it"
    version = tuple(map(int, proxy["image"].removeprefix("caddy:").split(".")))
    assert version >= (2, 11), "caddy#7546"


def test_caddy_sends_requests_where_the_service_listens() -> None:
    words = words_of_caddy()
    port = port_of_service()
    instances = [key for key in services("compose.caddy.yaml") if key != "proxy"]
    assert words["reverse_proxy"].split() == [f"{key}:{port}" for key in instances]
    check_admin_endpoint(words["health_uri"], words["health_port"], words["health_interval"])
    check_times(words["keepalive"], words["response_header_timeout"])


def words_of_caddy() -> dict[str, str]:
    """The first word of each line in the Caddyfile, and the others."""
    text = (COMPOSE / "caddy" / "Caddyfile").read_text()
    return dict(re.findall(r"^\t+(\w+) (.*?)(?: [#{].*)?$", text, re.MULTILINE))


def port_of_service() -> str:
    host, _, port = settings()["bind"].rpartition(":")
    assert host == "0.0.0.0", "the proxy is in another container"
    return str(port)


def check_admin_endpoint(path: str, port: int | str, interval: str) -> None:
    assert path == "/readyz"
    assert seconds(interval) <= 1, "a deployment waits 3 s until a new container is used"
    assert settings()["admin_bind"] == f"0.0.0.0:{port}"


def check_times(idle: str, response: str) -> None:
    """The proxy closes idle connections first, and waits longer than a drain lasts."""
    assert seconds(idle) < settings()["keepalive"]
    assert seconds(response) > settings()["graceful_timeout"]
