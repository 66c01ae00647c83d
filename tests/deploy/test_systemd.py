"""`deploy/systemd` on a booted systemd: a service starts, is reloaded, told of, and stopped."""

from __future__ import annotations

import json
import re
import time

import pytest

from outrider_testing import releases
from outrider_testing.systemd import Machine
from outrider_testing.systemd_services import (
    MOST_EXPOSURE,
    SERVICE_TEMPLATES,
    TEMPLATES,
    UNITS,
    Service,
    exposure,
    verify_units,
)

pytestmark = [pytest.mark.external, pytest.mark.usefixtures("journal")]

ALLOWED = {
    *("IPAddressDeny", "PrivateNetwork", "RestrictAddressFamilies_AF_INET_INET6", "RestrictAddressFamilies_AF_UNIX"),
    *("MemoryDenyWriteExecute", "PrivateUsers", "ProcSubset", "SystemCallFilter_resources"),
    # Other lines do nearly as much: PrivateDevices=, ProtectSystem=, UMask=0027.
    *("DeviceAllow", "PrivateMounts", "RootDirectoryOrRootImage", "UMask"),
}
"""What `systemd-analyze security` would have a service denied, and applications need."""

# What no test waits for, or what every machine of the tests would give anyway.
_LIMITS = {
    "LimitNOFILE": "65536",
    "LogsDirectoryMode": "0750",
    "NoNewPrivileges": "yes",
    "OOMPolicy": "continue",
    "PrivateIPC": "yes",
    "PrivateTmp": "yes",
    "ProtectSystem": "strict",
    "RestartUSec": "1s",
    "RestrictSUIDSGID": "yes",
    "StartLimitIntervalUSec": "0",
    "StateDirectoryMode": "0750",
    "SystemCallErrorNumber": "1",
    "UMask": "0027",
    "UnitFileState": "disabled",  # and can be enabled
}
LIMITS = {
    "outrider": _LIMITS
    | {
        "RuntimeDirectoryMode": "0700",
        "TimeoutAbortUSec": "5s",
        "TimeoutStartUSec": "2min",
        "TimeoutStopUSec": "30s",
    },
    "gunicorn": _LIMITS | {"KillMode": "mixed", "TimeoutStartUSec": "5min", "TimeoutStopUSec": "40s"},
}

BACKGROUND = 'import subprocess\nsubprocess.Popen(["sleep", "1000"], start_new_session=True)\n'
"""Something that an application has started, and does not end."""

HELD_IN_STARTUP = f"""\
import asyncio
from pathlib import Path

import {releases.APP.partition(":")[0]}_release


async def app(scope, receive, send):
    while scope["type"] == "lifespan" and not Path("go").exists():
        await asyncio.sleep(0.05)
    await {releases.APP.partition(":")[0]}_release.app(scope, receive, send)
"""


# -- the files


def test_systemd_accepts_every_line_of_every_unit(shop: Service) -> None:
    assert len(TEMPLATES) == 4
    assert verify_units(shop) == ""


@pytest.mark.parametrize("unit", SERVICE_TEMPLATES)
def test_no_unit_is_exposed(machine: Machine, unit: str) -> None:
    assert exposure(machine, unit) <= MOST_EXPOSURE


@pytest.mark.parametrize("template", ["outrider", "gunicorn"])
def test_a_service_may_do_what_applications_need_and_nothing_more(machine: Machine, template: str) -> None:
    unit = f"/etc/systemd/system/{template}@.service"
    answer = machine.check("systemd-analyze", "security", "--offline=yes", "--no-pager", "--json=short", unit)
    allowed = {each["json_field"] for each in json.loads(answer) if each["set"] is False}
    netlink = {"RestrictAddressFamilies_AF_NETLINK"} if template == "outrider" else set()
    assert allowed == ALLOWED | netlink


@pytest.mark.parametrize("template", list(LIMITS))
def test_a_service_has_its_limits(machine: Machine, template: str) -> None:
    # DynamicUser= would bring some of them.
    service = Service(machine, f"limited-{template}", template=template, drop_in="DynamicUser=no")
    assert {name: service.show(name) for name in LIMITS[template]} == LIMITS[template]
    assert service.show("User") == service.name
    for relation in ("Wants", "After"):
        assert "network-online.target" in service.show(relation).split()


def test_the_watchdog_is_on(shop: Service) -> None:
    assert shop.show("WatchdogUSec") == "30s"


# -- starting


def test_a_service_is_active_when_it_answers_however_long_that_takes(machine: Machine) -> None:
    # That is all that a busy machine has for ExecStartPre=, and for the supervisor's first word.
    service = Service(machine, "slow", HELD_IN_STARTUP, drop_in="TimeoutStartSec=8\nExecStartPre=")
    (service.directory / "app_release.py").write_text(releases.good(1))
    machine.systemctl("start", "--no-block", service.unit)
    service.until_state("activating", "start")
    begun = time.monotonic()
    service.until(lambda: time.monotonic() - begun > 9, "more than TimeoutStartSec=")
    assert service.show("ActiveState") == "activating"
    assert "start" in service.show("StatusText").lower()
    (service.directory / "go").touch()
    service.until_state("active")
    assert service.fetch().status == 200
    assert service.show("NRestarts") == "0"


