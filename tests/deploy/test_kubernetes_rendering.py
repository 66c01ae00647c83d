"""deploy/kubernetes, rendered by the real kubectl and Helm, and judged by the schemas of the API."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider_testing import kubernetes
from outrider_testing.kubernetes import (
    BASE,
    CHART,
    COMPONENTS,
    KUBERNETES,
    OVERLAYS,
    Thing,
    by_kind,
    container_of,
    set_values,
)

pytestmark = pytest.mark.external

VERSIONS = ("1.30", "1.37")
"""The oldest that the chart takes, and the newest there is."""
OF_HELM = ("app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart")
EQUIVALENT: dict[str, tuple[Sequence[str], Mapping[str, Any]]] = {
    "nothing more": ((), {}),
    "prometheus": (("prometheus",), {"metrics.enabled": True}),
    "ingress": (
        ("ingress",),
        {"ingress.enabled": True, "networkPolicy.webNamespaces": ["traefik"], "forwardedAllowIps": "10.0.0.0/8"},
    ),
    "both": (
        ("prometheus", "ingress"),
        {
            "metrics.enabled": True,
            "ingress.enabled": True,
            "networkPolicy.webNamespaces": ["traefik"],
            "forwardedAllowIps": "10.0.0.0/8",
        },
    ),
}
"""Components of the base, and the values of the chart that do the same."""
VARIANTS: dict[str, dict[str, Any]] = {
    "no autoscaling": {"autoscaling.enabled": False, "replicas": 3},
    "nothing optional": {
        "autoscaling.enabled": False,
        "podDisruptionBudget.enabled": False,
        "networkPolicy.enabled": False,
    },
    "everything": {
        "name": "news",
        "image": {"repository": "registry.example.com/news", "tag": f"2.1.0@sha256:{'5' * 64}", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "app": "news.web:create.app",
        "extraArgs": ["--preload"],
        "env": [{"name": "DEBUG", "value": "0"}],
        "envFrom": [{"secretRef": {"name": "news"}}],
        "volumes": [{"name": "certificate", "secret": {"secretName": "news-tls"}}],
        "volumeMounts": [{"name": "certificate", "mountPath": "/etc/news"}],
        "workers": 3,
        "bootTimeout": 240,
        "admin.secretName": "tokens",
        "admin.secretKey": "news",
        "metrics": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}},
        "autoscaling.loopUtilisation": "600m",
        "ingress": {"enabled": True, "annotations": {"example.com/timeout": "1h"}, "host": "news.example.com"},
        "drain": {"stopDelay": 20, "gracefulTimeout": 120, "margin": 15},
        "serviceAccount.annotations": {"example.com/role": "news"},
        "podAnnotations": {"example.com/log": "json"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "web", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    },
}
REFUSED: dict[str, tuple[str, Any, str]] = {
    "a value that there is not": ("replica", 3, "'replica' not allowed"),
    "an image without a tag": ("image.tag", "", "/image/tag"),
    "a tag that is taken away": ("image.tag", None, "missing property 'tag'"),
    "an application without its object": ("app", "shop", "/app"),
    "a margin that a master which hangs would use up": ("drain.margin", 5, "/drain/margin"),
    "no workers": ("workers", 0, "/workers"),
    "a memory limit that is missing": ("resources.limits", None, "missing property 'limits'"),
}
"""Values, and what the refusal names."""


def without_marks_of_helm(thing: Thing) -> Thing:
    labels = {name: value for name, value in thing["metadata"]["labels"].items() if name not in OF_HELM}
    return thing | {"metadata": thing["metadata"] | {"labels": labels}}


def render_with(components: Sequence[str], directory: Path) -> list[Thing]:
    """Render the base with some components."""
    copy = directory / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    kustomization = {"resources": ["../base"], "components": [f"../components/{name}" for name in components]}
    (copy / "with").mkdir()
    (copy / "with" / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kubernetes.render_kustomization(copy / "with")


@pytest.mark.parametrize("name", EQUIVALENT)
def test_chart_renders_what_kustomize_renders(name: str, tmp_path: Path) -> None:
    components, values = EQUIVALENT[name]
    kustomized = by_kind(render_with(components, tmp_path))
    charted = by_kind(map(without_marks_of_helm, kubernetes.render_chart(values)))
    assert charted.keys() == kustomized.keys()
    for key, thing in kustomized.items():
        assert _unordered(charted[key]) == _unordered(thing), key


def _unordered(value: Any) -> Any:
    """With the variables of the environment, which Kustomize's patches put first, by name."""
    if isinstance(value, dict):
        return {key: _unordered(each) for key, each in value.items()}
    if isinstance(value, list):
        items = [_unordered(each) for each in value]
        return sorted(items, key=lambda each: str(each["name"])) if _are_variables(items) else items
    return value


def _are_variables(items: list[Any]) -> bool:
    return all(isinstance(each, dict) and {"name"} < each.keys() <= {"name", "value", "valueFrom"} for each in items)


