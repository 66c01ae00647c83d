"""WEB_CONCURRENCY=auto of a real supervisor: one number for all who read the configuration."""

from __future__ import annotations

from outrider_supervisor.cgroup import ControlGroup
from outrider_supervisor.web_concurrency import resolve
from outrider_testing.serving import Supervise

SEEN_BY_ALL = "import os\nrecord('read', os.environ['WEB_CONCURRENCY'])\n"


def test_reader_and_master_know_the_same_number_over_a_reload_and_an_upgrade(supervise: Supervise) -> None:
    auto = {"WEB_CONCURRENCY": "auto"}
    number = int(resolve(auto, ControlGroup())["WEB_CONCURRENCY"])
    server = supervise(workers=0, env=auto, config=SEEN_BY_ALL).wait_until_ready(number)
    server.upgrade().check()
    server.reload("--no-canary").check()
    assert server.status()["target"] == number
    read = [event for event in server.events() if event.startswith("read ")]
    assert read == [f"read {number}"] * 4, "a reader and a master, twice"
