"""The dashboard's file and its Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib
import re

from outrider_supervisor.page import load_page


def test_policy_names_the_hash_of_each_script_and_style() -> None:
    page = load_page()
    text, policy = page.body.decode(), page.policy.decode()
    for element in ("script", "style"):
        contents = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        assert contents
        for content in contents:
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_page_needs_nothing_from_elsewhere() -> None:
    text = load_page().body.decode()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!data:)[^"'>]""", text)
    assert not re.search(r"<(?:script|style)\s", text)
    assert not re.search(r"""\s(?:style|on[a-z]+)\s*=\s*["']""", text)