def test_api_knows_every_object_and_field_and_no_other() -> None:
    things = [
        *kubernetes.render_kustomization(BASE),
        *(thing for overlay in OVERLAYS.iterdir() for thing in kubernetes.render_kustomization(overlay)),
        *kubernetes.render_chart(EQUIVALENT["both"][1]),
        *(thing for values in VARIANTS.values() for thing in kubernetes.render_chart(values)),
    ]
    assert {thing["kind"] for thing in things} == {
        *("Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "Service"),
        *("ServiceAccount", "ServiceMonitor"),
    }
    # It is asked once, for it takes seconds to start.
    misspelt = kubernetes.base("Service") | {"sepc": {}}
    monitor = kubernetes.read(COMPONENTS / "prometheus" / "servicemonitor.yaml")
    monitor["spec"]["endpoints"][0]["authorisation"] = {}
    problems = kubernetes.judge([*things, misspelt, monitor], *VERSIONS)
    assert ["sepc" in each for each in problems] == [True, True, False, False], problems
    assert ["ServiceMonitor shop: it has a field" in each for each in problems] == [False, False, True, True], problems


@pytest.mark.parametrize("overlay, workers, tag", [("staging", 1, "1.1.0-rc1"), ("production", 4, "1.0.0")])
def test_overlay_has_its_namespace_image_and_size(overlay: str, workers: int, tag: str) -> None:
    things = kubernetes.render_kustomization(OVERLAYS / overlay)
    assert {thing["metadata"]["namespace"] for thing in things} == {f"shop-{overlay}"}
    (deployment,) = (thing for thing in things if thing["kind"] == "Deployment")
    container = container_of(deployment)
    assert container["image"].endswith(f"/shop:{tag}")
    assert kubernetes.environment_of(container)["WEB_CONCURRENCY"] == str(workers)
    scaled = "HorizontalPodAutoscaler" in {thing["kind"] for thing in things}
    assert ("replicas" in deployment["spec"]) is not scaled, "one of the two sets the number of pods"


def test_chart_gives_the_pod_the_time_that_its_boot_and_its_drain_take() -> None:
    deployment = by_kind(kubernetes.render_chart(VARIANTS["everything"]))["Deployment", "news"]
    container = container_of(deployment)
    given = {name: kubernetes.option(container, name) for name in ("boot-timeout", "stop-delay", "graceful-timeout")}
    assert given == {"boot-timeout": "240", "stop-delay": "20", "graceful-timeout": "120"}
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 20 + 120 + 15
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 2 * 240
    assert deployment["spec"]["progressDeadlineSeconds"] > 2 * 240


def test_chart_uses_every_value() -> None:
    things = kubernetes.render_chart(VARIANTS["everything"])
    container = container_of(by_kind(things)["Deployment", "news"])
    assert kubernetes.environment_of(container) == {"WEB_CONCURRENCY": "3", "DEBUG": "0"}
    assert container["command"] == ["outrider", "run", "news.web:create.app"]
    assert by_kind(things)["Service", "news"]["metadata"]["labels"]["app.kubernetes.io/version"] == "2.1.0"
    rendered = yaml.safe_dump_all(things, width=1000)
    assert [value for value in _words(VARIANTS["everything"]) if value not in rendered] == []


def _words(value: Any) -> Iterator[str]:
    """The strings in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _words(each)


def test_chart_sets_replicas_only_without_autoscaling() -> None:
    fixed = by_kind(kubernetes.render_chart(VARIANTS["no autoscaling"]))
    assert fixed["Deployment", "shop"]["spec"]["replicas"] == 3
    assert ("HorizontalPodAutoscaler", "shop") not in fixed


@pytest.mark.parametrize("what", REFUSED)
def test_chart_refuses_a_value(what: str) -> None:
    name, value, named = REFUSED[what]
    message = kubernetes.helm("template", "shop", str(CHART), *set_values({name: value}), status=1)
    assert "values don't meet the specifications of the schema" in message, message
    assert named in message


def test_helm_lints_the_chart() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in kubernetes.helm("lint", "--strict", str(CHART), *set_values({}))


def test_chart_says_how_to_make_the_secret_that_its_pods_wait_for() -> None:
    values = set_values({"admin.secretName": "tokens"})
    shown = kubernetes.helm("install", "shop", str(CHART), "--dry-run=client", *values)
    assert "create secret generic tokens" in shown


def test_service_gets_another_name_by_one_command(tmp_path: Path) -> None:
    (line,) = (each for each in (BASE / "kustomization.yaml").read_text().splitlines() if "sed -i" in each)
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
    subprocess.run(line.lstrip("# ").replace("NAME", "news"), shell=True, check=True, cwd=tmp_path)  # noqa: S602  # a pipe
    things = kubernetes.render_kustomization(tmp_path / "deploy" / "kubernetes" / "overlays" / "production")
    assert "shop" not in yaml.safe_dump_all(things)
    assert ("Deployment", "news") in by_kind(things)
