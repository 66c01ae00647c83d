"""What `make` installs has a version in .ci/constraints.txt: without one it would be another one tomorrow."""

from __future__ import annotations

import itertools
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from outrider_testing.documented import REPOSITORY


def test_every_dependency_has_a_version_that_it_may_have() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    optional = project["project"]["optional-dependencies"].values()
    named = itertools.chain(project["project"]["dependencies"], *optional, *project["dependency-groups"].values())
    required = [Requirement(each) for each in named if isinstance(each, str)]  # others include a group
    assert len(required) > 30
    lines = (REPOSITORY / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    fit = [each.specifier.contains(versions.get(canonicalize_name(each.name), "0")) for each in required]
    assert [str(each) for each, fits in zip(required, fit, strict=True) if not fits] == []
