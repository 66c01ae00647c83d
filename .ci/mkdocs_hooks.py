"""A hook of MkDocs for links out of docs/: a repository browser follows them, the site has no such page.

Where `repo_url` is set they lead to the repository, else the path is shown instead.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_LOG = logging.getLogger("mkdocs.hooks.links")  # MkDocs counts the warnings of loggers below its own
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: object) -> str:
    """Replace the links of one page; one to nothing is a warning, which `--strict` makes an error."""
    docs = Path(config.docs_dir).resolve()
    directory = Path(page.file.abs_src_path).parent

    def replace(link: re.Match[str]) -> str:
        path = (directory / unquote(link["target"])).resolve()
        if path.is_relative_to(docs):
            return link[0]
        if not path.exists():
            _LOG.warning("%s links to %s, which does not exist", page.file.src_uri, link["target"])
        name = path.relative_to(docs.parent).as_posix()
        if config.repo_url:
            return f"[{link['text']}]({config.repo_url.rstrip('/')}/blob/HEAD/{name}{link['anchor'] or ''})"
        text = link["text"]
        return text if name in text else f"{text} (`{name}`)"

    parts = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(replace, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(replace, markdown[end:])])
