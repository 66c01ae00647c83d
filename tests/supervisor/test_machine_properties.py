"""Any order of wishes, faults and accidents, at any time: what the supervisor promises holds."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider_supervisor.actions import Code
from outrider_supervisor.fleet import KILL_AFTER
from outrider_testing.fakes.supervised_service import FOREVER, MIB, FakeService, Release

GOOD = Release()
RELEASES = st.sampled_from(
    [
        GOOD,
        Release(boot_seconds=4.0, drain_seconds=3.0),
        Release(requests_per_second=0.0, drain_seconds=FOREVER),
        Release(error_share=0.5),
        Release(lag=3.0),
        Release(boot_fault="exit"),
        Release(boot_fault="exit", good_workers=2),
        Release(boot_fault="hang"),
        Release(crashes_after=2.0),
        Release(crashes_after=0.25, good_workers=1),
        Release(master_fault="ImportError: no module named shop"),
        Release(refusal="gunicorn.conf.py has a syntax error"),
    ]
)
WORKERS = st.integers(1, 5)
SURGES = st.integers(1, 5)


class Wishes(RuleBasedStateMachine):
    """What users ask for, of good and of bad releases; nothing is killed from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.service = FakeService()
        self.is_stopped = False

    @initialize(workers=WORKERS, surge=SURGES, memory=st.sampled_from([0, 50 * MIB, 90 * MIB]))
    def serve(self, workers: int, surge: int, memory: int) -> None:
        self.service = FakeService(
            workers=workers, max_surge=surge, boot_timeout=8.0, graceful_timeout=4.0, max_worker_memory=memory
        ).serve()
        self.service.on_retired = self.check_capacity

    def check_capacity(self) -> None:
        machine = self.service.machine
        if machine.is_stopping or not self.service.releases[self.service.current.number].is_healthy:
            return
        floor = machine.target if machine.rollout is None else min(machine.target, machine.rollout.old_target)
        assert self.service.serving >= floor, self.service.log

    @rule(release=RELEASES, workers=WORKERS, surge=SURGES)
    def deploy(self, release: Release, workers: int, surge: int) -> None:
        self.service.deploy(release, workers=workers, max_surge=surge)

    @rule(canary=st.booleans())
    def reload(self, canary: bool) -> None:
        self.service.reload(canary=canary)

    @rule(workers=WORKERS)
    def scale(self, workers: int) -> None:
        self.service.scale(workers)

    @rule(change=st.sampled_from([-1, 1]))
    def scale_by(self, change: int) -> None:
        self.service.scale(change, relative=True)

    @rule(which=st.integers(0, 9))
    def recycle(self, which: int) -> None:
        pids = list(self.service.workers)
        self.service.recycle(pids[which] if which < len(pids) else 0)

    @rule(problem=st.sampled_from(["", "no such file"]))
    def upgrade(self, problem: str) -> None:
        self.service.upgrade_problem = problem
        self.service.upgrade()

    @rule(delay=st.sampled_from([0.0, 0.5, 2.0]))
    def delay_messages(self, delay: float) -> None:
        self.service.message_delay = delay

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 5.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.service.run(seconds)

    @precondition(lambda self: not self.is_stopped)
    @rule(fast=st.booleans())
    def stop(self, fast: bool) -> None:
        self.is_stopped = True
        self.service.stop(fast=fast)

    def teardown(self) -> None:
        """Everything calms down: what was begun ends."""
        service = self.service
        service.message_delay = 0.0
        service.deploy(GOOD)
        if service.machine.is_stopping:
            service.wait_for(lambda: service.exit_status is not None)
            assert not service.workers
            assert not service.masters
        else:
            service.wait_for(lambda: service.machine.operation is None, limit=2000)
            last = service.reload(canary=False)
            service.wait_for(lambda: last in service.outcomes, limit=2000)
            assert service.outcomes[last].code is Code.DONE
            service.run(KILL_AFTER + 10)
            assert service.machine.state == "serving", service.log
            assert service.serving == len(service.workers) == service.machine.target
            assert list(service.masters) == [service.current.number]
        if not service.upgrades:
            assert sorted(service.outcomes) == list(range(1, service.asked + 1))


TestWishes = Wishes.TestCase
TestWishes.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
