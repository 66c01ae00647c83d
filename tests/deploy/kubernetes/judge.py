"""Judge Kubernetes objects: a JSON list on stdin, a line for each problem on stdout. `python judge.py VERSION...`.

It runs with the packages of requirements.txt, which are not among those that tests import. Unknown fields are problems.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
from pydantic import ValidationError

CUSTOM = {("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitor}


def problems(thing: dict[str, Any], version: str) -> Iterator[str]:
    """Yield what is wrong with one object."""
    model = CUSTOM.get((thing["apiVersion"], thing["kind"]))
    try:
        if model is None:
            kubernetes_validate.validate(thing, version, strict=True)
        elif model.model_validate(thing, strict=True).model_dump(by_alias=True, exclude_unset=True) != thing:
            yield "it has a field that its definition does not know"
    except kubernetes_validate.ValidationError as error:
        yield f"{error.message} (at {'.'.join(map(str, error.path))})"
    except (kubernetes_validate.SchemaNotFoundError, ValidationError) as error:
        yield str(error)


if __name__ == "__main__":
    for each in json.load(sys.stdin):
        for version in sys.argv[1:]:
            for problem in problems(each, version):
                print(f"{version}: {each['kind']} {each['metadata']['name']}: {problem}")
