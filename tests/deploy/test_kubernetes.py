"""The files of deploy/kubernetes as they are: arithmetic, names, and that Outrider understands what they tell it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_supervisor import fleet
from outrider_supervisor.embedded_server import CONFIG
from outrider_supervisor.metrics import METRICS
from outrider_supervisor.settings import SupervisorSettings
from outrider_testing import kubernetes
from outrider_testing.kubernetes import BASE, COMPONENTS, KUBERNETES, OVERLAYS, base, container_of, option
from outrider_testing.server_process import SUPPORT

APP = "async def app(scope, receive, send): ...\n"
KUSTOMIZATIONS = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
OVERHEAD = 192 << 20
"""Supervisor and master."""


def deployment() -> kubernetes.Thing:
    return base("Deployment")


def container() -> kubernetes.Thing:
    return container_of(deployment())


def sized() -> dict[str, kubernetes.Thing]:
    """The base's container with the resources of each environment."""
    found = {"base": container()}
    for overlay in OVERLAYS.iterdir():
        patch = container_of(kubernetes.read(overlay / "deployment.yaml"))
        found[overlay.name] = container() | {"resources": patch["resources"]}
    return found


# -- structure


@pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_kustomization_names_files_that_there_are(directory: Path) -> None:
    content = kubernetes.read(directory / "kustomization.yaml")
    named = [*content["resources"], *content.get("components", [])]
    named += [each["path"] for each in content.get("patches", []) if "path" in each]
    assert [name for name in named if not (directory / name).exists()] == []
    here = {path.name for path in directory.glob("*.yaml")} - {"kustomization.yaml"}
    assert {name for name in here if not name.endswith(".values.yaml")} <= set(named)