def test_a_service_that_cannot_be_imported_says_why_and_starts_when_it_is_mended(machine: Machine) -> None:
    service = Service(machine, "broken", "import nothing_there\n", drop_in="RestartSec=0")
    done = service.systemctl("start")
    assert done.returncode == 1
    assert "Control process exited, code=exited, status=1" in service.journal()
    service.until(lambda: int(service.show("NRestarts")) >= 2, "that it is tried again")

    def is_told() -> bool:
        return "No module named 'nothing_there'" in service.systemctl("status", "--no-pager", "--full").stdout

    service.until(is_told, "the reason in the status")
    service.deploy(releases.good(2))
    service.until_state("active")
    assert service.version() == "2"


def test_a_service_that_cannot_boot_is_tried_again_and_leaves_nothing_behind(machine: Machine) -> None:
    app = BACKGROUND + releases.faulty(1, "startup fails")
    service = Service(machine, "boots-not", app, drop_in="RestartSec=0")
    assert service.systemctl("start").returncode == 1
    assert "the database is away" in service.journal()
    service.until(lambda: int(service.show("NRestarts")) >= 1, "that it is tried again")
    service.deploy(releases.good(1))
    service.until_state("active")
    service.until(lambda: len(service.processes()) == 4, "supervisor, master and two workers, and no others")


# -- reloading


def test_a_reload_loses_no_request_and_ends_when_the_new_code_serves(shop: Service) -> None:
    def reload() -> None:
        shop.deploy(releases.good("reloaded"))
        before = shop.generation
        shop.machine.systemctl("reload", shop.unit)
        assert shop.generation == before + 1
        shop.until(lambda: shop.version() == "reloaded", "the end of workers that were told to")

    report = shop.load(250, reload)
    assert report.lost == []
    assert shop.show("ActiveState") == "active"


def test_a_reload_that_was_rolled_back_fails_and_the_old_code_serves_on(shop: Service) -> None:
    before = shop.version()

    def reload() -> None:
        shop.deploy("import nothing_there\n")
        done = shop.systemctl("reload")
        assert done.returncode != 0, done.stdout

    report = shop.load(250, reload)
    shop.deploy(releases.good(before))
    assert report.lost == []
    assert set(report.versions) == {before}
    assert shop.show("ActiveState") == "active"
    journal = shop.journal()
    assert "No module named 'nothing_there'" in journal
    assert "reload: rolled back" in journal


def test_an_upgrade_keeps_the_main_process_and_what_systemd_hears_of_it(shop: Service) -> None:
    before = shop.main_pid
    done = shop.outrider("upgrade")
    assert done.returncode == 0, done.stdout
    assert shop.main_pid == before
    shop.machine.systemctl("reload", shop.unit)
    shop.until(lambda: shop.show("StatusText").startswith("Serving with 2 of 2 workers"), "the status")
    assert shop.show("NRestarts") == "0"


def test_a_reload_follows_the_link_to_a_release(machine: Machine) -> None:
    service = Service(machine, "linked", config="canary_seconds = 0\n")
    service.drop_in("releases", (UNITS / "releases.conf").read_text())
    settings = (service.directory / "gunicorn.conf.py").read_text()
    for version in ("1", "2"):
        release = service.directory / "releases" / version
        release.mkdir(parents=True)
        (release / ".venv").symlink_to("/srv/linked/.venv")
        (release / "gunicorn.conf.py").write_text(settings)
        releases.deploy(release, releases.good(version))
    current = service.directory / "current"
    current.symlink_to("releases/1")
    service.start()
    assert service.version() == "1"
    assert re.search(r" outrider\[\d+\]: generation 1: ", service.journal("short")), service.journal("short")
    current.unlink()
    current.symlink_to("releases/2")
    machine.systemctl("reload", service.unit)
    service.until(lambda: service.version() == "2", "the new release")
    machine.systemctl("stop", service.unit)


# -- what it says


def test_the_status_says_in_one_line_how_the_service_is(shop: Service) -> None:
    status = shop.systemctl("status", "--no-pager").stdout
    assert re.search(r'^ +Status: "Serving with 2 of 2 workers \(generation \d+\)', status, re.MULTILINE), status


def test_the_journal_knows_errors_from_the_rest(shop: Service) -> None:
    shop.deploy("import nothing_there\n")
    assert shop.systemctl("reload").returncode != 0
    shop.deploy(releases.good(1))
    errors = shop.machine.check("journalctl", "--no-pager", "--priority=err", f"--unit={shop.unit}", "--output=cat")
    assert "No module named 'nothing_there'" in errors
    assert "2 of 2 workers ready" not in errors


def test_root_finds_the_service_by_its_name(shop: Service) -> None:
    done = shop.outrider("status")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("shop: serving, 2 of 2 workers ready")


