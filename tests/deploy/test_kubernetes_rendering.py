"""deploy/kubernetes, rendered by the real kubectl and Helm, and judged by the schemas of the API."""

from __future__ import annotations

import json
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
    "words that are something else without quotes": {
        "admin.secretKey": "1e3",
        "metrics.enabled": True,
        "networkPolicy": {"webNamespaces": ["on"], "metricsNamespace": "null"},
        "ingress": {"enabled": True, "host": "*.example.com", "className": ""},
    },
    "everything": {
        "name": "news",
        "image": {"repository": "registry.example.com/news", "tag": f"2.1.0@sha256:{'5' * 64}", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "app": "news.web:create.app",
        "extraArgs": ["--preload"],
        "env": [{"name": "DEBUG", "value": "verbose"}],
        "envFrom": [{"secretRef": {"name": "news-environment"}}],
        "volumes": [{"name": "certificate", "secret": {"secretName": "news-certificate"}}],
        "volumeMounts": [{"name": "certificate", "mountPath": "/etc/news"}],
        "workers": 13,
        "maxWorkerMemory": "333M",
        "resources": {"requests": {"cpu": "13", "memory": "5Gi"}, "limits": {"memory": "6Gi"}},
        "bootTimeout": 240,
        "drain": {"stopDelay": 20, "gracefulTimeout": 120, "margin": 15},
        "forwardedAllowIps": "192.0.2.0/24",
        "admin": {"secretName": "tokens", "secretKey": "news-token"},
        "autoscaling": {"minReplicas": 4, "maxReplicas": 44, "cpuUtilisation": 55, "loopUtilisation": "600m"},
        "metrics": {"enabled": True, "interval": "33s", "labels": {"release": "kube-prometheus-stack"}},
        "networkPolicy": {"webNamespaces": ["gateway"], "metricsNamespace": "observability"},
        "ingress": {
            "enabled": True,
            "className": "haproxy",
            "annotations": {"example.com/timeout": "1h"},
            "host": "news.example.com",
            "tlsSecretName": "news-web",
        },
        "serviceAccount": {"annotations": {"example.com/role": "reader"}},
        "podAnnotations": {"example.com/log": "collected"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "web", "operator": "Exists"}],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 77, "podAffinityTerm": {"topologyKey": "example.com/rack"}}
                ]
            }
        },
    },
}
IN_OTHER_TESTS = {"image.repository", "image.tag", "drain.margin", "replicas"}
"""Values that are a part of something else, or have no effect beside others."""
REFUSED: dict[str, tuple[str, Any, str]] = {
    "a value that there is not": ("replica", 3, "'replica' not allowed"),
    "an image without a tag": ("image.tag", "", "/image/tag"),
    "a tag of digits, which Helm takes for a number": ("image.tag", 1234567, "got number, want string"),
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
    (image,) = kubernetes.read(OVERLAYS / overlay / "kustomization.yaml")["images"]
    assert container["image"] == f"{image['newName']}:{tag}"
    assert kubernetes.environment_of(container)["WEB_CONCURRENCY"] == str(workers)
    scalers = [thing["spec"] for thing in things if thing["kind"] == "HorizontalPodAutoscaler"]
    assert ("replicas" in deployment["spec"]) is not bool(scalers), "one of the two sets the number of pods"
    assert all(2 < each["minReplicas"] < each["maxReplicas"] for each in scalers)


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
    variant = VARIANTS["everything"]
    things = kubernetes.render_chart(variant)
    container = container_of(by_kind(things)["Deployment", "news"])
    assert container["image"] == f"{variant['image']['repository']}:{variant['image']['tag']}"
    assert by_kind(things)["Service", "news"]["metadata"]["labels"]["app.kubernetes.io/version"] == "2.1.0"
    given = {path: value for path, value in _leaves(variant) if path not in IN_OTHER_TESTS and value is not True}
    wanted = {path for path, value in _leaves(kubernetes.read(CHART / "values.yaml")) if not isinstance(value, bool)}
    assert {path for path in wanted - IN_OTHER_TESTS if not any(each.startswith(path) for each in given)} == set()
    of_default = _words(kubernetes.render_chart({}))
    assert {path for path, value in given.items() if str(value) in of_default} == set(), "it would be there anyhow"
    found = _words(things)
    assert {path for path, value in given.items() if str(value) not in found} == set()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What is not made of other values, and its path; all items of a list have that of the list."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and value:
        for each in value:
            yield from _leaves(each, path)
    else:
        yield path, value


def _words(value: Any) -> set[str]:
    """What values are there, those of options without the option."""
    return {word for _, each in _leaves(value) for word in (str(each), str(each).partition("=")[2])}


def test_chart_passes_words_on_as_they_are() -> None:
    things = by_kind(kubernetes.render_chart(VARIANTS["words that are something else without quotes"]))
    ingress = things["Ingress", "shop"]["spec"]
    assert [rule["host"] for rule in ingress["rules"]] == ingress["tls"][0]["hosts"] == ["*.example.com"]
    assert "ingressClassName" not in ingress, "the default of the cluster"
    policy = things["NetworkPolicy", "shop"]["spec"]["ingress"]
    namespaces = [rule["from"][0]["namespaceSelector"]["matchLabels"] for rule in policy]
    assert namespaces == [{"kubernetes.io/metadata.name": "on"}, {"kubernetes.io/metadata.name": "null"}]
    volumes = things["Deployment", "shop"]["spec"]["template"]["spec"]["volumes"]
    assert [item["key"] for volume in volumes for item in volume.get("secret", {}).get("items", [])] == ["1e3"]


def test_chart_leaves_out_what_is_switched_off() -> None:
    assert {kind for kind, _ in by_kind(kubernetes.render_chart(VARIANTS["nothing optional"]))} == {
        *("Deployment", "Service", "ServiceAccount")
    }


def test_schema_is_of_the_values_that_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = kubernetes.read(CHART / "values.yaml")
    assert schema["properties"].keys() - {"global"} == values.keys()
    for name, part in schema["properties"].items():
        if "properties" in part:
            assert part["properties"].keys() - {"claims"} == values[name].keys(), name
            assert part["additionalProperties"] is False, name


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


def notes(values: Mapping[str, Any]) -> str:
    """What Helm says after an installation."""
    return kubernetes.helm("install", "shop", str(CHART), "--dry-run=client", *set_values(values)).partition("NOTES")[2]


def test_chart_says_how_to_make_the_secret_that_its_pods_wait_for() -> None:
    shown = notes({"admin.secretName": "tokens"})
    assert "create secret generic tokens" in shown
    assert "forwardedAllowIps" not in shown


@pytest.mark.parametrize(
    "values, warning",
    [
        ({"ingress.enabled": True}, "forwardedAllowIps is empty"),
        ({"forwardedAllowIps": "10.0.0.0/8"}, "forwardedAllowIps without networkPolicy.webNamespaces"),
    ],
)
def test_chart_warns_of_a_proxy_that_is_not_believed_or_a_network_that_is(values: Any, warning: str) -> None:
    assert warning in notes(values)


def test_service_gets_another_name_by_one_command(tmp_path: Path) -> None:
    (line,) = (each for each in (BASE / "kustomization.yaml").read_text().splitlines() if "sed -i" in each)
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
    subprocess.run(line.lstrip("# ").replace("NAME", "news"), shell=True, check=True, cwd=tmp_path)  # noqa: S602  # a pipe
    things = kubernetes.render_kustomization(tmp_path / "deploy" / "kubernetes" / "overlays" / "production")
    assert "shop" not in yaml.safe_dump_all(things)
    assert ("Deployment", "news") in by_kind(things)
