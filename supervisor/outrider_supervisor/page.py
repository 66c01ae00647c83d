"""The dashboard: one page made of the files in `dashboard`, and the policy that lets its own script and style run.

Script and style are put into the page, and there is no `style=""` or `on…=""`: the browser runs what has the hash that
the policy names, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


_STYLE = '<link rel="stylesheet" href="dashboard.css">'
_SCRIPT = '<script src="dashboard.js" defer></script>'


@dataclass(frozen=True, slots=True)
class Page:
    """The file, and its Content-Security-Policy (level 3)."""

    body: bytes
    policy: bytes


@cache
def load_page() -> Page:
    """Read the page."""
    directory = resources.files("outrider_supervisor") / "dashboard"
    text, style, script = (
        (directory / name).read_text(encoding="utf-8") for name in ("index.html", "dashboard.css", "dashboard.js")
    )
    text = text.replace(_STYLE, f"<style>\n{style}</style>").replace(_SCRIPT, f"<script>\n{script}</script>")
    policy = _POLICY.format(script=_hashes(text, "script"), style=_hashes(text, "style"))
    return Page(text.encode(), policy.encode())


def _hashes(text: str, element: str) -> str:
    contents = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