# -- users and directories


def test_services_side_by_side_are_different_users(shop: Service) -> None:
    machine = shop.machine
    machine.check("useradd", "--system", "second")
    second = Service(machine, "second")
    second.start()
    uids = [machine.check("stat", "--format=%u", f"/proc/{each.main_pid}").strip() for each in (shop, second)]
    assert uids[1] == machine.check("id", "--user", "second").strip()
    assert len({*uids, "0"}) == 3
    assert second.outrider("status").returncode == 0
    owner = machine.check("stat", "--dereference", "--format=%U %a", "/var/lib/outrider/second").split()
    assert owner == ["second", "750"]
    machine.systemctl("stop", second.unit)


def test_an_application_writes_to_its_own_directories_only(machine: Machine) -> None:
    app = """\
import ctypes, pathlib, sqlite3, ssl, subprocess, tempfile
import uvloop
from outrider_testing.apps.release import make

app = make("1")
print("printed")
DOUBLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: 2 * number)
assert DOUBLE(4) == 8
for place in ("/var/lib/outrider/writes", "/var/log/outrider/writes", "/tmp"):
    pathlib.Path(place, "written").write_text("")
for place in ("/srv/writes", "/etc", "/usr", "/var/lib", "/root", "/home"):
    try:
        pathlib.Path(place, "written").write_text("")
    except OSError:
        continue
    raise AssertionError(f"{place} can be written to")
assert subprocess.run(["id", "-u"], capture_output=True, check=True).stdout != b"0\\n"
"""
    service = Service(machine, "writes", app, drop_in="MemoryDenyWriteExecute=yes")  # which the page recommends
    service.start()
    assert service.fetch().status == 200
    service.until(lambda: "printed" in service.journal().splitlines(), "what it prints in the journal")
    machine.systemctl("stop", service.unit)


# -- stopping


def test_a_stop_waits_for_requests_longer_than_systemd_would(machine: Machine) -> None:
    service = Service(machine, "drains", config="graceful_timeout = 60\n", drop_in="TimeoutStopSec=2")
    service.start()
    with service.connect() as connection:
        gate = service.hold(connection)
        machine.systemctl("stop", "--no-block", service.unit)
        service.until_state("deactivating", "stop-sigterm")
        begun = time.monotonic()
        service.until(lambda: time.monotonic() - begun > 3, "more than TimeoutStopSec=")
        assert service.show("SubState") == "stop-sigterm"
        gate.touch()
        assert connection.read_response().status == 200
    service.until_state("inactive")
    assert service.show("Result") == "success"
    assert service.processes() == []


def test_a_service_that_is_told_to_stop_by_its_own_command_stays_stopped(machine: Machine) -> None:
    service = Service(machine, "ends")
    service.start()
    done = service.outrider("stop")
    assert done.returncode == 0, done.stdout
    service.until_state("inactive")
    assert service.show("NRestarts") == "0"


def test_a_stop_leaves_nothing_that_the_application_has_started(machine: Machine) -> None:
    service = Service(machine, "starts-others", BACKGROUND + releases.good(1))
    service.start()
    assert len(service.processes()) > 4
    machine.systemctl("stop", service.unit)
    assert service.show("Result") == "success"
    assert service.processes() == []
    assert "code=killed" not in service.journal()
    service.start()
    machine.systemctl("reload", "--no-block", service.unit)  # takes canary_seconds
    service.until_state("reloading")
    machine.systemctl("stop", service.unit)
    assert service.processes() == []


# -- logs in files


@pytest.mark.parametrize("template", ["outrider", "gunicorn"])
def test_logrotate_has_the_service_reopen_its_files(machine: Machine, template: str) -> None:
    # The files of the first one are there, and it has stopped, when the second one's are rotated.
    name = f"writes-{template}"
    config = "".join(f'{log}log = "/var/log/outrider/{name}/{log}.log"\n' for log in ("access", "error"))
    service = Service(machine, name, config=config, template=template)
    machine.write("/etc/logrotate.d/outrider", (UNITS / "outrider.logrotate").read_text())
    service.start()
    service.fetch("/?before")
    inside = machine.path(f"/var/log/private/outrider/{name}")
    service.until(lambda: "?before" in (inside / "access.log").read_text(), "the line")
    output = machine.check("logrotate", "--force", "--verbose", "/etc/logrotate.d/outrider")
    assert "error:" not in output, output
    service.until(lambda: (inside / "access.log").exists() and (inside / "error.log").exists(), "new files")
    said = {"outrider": "reopened", "gunicorn": "Handling signal: usr1"}[template]
    service.until(lambda: said in "".join(path.read_text() for path in inside.glob("error.log*")), "that it is said")

    def asked() -> bool:
        service.fetch("/?after")
        return "?after" in (inside / "access.log").read_text()

    service.until(asked, "a line in the new file")
    assert "?before" in (inside / "access.log.1").read_text()
    assert service.show("NRestarts") == "0"
    machine.systemctl("stop", service.unit)
