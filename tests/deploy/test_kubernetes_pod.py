"""The pod of deploy/kubernetes without a cluster: its very command, environment, user, mounts and probes.

What Kubernetes would give it is made by hand: a network of its own, a root file system that is read-only, the volumes
with the owners and modes that the kubelet gives them, no capabilities, process 1. Probes and requests come from another
machine of that network, as the kubelet's and the proxy's do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider_testing import kubernetes
from outrider_testing.documented import REPOSITORY
from outrider_testing.http_client import HTTPConnection, Response, can_connect, encode_request, fetch
from outrider_testing.kubernetes import COMPONENTS, base, container_of
from outrider_testing.network import Host, network
from outrider_testing.processes import children
from outrider_testing.programs import check_programs
from outrider_testing.prometheus import Prometheus
from outrider_testing.server_process import SUPPORT
from outrider_testing.waiting import until

pytestmark = [pytest.mark.external, pytest.mark.timeout(180)]

TOKEN = "0123456789abcdef"
IMAGE = REPOSITORY / "deploy" / "docker"
LOG = "/tmp/log"  # noqa: S108  # of the pod, as the next
PROBE = "/tmp/probe"  # noqa: S108
CHECKOUT = "/run/checkout"
START_DEADLINE = 40.0


class Pod:
    """One pod of the base, behind the ingress component, on a machine of its own; `node` is where others are."""

    def __init__(self, host: Host, node: Host, changed: Mapping[str, int]) -> None:
        """Start it, with some options of the command changed."""
        self.host = host
        self.node = node
        self.spec = base("Deployment")["spec"]["template"]["spec"]
        self.container = container_of(base("Deployment"))
        for name, value in changed.items():
            was = f"--{name}={kubernetes.option(self.container, name)}"
            self.container["args"][self.container["args"].index(was)] = f"--{name}={value}"
        behind = container_of(kubernetes.read(COMPONENTS / "ingress" / "deployment.yaml"))
        self.environment = kubernetes.environment_of(self.container) | kubernetes.environment_of(behind)
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self._make_image()
        self._make_volumes()
        host.run("mount", "-o", "remount,bind,ro", "/")
        self._log = host.path(LOG).open("wb")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the container: process 1, which --kill-child ends with the test."""
        command = [*self.container["command"], *self.container["args"]]
        return subprocess.Popen(
            self.host.command("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *self._as_user(), *command),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _make_image(self) -> None:
        """WORKDIR: the image's configuration, and an application that a test can look into."""
        directory = self.host.path("/srv/shop")
        directory.mkdir()
        (directory / "shop.py").write_text("from outrider_testing.apps.probe import app as app\n")
        (directory / "gunicorn.conf.py").write_text((IMAGE / "gunicorn.conf.py").read_text())
        self.host.run("mount", "-o", "remount,ro", "/srv")

    def _make_volumes(self) -> None:
        """With owners and modes as the kubelet makes them where there is an fsGroup."""
        group = str(self.spec["securityContext"]["fsGroup"])
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        # The checkout may be in a directory that a volume covers.
        self.host.path(CHECKOUT).mkdir()
        self.host.run("mount", "--bind", str(REPOSITORY), CHECKOUT)
        for mount in self.container["volumeMounts"]:
            path = self.host.path(mount["mountPath"])
            path.mkdir(parents=True, exist_ok=True)
            self.host.run("mount", "-t", "tmpfs", "-o", f"mode=2777,gid={group}", "tmpfs", mount["mountPath"])
            secret = volumes[mount["name"]].get("secret")
            if secret:
                self._write_secret(path, secret, TOKEN)
            if mount.get("readOnly"):
                self.host.run("mount", "-o", "remount,ro", mount["mountPath"])
        self.host.run("mkdir", "-p", str(REPOSITORY))
        self.host.run("mount", "--bind", CHECKOUT, str(REPOSITORY))
        self.host.path(PROBE).mkdir()
        self.host.path(PROBE).chmod(0o777)

    def _write_secret(self, path: Path, secret: Mapping[str, Any], token: str) -> None:
        """As the kubelet does: what is mounted are links to the latest of several directories."""
        (item,) = secret["items"]
        version = path / f"..{token}"
        version.mkdir()
        file = version / item["path"]
        file.write_text(token)
        file.chmod(secret["defaultMode"])
        os.chown(file, 0, self.spec["securityContext"]["fsGroup"])
        (path / "..data_tmp").symlink_to(version.name)
        (path / "..data_tmp").replace(path / "..data")
        if not (path / item["path"]).is_symlink():
            (path / item["path"]).symlink_to(Path("..data", item["path"]))

    def _as_user(self) -> list[str]:
        user = str(self.spec["securityContext"]["runAsUser"])
        group = str(self.spec["securityContext"]["runAsGroup"])
        # The Python of the tests may be where only root can read it; a container's is not.
        kept = [f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
        of_test = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(SUPPORT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PROBE_DIRECTORY": PROBE,
        }
        variables = [f"{name}={value}" for name, value in (of_test | self.environment).items()]
        who = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", *kept]
        return [*who, "env", "--ignore-environment", "--chdir=/srv/shop", *variables]

    # What others see

    def ask(self, port: str, target: str, fields: dict[str, str] | None = None) -> Response:
        with self.node.entered():
            return fetch((self.host.address, self.ports[port]), target, fields=(fields or {}).items(), timeout=20)

    def probe(self, name: str) -> int:
        """Do what the kubelet does for a probe; 0 where nobody listens."""
        request = self.container[name]["httpGet"]
        try:
            return self.ask(request["port"], request["path"]).status
        except ConnectionError:
            return 0

    def hold(self, name: str) -> HTTPConnection:
        """Send a request that the application answers when `release` is called for it."""
        with self.node.entered():
            connection = HTTPConnection((self.host.address, self.ports["http"]), timeout=60)
        connection.send(encode_request("GET", f"/gate/{name}"))
        until(self.host.path(f"{PROBE}/{name}.held").exists, 10, what=f"{name} in flight")
        return connection

    def release(self, name: str) -> None:
        self.host.path(f"{PROBE}/{name}.open").touch()

    @contextlib.contextmanager
    def blocked_loop(self) -> Iterator[None]:
        """Have the application block the event loop of one worker, in a call that uses no CPU."""
        with self.node.entered():
            connection = HTTPConnection((self.host.address, self.ports["http"]), timeout=60)
        with connection:
            connection.send(encode_request("GET", "/block?gate=blocked"))
            until(lambda: "blocking" in self.host.path(f"{PROBE}/events").read_text(), 10, what="a blocked loop")
            try:
                yield
            finally:
                self.release("blocked")
            assert connection.read_response().status == 200

    def busy_ratios(self) -> list[float]:
        """How busy each worker's loop is, by the metrics; 0 alone before any is known."""
        text = self.ask("admin", "/metrics", {"Authorization": f"Bearer {TOKEN}"}).text
        found = re.findall(r"^outrider_worker_event_loop_busy_ratio\{.*} (\S+)$", text, re.MULTILINE)
        return [float(value) for value in found] or [0]

    # What Kubernetes does

    def execute(self, *words: str) -> str:
        """What `kubectl exec` does."""
        (first,) = children(self.process.pid)
        inside = ["nsenter", "--target", str(first), "--net", "--mount", "--pid", "--wdns=/", "--", *self._as_user()]
        return subprocess.run([*inside, *words], capture_output=True, text=True, timeout=60, check=True).stdout

    def change_token(self, token: str) -> None:
        """Have the Secret changed, and the kubelet notice."""
        (volume,) = (each for each in self.spec["volumes"] if "secret" in each)
        (mount,) = (each for each in self.container["volumeMounts"] if each["name"] == volume["name"])
        self.host.run("mount", "-o", "remount,rw", mount["mountPath"])
        self._write_secret(self.host.path(mount["mountPath"]), volume["secret"], token)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to process 1."""
        (first,) = children(self.process.pid)
        os.kill(first, number)

    def restart_killed(self) -> None:
        """Kill the container, and start it again in the same volumes."""
        self.signal(signal.SIGKILL)
        self.process.wait(10)
        self.process = self._start()
        self.until_started()

    def until_started(self) -> None:
        until(lambda: self.process.poll() is None and self.probe("startupProbe") == 200, START_DEADLINE)

    def log_text(self) -> str:
        return self.host.path(LOG).read_text(errors="replace")

    def close(self) -> None:
        self._log.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@contextlib.contextmanager
def running_pod(**changed: int) -> Iterator[Pod]:
    """A pod that is ready; options of its command may be changed, such as stop_delay=5."""
    check_programs({"setpriv": "util-linux"})
    with network(pod="10.2.0.10", node="10.2.0.20") as hosts:
        options = {name.replace("_", "-"): value for name, value in changed.items()}
        pod = Pod(hosts["pod"], hosts["node"], options)
        try:
            try:
                pod.until_started()
                yield pod
            finally:
                pod.close()
        except BaseException:
            print(pod.log_text())
            raise


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    with running_pod() as pod:
        yield pod


def test_probes_are_answered(pod: Pod) -> None:
    assert [pod.probe(name) for name in ("startupProbe", "readinessProbe", "livenessProbe")] == [200] * 3


def test_pod_has_as_many_workers_as_it_reserves_cores(pod: Pod) -> None:
    workers = pod.environment["WEB_CONCURRENCY"]
    assert f"shop: serving, {workers} of {workers} workers ready" in pod.execute("outrider", "status")


def test_metrics_need_the_token_of_the_secret(pod: Pod) -> None:
    endpoint = kubernetes.read(COMPONENTS / "prometheus" / "servicemonitor.yaml")["spec"]["endpoints"][0]
    assert pod.ask(endpoint["port"], endpoint["path"]).status == 401
    bearer = {"Authorization": f"{endpoint['authorization']['type']} {TOKEN}"}
    assert 'outrider_workers{state="ready"} 2.0' in pod.ask(endpoint["port"], endpoint["path"], bearer).text


def test_application_sees_the_client_behind_the_proxy(pod: Pod) -> None:
    forwarded = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    seen: dict[str, Any] = pod.ask("http", "/identity", forwarded).json()
    assert (seen["client"][0], seen["scheme"]) == ("192.0.2.7", "https")
    assert seen["uid"] == pod.spec["securityContext"]["runAsUser"]


def test_adapter_finds_out_that_a_loop_is_blocked(pod: Pod, tmp_path: Path) -> None:
    """A real Prometheus scrapes the pod as the ServiceMonitor says, and answers the adapter's query."""
    endpoint = kubernetes.read(COMPONENTS / "prometheus" / "servicemonitor.yaml")["spec"]["endpoints"][0]
    (tmp_path / "token").write_text(TOKEN)
    where = f"{pod.host.address}:{pod.ports[endpoint['port']]}"
    targets = [(where, "shop-1", "Running"), (f"{pod.node.address}:1", "shop-2", "Pending")]
    relabelings = [
        {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in each.items()}
        for each in endpoint["relabelings"]
    ]
    job = {
        "job_name": "shop-admin",
        "scrape_interval": "1s",
        "metrics_path": endpoint["path"],
        "authorization": {"type": endpoint["authorization"]["type"], "credentials_file": str(tmp_path / "token")},
        "static_configs": [
            {
                "targets": [address],
                "labels": {"namespace": "default", "pod": name, "__meta_kubernetes_pod_phase": phase},
            }
            for address, name, phase in targets
        ],
        "relabel_configs": relabelings,
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    (rule,) = kubernetes.read(COMPONENTS / "prometheus" / "prometheus-adapter.values.yaml")["rules"]["custom"]
    # The adapter fills its templates so for two pods of a namespace.
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    query = query.replace("<<.LabelMatchers>>", 'namespace="default",pod=~"shop-1|shop-2"').replace(
        "<<.GroupBy>>", "pod"
    )
    with pod.blocked_loop():
        until(lambda: max(pod.busy_ratios()) > 0.9, 20, what="a worker that says so, by its last 5 to 10 s")
        prometheus = Prometheus(pod.node, tmp_path / "prometheus.yml", tmp_path)
        try:
            prometheus.wait_until_scraped()
            until(lambda: prometheus.query(rule["seriesQuery"]), 10, what="the series, as the adapter finds it")

            def looks_busy() -> bool:
                # A step of the query is at each quarter of a minute: the next one sees the latest scrape.
                found = prometheus.query(query, at=time.time() + 15)
                return found.keys() == {"shop-1"} and 0.4 < found["shop-1"] < 0.7

            until(looks_busy, 20, what="one of two loops blocked")
        finally:
            prometheus.close()


def test_reload_by_kubectl_exec_takes_a_new_token(pod: Pod) -> None:
    pod.change_token("fedcba9876543210")
    output = pod.execute("outrider", "reload", "--no-canary")
    assert "generation 2 is current" in output
    assert pod.ask("admin", "/metrics", {"Authorization": "Bearer fedcba9876543210"}).status == 200
    assert pod.ask("admin", "/metrics", {"Authorization": f"Bearer {TOKEN}"}).status == 401


def test_killed_container_starts_again_in_the_volumes_of_its_pod(pod: Pod) -> None:
    pod.restart_killed()
    assert "shop: serving" in pod.execute("outrider", "status")


def test_deleted_pod_serves_on_and_answers_everything_and_is_gone_in_time() -> None:
    spec = base("Deployment")["spec"]["template"]["spec"]
    margin = spec["terminationGracePeriodSeconds"] - sum(
        int(kubernetes.option(container_of(base("Deployment")), name)) for name in ("stop-delay", "graceful-timeout")
    )
    # Less than the manifest's, for nobody to wait so long.
    stop_delay, graceful_timeout = 5, 6
    pod_of_test = running_pod(stop_delay=stop_delay, graceful_timeout=graceful_timeout)
    with pod_of_test as pod, pod.hold("answered") as answered, pod.hold("endless") as endless:
        began = time.monotonic()
        pod.signal(signal.SIGTERM)
        until(lambda: pod.probe("readinessProbe") == 503, 3, what="readyz after TERM")
        # Those who do not know yet still come.
        assert pod.ask("http", "/").status == 200
        assert pod.probe("livenessProbe") == 200
        pod.release("answered")
        assert answered.read_response().text == "answered"
        assert endless.read_response().status == 503
        assert pod.process.wait(15) == 0
        took = time.monotonic() - began
        assert stop_delay + graceful_timeout * 0.8 < took < stop_delay + graceful_timeout + margin
        with pod.node.entered():
            assert not can_connect((pod.host.address, pod.ports["http"]))
        lines = [json.loads(line) for line in pod.log_text().splitlines()]
        assert lines[-1]["message"] == "stopped"
        assert {line["path"] for line in lines if line["logger"] == "gunicorn.access"} >= {"/gate/answered"}
