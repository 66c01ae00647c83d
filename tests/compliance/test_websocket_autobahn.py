"""Autobahn|Testsuite's fuzzing client: RFC 6455 and RFC 7692, 517 cases.

OUTRIDER_AUTOBAHN limits it to some, by their numbers: 1.* 12.1.*
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from outrider_testing import autobahn
from outrider_testing.gunicorn_process import GunicornProcess

ALL_CASES = 517
CASES = os.environ.get("OUTRIDER_AUTOBAHN", "*").split()
# Of 6.4: invalid UTF-8 may be found with the octet that makes it so, or only with the whole message.
MOST_LENIENT = 7
DEADLINE = 2400.0  # seconds, of which most are the client's own


@pytest.mark.external
@pytest.mark.timeout(DEADLINE + 60)
def test_server_passes_autobahn(
    cleartext_server: GunicornProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host, port = cleartext_server.tcp_address
    url = f"ws://{host}:{port}"
    verdicts = autobahn.run(url, CASES, tmp_path, DEADLINE)
    with capsys.disabled():
        print(f"\nAutobahn|Testsuite, {url}\n{autobahn.summarise(verdicts)}")
    assert len(verdicts) == ALL_CASES or CASES != ["*"]
    check(verdicts)
    assert "Traceback" not in cleartext_server.log_text()


@pytest.mark.external
@pytest.mark.timeout(600)
def test_server_passes_autobahn_over_tls(tls_server: GunicornProcess, tmp_path: Path) -> None:
    """What depends on how bytes are cut, and on how a connection ends."""
    host, port = tls_server.tcp_address
    check(autobahn.run(f"wss://{host}:{port}", ["1.*", "5.*", "7.*"], tmp_path, DEADLINE))
    assert "Traceback" not in tls_server.log_text()


def test_report_is_read(tmp_path: Path) -> None:
    report = {
        "1.1.10": {"behavior": "OK", "behaviorClose": "OK"},
        "1.1.9": {"behavior": "NON-STRICT", "behaviorClose": "INFORMATIONAL"},
        "6.1.1": {"behavior": "OK", "behaviorClose": "WRONG CODE"},
        "9.1.1": {"behavior": "UNIMPLEMENTED", "behaviorClose": "OK"},
        "12.1.1": {"behavior": "FAILED", "behaviorClose": "UNCLEAN"},
    }
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"outrider": report}))
    verdicts = autobahn.read_report(path)
    assert [verdict.case for verdict in verdicts] == ["1.1.9", "1.1.10", "6.1.1", "9.1.1", "12.1.1"]
    assert [verdict.case for verdict in verdicts if verdict.is_good] == ["1.1.9", "1.1.10"]
    assert [verdict.case for verdict in verdicts if not verdict.is_strict] == ["1.1.9"]
    lines = [line.split() for line in autobahn.summarise(verdicts).splitlines()[1:]]
    assert lines[0] == ["1", "framing", "2", "1", "NON-STRICT,", "1", "OK"]
    assert [line[-1] for line in lines[1:]] == ["CODE", "UNIMPLEMENTED", "FAILED"]


def check(verdicts: list[autobahn.Verdict]) -> None:
    assert [verdict for verdict in verdicts if not verdict.is_good] == []
    assert len([verdict for verdict in verdicts if not verdict.is_strict]) <= MOST_LENIENT
