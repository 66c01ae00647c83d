"""Any order of wishes, faults and accidents, at any time: what the supervisor promises holds."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from outrider_supervisor.actions import Code
from outrider_supervisor.generation import GenerationState
from outrider_testing.fakes.supervised_load import FakeLoad
from outrider_testing.fakes.supervised_processes import FOREVER, Release
from outrider_testing.fakes.supervised_service import FakeService

STARTING, CANARY = GenerationState.STARTING, GenerationState.CANARY
GOOD = Release()
RELEASES = st.sampled_from(
    [
        GOOD,
        Release(boot_seconds=4.0, drain_seconds=3.0, close_seconds=1.0),
        Release(requests_per_second=0.0, drain_seconds=FOREVER, close_seconds=FOREVER),
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

    @initialize(workers=WORKERS, surge=SURGES, age=st.sampled_from([0.0, 15.0]), most=st.sampled_from([0, 5]))
    def serve(self, workers: int, surge: int, age: float, most: int) -> None:
        limits: dict[str, Any] = {"boot_timeout": 8.0, "graceful_timeout": 4.0, "max_worker_age": age}
        limits |= {"max_workers": most, "scale_up_window": 1.0, "scale_down_window": 5.0}
        self.service = FakeService(workers=workers, max_surge=surge, **limits).serve()
        self.watch()

    def watch(self) -> None:
        self.service.on_retired = self.check_capacity
        self.service.on_spawned = self.check_surge

    def check_capacity(self) -> None:
        service = self.service
        if not service.machine.is_stopping and not any(self.may_crash(number) for number in service.masters):
            assert service.serving >= service.floor, service.log[-6:]

    def may_crash(self, number: int) -> bool:
        """Whether workers of this generation die although they are counted on."""
        generations = self.service.machine.fleet.generations
        is_counted_on = number in generations and generations[number].state not in (STARTING, CANARY)
        return is_counted_on and self.service.releases[number].crashes_after < FOREVER

    def check_surge(self) -> None:
        service = self.service
        if not any(self.may_crash(number) for number in service.masters):
            assert service.alive <= service.ceiling, service.log[-6:]

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

    @rule(demand=st.sampled_from([0.0, 0.5, 1.0, 2.5, 5.0]))
    def load(self, demand: float) -> None:
        FakeLoad(self.service, demand)

    # Below the shortest backoff: a master that failed must hear that it is not wanted before it tries again.
    @rule(delay=st.sampled_from([0.0, 0.1, 0.5]))
    def delay_messages(self, delay: float) -> None:
        self.service.run(self.service.message_delay)
        self.service.message_delay = delay

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 5.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.service.run(seconds)

    @precondition(lambda self: self.service.now > 1080.0)
    @rule(fast=st.booleans())
    def stop(self, fast: bool) -> None:
        self.service.stop(fast=fast)

    def teardown(self) -> None:
        """Everything calms down: what was begun ends, and what serves is whole."""
        service = self.service
        service.message_delay = 0.0
        service.deploy(GOOD, max_worker_age=0.0)
        if service.machine.is_stopping:
            service.wait_for(lambda: service.exit_status is not None)
            assert not service.workers
            assert not service.masters
        else:
            service.wait_for(lambda: service.machine.operation is None, limit=2000)
            last = service.reload(canary=False)
            service.wait_for(lambda: last in service.outcomes, limit=2000)
            assert service.outcomes[last].code is Code.DONE
            service.wait_for(lambda: service.outcomes.keys() | service.cut_off == set(range(1, service.asked + 1)))
            service.wait_for(lambda: list(service.masters) == [service.current.number])
            service.wait_for(lambda: service.machine.state == "serving", limit=2000)
            service.wait_for(lambda: service.serving == len(service.workers) == service.machine.target)
        assert service.outcomes.keys() ^ service.cut_off == set(range(1, service.asked + 1))


class Accidents(Wishes):
    """Processes die or hang at any time as well. Capacity may suffer; all else holds."""

    def watch(self) -> None:
        pass

    @rule(which=st.integers(0, 9))
    def kill_worker(self, which: int) -> None:
        if self.service.workers:
            pids = list(self.service.workers)
            self.service.kill_worker(pids[which % len(pids)])

    @rule(which=st.integers(0, 3))
    def kill_master(self, which: int) -> None:
        if self.service.masters:
            numbers = list(self.service.masters)
            self.service.kill_master(numbers[which % len(numbers)])

    @rule(which=st.integers(0, 3))
    def hang_master(self, which: int) -> None:
        if self.service.masters:
            masters = list(self.service.masters.values())
            masters[which % len(masters)].is_hung = True

    @rule(which=st.integers(0, 9))
    def get_worker_stuck(self, which: int) -> None:
        if self.service.workers:
            workers = list(self.service.workers.values())
            workers[which % len(workers)].is_stuck = True

    def teardown(self) -> None:
        for master in self.service.masters.values():
            master.is_hung = False
        super().teardown()


SETTINGS = settings(
    max_examples=100,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestWishes = Wishes.TestCase
TestWishes.settings = SETTINGS
TestAccidents = Accidents.TestCase
TestAccidents.settings = SETTINGS