def test_every_object_is_selected_by_the_labels_of_the_pods() -> None:
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    assert deployment()["spec"]["selector"]["matchLabels"] == labels
    assert base("Service")["spec"]["selector"] == labels
    assert base("Service", "shop-admin")["spec"]["selector"] == labels
    assert base("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert base("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    spread = deployment()["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [each["labelSelector"]["matchLabels"] for each in spread] == [labels] * 2
    assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}, "there may be a single zone, or node"
    monitor = kubernetes.read(COMPONENTS / "prometheus" / "servicemonitor.yaml")
    assert monitor["spec"]["selector"]["matchLabels"] == base("Service", "shop-admin")["metadata"]["labels"]


def test_autoscaler_alone_sets_the_number_of_pods() -> None:
    assert "replicas" not in deployment()["spec"]
    target = base("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}
    assert not [each for each in container()["args"] if each.startswith(("--max-workers", "--min-workers", "-w"))]


def test_autoscaler_looks_at_the_container_that_there_is() -> None:
    scaler = base("HorizontalPodAutoscaler")["spec"]
    with_prometheus = kubernetes.read(COMPONENTS / "prometheus" / "horizontalpodautoscaler.yaml")["spec"]
    (cpu,) = scaler["metrics"]
    assert with_prometheus["metrics"][0] == cpu, "the list of the component takes the place of the base's"
    assert cpu["containerResource"]["container"] == container()["name"]
    assert 0 < cpu["containerResource"]["target"]["averageUtilization"] < 100
    assert 2 <= scaler["minReplicas"] <= scaler["maxReplicas"]
    grace = deployment()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] > grace, "each pod less is a drain"


def test_rollout_never_has_fewer_pods_than_before() -> None:
    assert deployment()["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": "25%"}
    assert deployment()["spec"]["minReadySeconds"] >= 10, "one that crashes at once does not count"


def test_node_can_be_drained_and_takes_one_pod_at_a_time() -> None:
    budget = base("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget, "with one pod it would hold up the node for ever"
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_metrics_are_of_every_pod_by_itself_also_of_those_that_boot_or_drain() -> None:
    service = base("Service", "shop-admin")["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert "publishNotReadyAddresses" not in base("Service")["spec"], "requests are for pods that are ready"


def test_pod_meets_the_restricted_pod_security_standard() -> None:
    pod = deployment()["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} == {"emptyDir", "secret"}
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert base("ServiceAccount")["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


# -- time


def test_pod_has_the_time_that_a_drain_may_take() -> None:
    grace = deployment()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    stop_delay = int(option(container(), "stop-delay"))
    graceful_timeout = int(option(container(), "graceful-timeout"))
    margin = fleet.OVERTIME + CONFIG.graceful_timeout  # what the supervisor waits for beyond it, and its own endpoint
    assert grace >= stop_delay + graceful_timeout + margin + 1
    assert grace == 10 + 30 + 10, "the comment in deployment.yaml says so"


def test_pod_leaves_the_endpoints_before_it_drains() -> None:
    probe = container()["readinessProbe"]
    assert probe["httpGet"]["path"] == "/readyz"
    # A pod that is deleted leaves at once; one whose service is stopped in it within this.
    assert probe["periodSeconds"] * probe["failureThreshold"] <= int(option(container(), "stop-delay"))


def test_liveness_asks_the_supervisor_alone_and_with_patience() -> None:
    """A pod that has too much to do, or whose workers hang, is not killed: others would have to do its work."""
    probe = container()["livenessProbe"]
    assert probe["httpGet"]["path"] == "/livez"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60


def test_pod_may_boot_for_as_long_as_a_worker_may() -> None:
    probe = container()["startupProbe"]
    assert probe["httpGet"]["path"] == "/readyz"
    boot_timeout = int(option(container(), "boot-timeout"))
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 2 * boot_timeout
    assert deployment()["spec"]["progressDeadlineSeconds"] > probe["periodSeconds"] * probe["failureThreshold"]


def test_traefik_closes_idle_connections_first() -> None:
    assert int(option(container(), "keep-alive")) > 90, "its idleConnTimeout, unless set"


# -- resources


@pytest.mark.parametrize("environment, workers", [("base", 2), ("staging", 1), ("production", 4)])
def test_pod_has_a_worker_for_each_core(environment: str, workers: int) -> None:
    assert kubernetes.environment_of(sized()[environment])["WEB_CONCURRENCY"] == str(workers)


@pytest.mark.parametrize("environment", ["base", "staging", "production"])
def test_workers_fit_into_the_memory_limit(environment: str) -> None:
    resources = sized()[environment]["resources"]
    workers = int(kubernetes.environment_of(sized()[environment])["WEB_CONCURRENCY"])
    surge = SupervisorSettings().max_surge
    most = (workers + surge) * kubernetes.size(option(container(), "max-worker-memory")) + OVERHEAD
    assert most <= kubernetes.size(resources["limits"]["memory"])
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


# -- names that must be the same in several places


def test_ports_are_those_that_outrider_binds() -> None:
    ports = {each["name"]: each["containerPort"] for each in container()["ports"]}
    assert option(container(), "bind") == f"0.0.0.0:{ports['http']}"
    assert option(container(), "admin-bind") == f"0.0.0.0:{ports['admin']}"
    for name, port in (("shop", "http"), ("shop-admin", "admin")):
        (service,) = base("Service", name)["spec"]["ports"]
        assert (service["name"], service["targetPort"], service["appProtocol"]) == (port, port, "http")
    (rule,) = kubernetes.read(COMPONENTS / "ingress" / "ingress.yaml")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "shop", "port": {"name": "http"}}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"]["port"] == "admin"
    for policy in (base("NetworkPolicy"), kubernetes.read(COMPONENTS / "ingress" / "networkpolicy.yaml")):
        allowed = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
        assert allowed == ["http", "admin"]
    assert kubernetes.read(COMPONENTS / "prometheus" / "servicemonitor.yaml")["spec"]["endpoints"][0]["port"] == "admin"


def test_pod_runs_as_the_service_account_that_there_is() -> None:
    assert deployment()["spec"]["template"]["spec"]["serviceAccountName"] == base("ServiceAccount")["metadata"]["name"]


def test_token_is_where_outrider_looks_for_it() -> None:
    (mount,) = (each for each in container()["volumeMounts"] if each["name"] == "admin-token")
    volumes = {each["name"]: each for each in deployment()["spec"]["template"]["spec"]["volumes"]}
    secret = volumes["admin-token"]["secret"]
    (item,) = secret["items"]
    assert secret["defaultMode"] == 0o440, "root owns it; the pod reads it by its fsGroup"
    assert option(container(), "admin-token-file") == f"{mount['mountPath']}/{item['path']}"
    monitor = kubernetes.read(COMPONENTS / "prometheus" / "servicemonitor.yaml")
    credentials = monitor["spec"]["endpoints"][0]["authorization"]["credentials"]
    assert credentials == {"name": secret["secretName"], "key": item["key"]}


def test_adapter_asks_the_prometheus_that_may_scrape() -> None:
    values = kubernetes.read(COMPONENTS / "prometheus" / "prometheus-adapter.values.yaml")
    (_, of_admin) = base("NetworkPolicy")["spec"]["ingress"]
    (scraper,) = of_admin["from"]
    namespace = scraper["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    where = {"url": f"http://prometheus-operated.{namespace}.svc", "port": 9090}
    assert values["prometheus"] == where, "the Service that the operator makes"


def test_metrics_of_the_autoscaler_are_exported() -> None:
    (rule,) = kubernetes.read(COMPONENTS / "prometheus" / "prometheus-adapter.values.yaml")["rules"]["custom"]
    labels = {metric.shown_name: set(metric.labels) for metric in METRICS}
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    names = set(re.findall(r"outrider_\w+", query))
    assert names == {"outrider_worker_event_loop_busy_ratio", "outrider_workers"} <= labels.keys()
    assert "state" in labels["outrider_workers"]
    assert not {"namespace", "pod"} & set().union(*(labels[name] for name in names)), "these are the target's"
    assert rule["resources"]["overrides"] == {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
    scaler = kubernetes.read(COMPONENTS / "prometheus" / "horizontalpodautoscaler.yaml")
    (asked,) = (each["pods"]["metric"]["name"] for each in scaler["spec"]["metrics"] if each["type"] == "Pods")
    assert asked == rule["name"]["as"]


def test_pod_runs_what_the_image_runs_as_the_same_user() -> None:
    dockerfile = (KUBERNETES.parent / "docker" / "Dockerfile").read_text(encoding="utf-8")
    said = dict(re.findall(r"^(USER|EXPOSE|ENTRYPOINT|CMD) (.+)$", dockerfile, re.MULTILINE))
    pod = deployment()["spec"]["template"]["spec"]["securityContext"]
    assert said["USER"] == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert pod["fsGroup"] == pod["runAsGroup"]
    assert int(said["EXPOSE"]) in {each["containerPort"] for each in container()["ports"]}
    assert container()["command"] == json.loads(said["ENTRYPOINT"]) + json.loads(said["CMD"])


# -- Outrider's word


def test_check_accepts_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "token").write_text("0123456789abcdef\n")
    pod = container()
    program, run, app = pod["command"]
    assert (program, run) == ("outrider", "run")
    token = option(pod, "admin-token-file")
    words = [each.replace(token, str(tmp_path / "token")) for each in pod["args"]]
    done = subprocess.run(
        [sys.executable, "-m", "outrider_supervisor.cli", "check", app, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SUPPORT)} | kubernetes.environment_of(pod),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_file_has_a_secret() -> None:
    things = [
        thing for path in [BASE, *COMPONENTS.iterdir()] for thing in map(kubernetes.read, kubernetes.files_of(path))
    ]
    assert "Secret" not in {thing["kind"] for thing in things}
