"""`deploy/systemd/newer` on the systemd of a newer Debian, booted beside this one's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from outrider_testing import releases
from outrider_testing.debian import make_base
from outrider_testing.systemd import Machine
from outrider_testing.systemd_services import (
    MOST_EXPOSURE,
    SERVICE_TEMPLATES,
    UNITS,
    Service,
    booted,
    exposure,
    verify_units,
)

pytestmark = [
    pytest.mark.external,
    pytest.mark.usefixtures("journal"),
    pytest.mark.timeout(600),  # the first test may have to make the Debian
]

DROP_INS = tuple(sorted((UNITS / "newer").glob("*.conf")))


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with booted(make_base()) as booted_machine:
        for drop_in in DROP_INS:
            booted_machine.write(f"/etc/systemd/system/outrider@.service.d/{drop_in.name}", drop_in.read_text())
        booted_machine.systemctl("daemon-reload")
        yield booted_machine


def test_it_is_new_enough(machine: Machine) -> None:
    found = re.match(r"systemd (\d+)", machine.systemctl("--version"))
    assert found is not None
    assert int(found[1]) >= 254


def test_systemd_accepts_every_line(shop: Service) -> None:
    assert verify_units(shop) == ""
    assert shop.show("Type") == "notify-reload"
    assert shop.show("RestartSteps") == "6"


@pytest.mark.parametrize("unit", SERVICE_TEMPLATES)
def test_no_unit_is_exposed(machine: Machine, unit: str) -> None:
    assert exposure(machine, unit) <= MOST_EXPOSURE


def test_a_reload_is_over_when_the_new_code_serves(shop: Service) -> None:
    def reload() -> None:
        shop.deploy(releases.good("reloaded"))
        before = shop.generation
        shop.machine.systemctl("reload", shop.unit)
        assert shop.generation == before + 1
        shop.until(lambda: shop.version() == "reloaded", "the end of workers that were told to")

    assert shop.load(250, reload).lost == []
    assert shop.show("ActiveState") == "active"


def test_systemd_is_not_told_that_a_reload_was_rolled_back_but_the_status_says_so(shop: Service) -> None:
    before = shop.version()

    def reload() -> None:
        shop.deploy("import nothing_there\n")
        shop.machine.systemctl("reload", shop.unit)

    report = shop.load(200, reload)
    assert report.lost == []
    assert set(report.versions) == {before}
    assert "rolled back" in shop.show("StatusText")
    shop.deploy(releases.good(before))
    assert shop.show("ActiveState") == "active"
    assert shop.show("NRestarts") == "0"


def test_a_service_that_cannot_boot_is_tried_again_after_longer_and_longer(machine: Machine) -> None:
    service = Service(machine, "broken", "import nothing_there\n")
    assert service.systemctl("start").returncode == 1
    service.until(lambda: int(service.show("NRestarts")) >= 2, "that it is tried again")
    assert service.show("RestartUSec") == "1s"
    assert service.show("RestartUSecNext") not in ("", "1s")
    machine.systemctl("stop", service.unit)
