from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from shardgate_gateway.errors import KubernetesUnavailable
from shardgate_gateway.etl.kubernetes.demand import Demand, Demands
from shardgate_gateway.etl.kubernetes.scale import Bounds, Scaler, Seen, Target, decide

if TYPE_CHECKING:
    from collections.abc import Sequence

CALM_SECONDS = 60.0
BOUNDS = Bounds(minimum=0, maximum=10, workers=2, idle_seconds=600, calm_seconds=CALM_SECONDS)
IDLE, BUSY = 1e6, 0.0


def history(*jobs: int, every: float = CALM_SECONDS / 2) -> list[Seen]:
    return [Seen(number * every, count) for number, count in enumerate(jobs)]


def test_more_pods_come_at_once() -> None:
    assert decide(history(1, 1, 9), BUSY, 1, BOUNDS) == 5


def test_never_more_than_allowed_and_never_fewer() -> None:
    assert decide(history(1000), BUSY, 1, BOUNDS) == 10
    assert decide(history(0, 0, 0, 0), IDLE, 5, Bounds(3, 10, 2, 600, CALM_SECONDS)) == 3
    assert decide(history(0), BUSY, 50, BOUNDS) == 10


def test_fewer_pods_only_when_fewer_were_enough_for_a_while() -> None:
    assert decide(history(9, 1, 1), BUSY, 5, BOUNDS) == 5
    assert decide(history(9, 1, 1, 1), BUSY, 5, BOUNDS) == 1
    assert decide(history(9, 7, 1, 1), BUSY, 5, BOUNDS) == 4


def test_a_new_holder_that_knows_no_past_takes_no_pod_away() -> None:
    assert decide(history(1, 1), BUSY, 5, BOUNDS) == 5


def test_the_last_pod_goes_when_nobody_asked_for_long_enough() -> None:
    assert decide(history(0, 0, 0, 0), 599, 1, BOUNDS) == 1
    assert decide(history(0), 600, 1, BOUNDS) == 0
    assert decide(history(0), 600, 7, BOUNDS) == 0


def test_nothing_stays_nothing_until_somebody_asks() -> None:
    assert decide(history(0), BUSY, 0, BOUNDS) == 0
    assert decide(history(1), BUSY, 0, BOUNDS) == 1


bounds = st.builds(
    lambda low, more, workers, idle: Bounds(low, max(low + more, 1), workers, idle, CALM_SECONDS),
    st.integers(0, 5),
    st.integers(0, 20),
    st.integers(1, 8),
    st.floats(1, 1000),
)
demands = st.lists(st.tuples(st.floats(0.1, 40), st.integers(0, 200)), min_size=1, max_size=40)


@given(demands, st.floats(0, 2000), st.integers(0, 30), bounds)
def test_every_decision_is_allowed_and_enough(
    steps: Sequence[tuple[float, int]], idle: float, replicas: int, bounds: Bounds
) -> None:
    seen, now = [], 0.0
    for pause, jobs in steps:
        now += pause
        seen.append(Seen(now, jobs))
    jobs = seen[-1].jobs
    pods = decide(seen, idle, replicas, bounds)
    assert bounds.minimum <= pods <= bounds.maximum
    assert pods * bounds.workers >= min(jobs, bounds.maximum * bounds.workers)
    if pods < min(replicas, bounds.maximum) and pods > 0:
        lately = [past.jobs for past in seen if past.at >= now - CALM_SECONDS]
        assert pods >= min(math.ceil(max(lately) / bounds.workers), bounds.maximum)
        assert seen[0].at <= now - CALM_SECONDS
    if pods == 0:
        assert jobs == 0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), bounds)
def test_a_steady_demand_comes_to_rest(jobs: list[int], bounds: Bounds) -> None:
    steady = jobs[-1]
    seen = [Seen(number, count) for number, count in enumerate(jobs)]
    replicas = bounds.minimum
    for number in range(200):
        seen.append(Seen(len(jobs) + number, steady))
        replicas = decide(seen, 0.0, replicas, bounds)
    assert decide([*seen, Seen(1000, steady)], 0.0, replicas, bounds) == replicas


class Board:
    """A Deployment, and what the gateways say of it."""

    def __init__(self, replicas: int = 1) -> None:
        self.replicas = replicas
        self.awake_seconds = IDLE
        self.demands: Demands = {"t-1": Demand(0, 0.0)}
        self.complete = True
        self.fails = False
        self.scaler = Scaler(self._targets, self._read, self._scale)

    def _targets(self) -> list[Target]:
        return [Target("t-1", "etl-t-1", self.replicas, "7", self.awake_seconds, BOUNDS)]

    async def _read(self) -> tuple[Demands, bool]:
        return self.demands, self.complete

    async def _scale(self, target: Target, replicas: int) -> None:
        assert target.version == "7"
        if self.fails:
            raise KubernetesUnavailable("it does not answer")
        self.replicas = replicas


async def test_the_scaler_follows_demand_up_and_in_time_down() -> None:
    board = Board()
    board.demands = {"t-1": Demand(8, 0.0)}
    await board.scaler.look(0.0)
    assert board.replicas == 4
    board.demands = {"t-1": Demand(2, 0.0)}
    for now in range(1, int(CALM_SECONDS)):
        await board.scaler.look(now)
        assert board.replicas == 4
    await board.scaler.look(CALM_SECONDS + 1)
    await board.scaler.look(CALM_SECONDS + 2)
    assert board.replicas == 1


async def test_nobody_is_sent_away_while_a_gateway_is_silent() -> None:
    board = Board(replicas=2)
    board.demands, board.complete = {"t-1": Demand(0, IDLE)}, False
    await board.scaler.look(0.0)
    assert board.replicas == 2
    board.demands = {"t-1": Demand(6, 0.0)}
    await board.scaler.look(1.0)
    assert board.replicas == 3


async def test_a_transform_that_no_gateway_knows_counts_as_idle_since_the_scaler_began() -> None:
    board = Board()
    board.demands = {}
    await board.scaler.look(0.0)
    await board.scaler.look(BOUNDS.idle_seconds - 1)
    assert board.replicas == 1
    await board.scaler.look(BOUNDS.idle_seconds)
    assert board.replicas == 0


async def test_a_transform_that_was_just_woken_is_not_idle_whatever_the_gateways_remember() -> None:
    board = Board()
    board.demands, board.awake_seconds = {"t-1": Demand(0, IDLE)}, BOUNDS.idle_seconds - 1
    await board.scaler.look(0.0)
    assert board.replicas == 1
    board.awake_seconds = BOUNDS.idle_seconds
    await board.scaler.look(1.0)
    assert board.replicas == 0


async def test_an_api_server_that_is_away_costs_a_turn_and_not_the_scaler() -> None:
    board = Board()
    board.demands, board.fails = {"t-1": Demand(9, 0.0)}, True
    await board.scaler.look(0.0)
    assert board.replicas == 1
    board.fails = False
    await board.scaler.look(1.0)
    assert board.replicas == 5
