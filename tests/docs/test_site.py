"""The pages as they lie in the repository: all are in the site's navigation, and no link leads nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider_testing.documented import REPOSITORY, pages
from outrider_testing.pages import anchors, broken, headings, links, read_differently

DOCS = REPOSITORY / "docs"
SITE_PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


class _Loader(yaml.SafeLoader):
    """Reads MkDocs' file, whose tags name functions of Python."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def navigation(entry: Any) -> Iterator[str]:
    """The pages in a part of `nav`."""
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from navigation(each)


def test_every_page_is_in_the_navigation_once() -> None:
    config = yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a safe one
    assert sorted(navigation(config["nav"])) == SITE_PAGES


@pytest.mark.parametrize("page", SITE_PAGES)
def test_page_begins_with_its_only_title(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert [title for level, title in headings(text) if level == 1] == [text.splitlines()[0].removeprefix("# ")]


@pytest.mark.parametrize("page", pages())
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    assert broken(REPOSITORY / page, REPOSITORY) == []


@pytest.mark.parametrize("page", SITE_PAGES)
def test_page_is_the_same_in_the_site_and_in_the_repository(page: str) -> None:
    assert read_differently((DOCS / page).read_text(encoding="utf-8")) == []


def test_every_picture_is_shown() -> None:
    linked = {
        (path.parent / link.path).resolve()
        for path in [REPOSITORY / page for page in pages()]
        for link in links(path.read_text(encoding="utf-8"))
    }
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".svg")]
    assert [path.name for path in pictures if path not in linked] == []


# -- what reads the pages


def test_anchor_is_the_heading_without_punctuation() -> None:
    text = "# A page\n\n## `outrider status --json`\n\n## It's *late*: [why](x.md)?\n\n## A page\n\n```\n## no\n```\n"
    assert anchors(text) == {"a-page", "outrider-status---json", "its-late-why", "a-page-1"}


def test_link_in_code_or_to_another_host_is_none() -> None:
    text = "[a](b.md#c) `[d](e.md)` [f](https://g.example/) ![h](i.png) [j](#k)\n```\n[l](m.md)\n```\n[`n`[o]](p.md)\n"
    assert [(link.path, link.anchor, link.line) for link in links(text)] == [
        ("b.md", "c", 1),
        ("i.png", "", 1),
        ("", "k", 1),
        ("p.md", "", 5),
    ]


def test_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    (tmp_path / "out.md").touch()
    (root / "b.md").write_text("# B\n")
    page = root / "a.md"
    page.write_text("# A\n[x](b.md) [x](b.md#b) [x](#a) [x](no.md) [x](b.md#no) [x](#no) [x](../out.md) [x](/b.md)\n")
    assert broken(page, root) == [
        "a.md:2: there is no no.md",
        "a.md:2: b.md has no #no",
        "a.md:2:  has no #no",
        "a.md:2: there is no ../out.md",
        "a.md:2: there is no /b.md",
    ]


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("text\n\n- a\n- b\n  goes on\n\ntext\n", []),
        ("1. a\n\n    ```sh\n    b\n    ```\n\n2. c\n", []),
        ("text\n\n| a |\n|---|\n| b |\n", []),
        ("<!-- x: begin -->\n\n| a |\n|---|\n", []),
        ("```\ntext\n- a\n```\n", []),
        ("text\n- a\n", ["line 2: an empty line is needed above '- a'"]),
        ("text\n| a |\n|---|\n", ["line 2: an empty line is needed above '| a |'"]),
        ("1. a\n\n   ```sh\n   b\n   ```\n", ["line 3: what belongs to an item is indented by 4: '```sh'"]),
        ("- a\n\n  b\n", ["line 3: what belongs to an item is indented by 4: 'b'"]),
        ("- a\n  - b\n", ["line 2: what belongs to an item is indented by 4: '- b'"]),
        ("- a\n    - b\n", []),
    ],
)
def test_markdown_that_is_read_in_two_ways_is_found(text: str, wrong: list[str]) -> None:
    assert read_differently(text) == wrong
