"""Links out of docs/, which a repository browser follows, in the site that has no such page."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from outrider_testing.documented import REPOSITORY

Convert = Callable[..., str]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The module as MkDocs loads it: by its path."""
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", REPOSITORY / ".ci" / "mkdocs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def convert(hooks: ModuleType, tmp_path: Path) -> Convert:
    """Make the Markdown of docs/how-to/page.md that of the site; deploy/nginx/shop.conf exists."""
    (tmp_path / "docs" / "how-to").mkdir(parents=True)
    (tmp_path / "docs" / "other.md").touch()
    (tmp_path / "deploy" / "nginx").mkdir(parents=True)
    (tmp_path / "deploy" / "nginx" / "shop.conf").touch()
    path = tmp_path / "docs" / "how-to" / "page.md"
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(path), src_uri="how-to/page.md"))

    def convert(markdown: str, repo_url: str = "") -> str:
        config = SimpleNamespace(docs_dir=str(tmp_path / "docs"), repo_url=repo_url)
        made: str = hooks.on_page_markdown(markdown, page=page, config=config, files=None)
        return made

    return convert


@pytest.mark.parametrize(
    "link, text",
    [
        ("See [the file](../../deploy/nginx/shop.conf).", "See the file (`deploy/nginx/shop.conf`)."),
        ("See [`deploy/nginx/shop.conf`](../../deploy/nginx/shop.conf).", "See `deploy/nginx/shop.conf`."),
        ("See [all](../../deploy/nginx/#top).", "See all (`deploy/nginx`)."),
        ("See [that](../other.md#x).", "See [that](../other.md#x)."),
        ("```\n[the file](../../deploy/nginx/shop.conf)\n```", "```\n[the file](../../deploy/nginx/shop.conf)\n```"),
    ],
)
def test_link_out_of_docs_is_the_path(convert: Convert, link: str, text: str) -> None:
    assert convert(link) == text


def test_link_out_of_docs_leads_to_the_repository_where_there_is_one(convert: Convert) -> None:
    link = "[the file](../../deploy/nginx/shop.conf#L3)"
    assert convert(link, "https://host.example/shop/") == (
        "[the file](https://host.example/shop/blob/HEAD/deploy/nginx/shop.conf#L3)"
    )


def test_link_to_nothing_is_a_warning_of_mkdocs(convert: Convert, caplog: pytest.LogCaptureFixture) -> None:
    convert("[the file](../../deploy/none.conf)")
    [record] = caplog.records
    assert record.name.startswith("mkdocs.")
    assert record.getMessage() == "how-to/page.md links to ../../deploy/none.conf, which does not exist"
