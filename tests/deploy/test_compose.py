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
        assert set(service.get("depends_on", ())) <= set(services(name))
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
    assert [each.get("cap_add") for key, each in services(name).items() if key != "proxy"] == [None, None]


@pytest.mark.parametrize("name", FILES)
def test_clients_reach_the_proxy_alone(name: str) -> None:
    """The service believes whoever reaches it (FORWARDED_ALLOW_IPS)."""
    for key, service in services(name).items():
        assert ("ports" in service, set(service["networks"])) == (
            (True, {"frontend", "backend"}) if key == "proxy" else (False, {"backend"})
        )


def test_container_is_given_the_time_that_a_drain_takes() -> None:
    shop = load("shop.yaml")["services"]["shop"]
    longest = settings()["graceful_timeout"] + DRAIN_MARGIN + END_MARGIN
    assert seconds(shop["stop_grace_period"]) >= longest
    assert shop["tmpfs"] == ["/tmp"], "where the control socket is; the root filesystem is read-only"  # noqa: S108  # the container's


def test_health_check_is_that_of_the_image() -> None:
    shop = load("shop.yaml")["services"]["shop"]
    (command,) = re.findall(r"HEALTHCHECK [^\[]*(\[.*\])$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert ["CMD", *yaml.safe_load(command)] == shop["healthcheck"]["test"]


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


def test_traefik_sends_requests_where_the_service_listens() -> None:
    balancer = load("traefik/dynamic.yaml")["http"]["services"]["shop"]["loadBalancer"]
    port = settings()["bind"].rpartition(":")[2]
    instances = [key for key in services("compose.traefik.yaml") if key != "proxy"]
    assert [each["url"] for each in balancer["servers"]] == [f"http://{key}:{port}" for key in instances]
    assert settings()["admin_bind"] == f"0.0.0.0:{balancer['healthCheck']['port']}"
    transport = load("traefik/dynamic.yaml")["http"]["serversTransports"][balancer["serversTransport"]]
    check_times(
        transport["forwardingTimeouts"]["idleConnTimeout"], transport["forwardingTimeouts"]["responseHeaderTimeout"]
    )


def test_sticky_sessions_are_two_lines_to_uncomment() -> None:
    text = (COMPOSE / "traefik" / "dynamic.yaml").read_text().replace("#sticky ", "")
    balancer = yaml.safe_load(text)["http"]["services"]["shop"]["loadBalancer"]
    assert balancer["sticky"]["cookie"]["httpOnly"] is True


def test_caddy_sends_requests_where_the_service_listens() -> None:
    text = (COMPOSE / "caddy" / "Caddyfile").read_text()
    words = dict(
        re.findall(
            r"^\t+(reverse_proxy|health_port|keepalive|response_header_timeout) (.*?)(?: [#{].*)?$", text, re.MULTILINE
        )
    )
    port = settings()["bind"].rpartition(":")[2]
    instances = [key for key in services("compose.caddy.yaml") if key != "proxy"]
    assert words["reverse_proxy"].split() == [f"{key}:{port}" for key in instances]
    assert settings()["admin_bind"] == f"0.0.0.0:{words['health_port']}"
    check_times(words["keepalive"], words["response_header_timeout"])


def check_times(idle: str, response: str) -> None:
    """The proxy closes idle connections first, and waits longer than a drain lasts."""
    assert seconds(idle) < settings()["keepalive"]
    assert seconds(response) > settings()["graceful_timeout"]
