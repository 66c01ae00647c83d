"""A real Prometheus on a machine of `network`, asked over its API. Debian has it as the package `prometheus`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from outrider_testing.http_client import fetch
from outrider_testing.network import Host
from outrider_testing.programs import check_program, check_programs
from outrider_testing.waiting import until

ADDRESS = ("127.0.0.1", 9090)
NEEDED = {"prometheus": "prometheus", "promtool": "prometheus"}
_START_DEADLINE = 30.0


class Prometheus:
    """One server with a configuration file. It keeps its data in `directory`, and writes `prometheus.log` there."""

    def __init__(self, host: Host, config: Path, directory: Path) -> None:
        check_programs(NEEDED)
        self._host = host
        self._log = directory / "prometheus.log"
        words = (f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}")
        address = f"--web.listen-address={ADDRESS[0]}:{ADDRESS[1]}"
        with self._log.open("wb") as log:
            options = (*words, address, "--log.level=warn")
            self._process = host.start("prometheus", *options, directory=directory, stdout=log, stderr=log)

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        with self._host.entered():
            answer = fetch(ADDRESS, f"/api/v1/{path}?{urlencode(parameters)}")
        content = answer.json()
        assert content["status"] == "success", content
        return content["data"]

    def query(self, expression: str, at: float | None = None) -> dict[str, float]:
        """Return the values of an instant vector by their label `pod`, or "" where they have none."""
        result = self.ask("query", query=expression, time=str(at or time.time()))["result"]
        return {each["metric"].get("pod", ""): float(each["value"][1]) for each in result}

    def rules(self) -> list[dict[str, Any]]:
        """Return its rules with their health."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def wait_until_scraped(self) -> None:
        """Wait until every target has been scraped."""

        def is_up() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            try:
                targets = self.ask("targets")["activeTargets"]
            except (OSError, ValueError):  # it starts: nobody listens, or it answers 503 in plain text
                return False
            return bool(targets) and all(target["health"] == "up" for target in targets)

        until(
            is_up,
            _START_DEADLINE,
            what="every target scraped",
            explain=lambda: f"{self.ask('targets')}\n{self._log.read_text()}",
        )

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(15)
        finally:
            self._process.kill()


def promtool(*words: str | Path) -> str:
    """Run promtool, which must end with 0; return what it says."""
    check_programs(NEEDED)
    return check_program(["promtool", *words])
