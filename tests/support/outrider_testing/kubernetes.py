"""What deploy/kubernetes holds: read as it is, rendered by Kustomize and Helm, judged by the schemas of the API.

Helm, kubectl and the schemas are in a directory of their own beside the tests' packages; `make deployment` makes it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from outrider_testing.documented import REPOSITORY

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
COMPONENTS = KUBERNETES / "components"
OVERLAYS = KUBERNETES / "overlays"
CHART = KUBERNETES / "chart"
TOOLS = Path(sys.prefix) / "kubernetes"
_JUDGE = REPOSITORY / "tests" / "deploy" / "kubernetes" / "judge.py"
_DEADLINE = 60.0

Thing = dict[str, Any]
"""A Kubernetes object, or a part of one."""


def read(path: Path) -> Any:
    """Return the one YAML document of a file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def base(kind: str, name: str = "shop") -> Thing:
    """Return an object of the base."""
    return by_kind(map(read, files_of(BASE)))[kind, name]


def files_of(kustomization: Path) -> list[Path]:
    """Return the resource files that a kustomization names."""
    return [kustomization / name for name in read(kustomization / "kustomization.yaml").get("resources", [])]


def container_of(deployment: Thing) -> Thing:
    """Return the one container of a Deployment."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def option(container: Thing, name: str) -> str:
    """Return the value of an option of the form --name=value."""
    (value,) = (each.partition("=")[2] for each in container["args"] if each.startswith(f"--{name}="))
    return str(value)


def cores(quantity: str | float) -> float:
    """Return a quantity of CPU in cores: "2", "500m"."""
    text = str(quantity)
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def size(quantity: str) -> int:
    """Return a quantity of memory in bytes, of Kubernetes (Mi, Gi) or of Outrider's settings (M, G)."""
    number, unit = quantity.rstrip("KMGi"), quantity.lstrip("0123456789")
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit.removesuffix("i")]


def environment_of(container: Thing) -> dict[str, str]:
    """Return the container's environment as the kubelet would make it (resourceFieldRef: rounded up)."""
    environment = {}
    for variable in container.get("env", []):
        value = variable.get("value")
        if value is None:
            reference = variable["valueFrom"]["resourceFieldRef"]
            assert reference["containerName"] == container["name"]
            part, _, resource = reference["resource"].partition(".")
            assert resource == "cpu"
            value = str(math.ceil(cores(container["resources"][part][resource]) / cores(reference["divisor"])))
        environment[variable["name"]] = value
    return environment


def render_kustomization(directory: Path) -> list[Thing]:
    """Render a kustomization with the real `kubectl kustomize`."""
    return _things(_run([_program("kubectl"), "kustomize", str(directory)]))


def render_chart(values: Mapping[str, Any]) -> list[Thing]:
    """Render the chart with the real `helm template`, as the release `shop`."""
    return _things(helm("template", "shop", str(CHART), *set_values(values)))


def set_values(values: Mapping[str, Any]) -> list[str]:
    """Return the options of Helm that set values; the image's tag is the base's unless they set it."""
    tag = container_of(base("Deployment"))["image"].rpartition(":")[2]
    items = ({"image.tag": tag} | dict(values)).items()
    return [word for name, value in items for word in ("--set-json", f"{name}={json.dumps(value)}")]


def helm(*words: str, status: int = 0) -> str:
    """Run helm, which must end with `status`; return what it wrote."""
    return _run([_program("helm"), *words], status=status)


def judge(things: Iterable[Thing], *versions: str) -> list[str]:
    """Return what the API's schemas of some versions, such as 1.37, say against objects, unknown fields included."""
    environment = os.environ | {"PYTHONPATH": str(TOOLS), "PYTHONDONTWRITEBYTECODE": "1"}
    output = _run([sys.executable, str(_JUDGE), *versions], json.dumps(list(things)), environment)
    return output.splitlines()


def by_kind(things: Iterable[Thing]) -> dict[tuple[str, str], Thing]:
    """Return objects by kind and name."""
    found = {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}
    return dict(sorted(found.items()))


def _program(name: str) -> str:
    path = TOOLS / "bin" / name
    assert path.exists(), f"{path} is missing: `make deployment` installs it"
    return str(path)


def _run(command: Sequence[str], text: str = "", environment: Mapping[str, str] | None = None, status: int = 0) -> str:
    done = subprocess.run(
        command,
        input=text,
        env=environment or os.environ,
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        check=False,
    )
    assert done.returncode == status, f"{command}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout if status == 0 else done.stderr


def _things(text: str) -> list[Thing]:
    return [document for document in yaml.safe_load_all(text) if document is not None]
