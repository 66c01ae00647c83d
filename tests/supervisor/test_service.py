from __future__ import annotations

import json

import pytest

from outrider_supervisor.service import Service
from outrider_testing.services import make_service


def test_service_survives_json() -> None:
    service = make_service(
        addresses=(("127.0.0.1", 8000), ("::1", 0), "/run/shop.sock", "\0shop", 3),
        notes=("no scoreboard for gthread",),
        pidfile="/run/shop.pid",
    )
    assert Service.from_json(service.to_json()) == service


def test_service_without_addresses_and_notes_survives_json() -> None:
    service = make_service(addresses=(), notes=())
    assert Service.from_json(service.to_json()) == service


def test_service_stays_comparable_and_hashable_after_json() -> None:
    service = make_service()
    assert hash(Service.from_json(service.to_json())) == hash(service)


@pytest.mark.parametrize("change", [{"workers": None}, {"more": 1}], ids=["one missing", "one too many"])
def test_fields_of_another_version_are_refused(change: dict[str, int | None]) -> None:
    fields = json.loads(make_service().to_json()) | change
    with pytest.raises(TypeError):
        Service.from_fields({name: value for name, value in fields.items() if value is not None or name == "pidfile"})
