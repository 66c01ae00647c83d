"""How long masters and workers may take to boot, who is blamed where they fail, and what is told of an end."""

from __future__ import annotations

from outrider_supervisor import exits
from outrider_supervisor.actions import Code, Exit, Progress
from outrider_supervisor.events import FromGeneration, MasterExited, Started, StopAsked
from outrider_supervisor.machine import Machine
from outrider_supervisor.messages import MasterBooted, WorkerExited, WorkerReady, WorkerSpawned
from outrider_testing.fakes.supervised_processes import BOOT_FAILS, Release
from outrider_testing.fakes.supervised_service import FakeService
from outrider_testing.services import make_service

SLOW = Release(master_seconds=45.0, boot_seconds=30.0)


def progress_of(service: FakeService, operation: int) -> list[str]:
    """What was told to who waits for the operation."""
    return [each.text for each in service.actions if isinstance(each, Progress) and each.operation == operation]


def test_master_and_worker_have_boot_timeout_each(service: FakeService) -> None:
    service.deploy(SLOW, boot_timeout=60.0)
    assert service.outcome(service.reload(canary=False)).code is Code.DONE


def test_master_and_worker_have_boot_timeout_each_at_the_start() -> None:
    service = FakeService(SLOW, workers=2, boot_timeout=60.0).start()
    service.wait_for(lambda: service.machine.state == "serving")
    assert service.serving == 2


def test_service_starts_without_the_first_worker_that_fails() -> None:
    service = FakeService(workers=4).start()
    service.wait_for(lambda: len(service.workers) == 4)
    service.kill_worker(min(service.workers))
    service.wait_for(lambda: service.machine.state == "serving")
    assert service.serving == 4
    assert service.exit_status is None


def test_service_gives_up_once_as_many_workers_have_failed_as_there_should_be() -> None:
    service = FakeService(BOOT_FAILS, workers=4).start()
    service.wait_for(lambda: service.exit_status is not None, limit=10.0)
    assert service.exit_status == exits.Exit.BOOT_FAILED


def test_canary_that_fails_is_blamed(service: FakeService) -> None:
    service.deploy(Release(error_share=0.5))
    operation = service.reload()
    service.wait_for(lambda: 2 in service.machine.fleet.generations and bool(service.pids(2)))
    (canary,) = service.pids(2)
    assert service.outcome(operation).blamed == canary


def test_stop_tells_of_each_worker_that_has_ended(service: FakeService) -> None:
    operation = service.stop()
    assert service.outcome(operation).code is Code.DONE
    told = progress_of(service, operation)
    assert told[0] == "stopping: workers finish what they hold"
    assert [text.rpartition(", ")[2] for text in told[1:]] == ["3 left", "2 left", "1 left", "0 left"]


def test_worker_that_is_ready_after_the_stop_does_not_keep_the_service() -> None:
    machine = Machine()
    machine.handle(Started(make_service(workers=1)), 1.0)
    for message in (MasterBooted(), WorkerSpawned(7, 0)):
        machine.handle(FromGeneration(1, message), 2.0)
    machine.handle(StopAsked(0, fast=False), 3.0)
    assert machine.handle(FromGeneration(1, WorkerReady(7)), 3.1) == []
    machine.handle(FromGeneration(1, WorkerExited(7, "exited", expected=True, was_ready=True)), 4.0)
    assert Exit(0) in machine.handle(MasterExited(1, "exited with code 0"), 4.1)
