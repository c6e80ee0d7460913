from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardgate_gateway.errors import Busy, WorkerLost
from shardgate_gateway.etl.kubernetes import dispatch as dispatch_module
from shardgate_gateway.etl.kubernetes.dispatch import TRIES, Dispatcher, NoPods, Place
from shardgate_gateway.etl.kubernetes.routing import Endpoint, Routes
from shardgate_gateway.etl.line import PLACE, Turn
from shardgate_gateway.etl.line import Place as LinePlace


@dataclass
class Job:
    """What a connection is for the dispatcher: it ends, and gives its place back."""

    place: Place

    def close(self) -> None:
        self.place.release()

    @property
    def pod(self) -> str:
        return self.place.endpoint.pod


@dataclass
class Cluster:
    """Pods as the dispatcher's `open` finds them: `dead` ones refuse, `crowded` ones let everybody wait."""

    dead: set[str] = field(default_factory=set)
    crowded: dict[str, asyncio.Event] = field(default_factory=dict)
    opened: Counter[str] = field(default_factory=Counter)

    async def open(self, place: Place) -> Job:
        pod = place.endpoint.pod
        self.opened[pod] += 1
        await asyncio.sleep(0)
        if pod in self.dead:
            raise ConnectionRefusedError(pod)
        if pod in self.crowded:
            await self.crowded[pod].wait()
        return Job(place)


def pods(*names: str, capacity: int = 1) -> list[Endpoint]:
    return [Endpoint(name, f"10.0.0.{number}", 8470, capacity=capacity) for number, name in enumerate(names)]


def dispatcher(*endpoints: Endpoint, max_waiting: int = 100) -> Dispatcher:
    dispatcher = Dispatcher("t-1", Routes(), max_waiting)
    dispatcher.update(endpoints)
    return dispatcher


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_jobs_beyond_the_workers_wait_and_are_served_in_order() -> None:
    queue, cluster = dispatcher(*pods("a", capacity=2)), Cluster()
    served: list[int] = []

    async def one(number: int) -> Job:
        job = await queue.connect(cluster.open)
        served.append(number)
        return job

    tasks = [asyncio.create_task(one(number)) for number in range(6)]
    for done in range(6):
        await settle()
        assert len(served) == min(done + 2, 6)
        (await tasks[done]).close()
    assert served == list(range(6))
    assert queue.demand == 0


async def test_a_thousand_jobs_that_wait_are_not_all_looked_at_for_each_that_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counted(Turn):
        __slots__ = ()
        comparisons = 0

        def __lt__(self, other: tuple[object, ...]) -> bool:
            Counted.comparisons += 1
            return super().__lt__(other)

    monkeypatch.setattr(dispatch_module, "Turn", Counted)
    queue, cluster = dispatcher(*pods("a"), max_waiting=1000), Cluster()

    async def one() -> None:
        (await queue.connect(cluster.open)).close()

    first = await queue.connect(cluster.open)
    tasks = [asyncio.create_task(one()) for _ in range(1000)]
    await settle()
    first.close()
    await asyncio.gather(*tasks)
    assert queue.demand == 0
    assert Counted.comparisons < 60_000


async def test_demand_counts_jobs_that_run_and_that_wait() -> None:
    queue, cluster = dispatcher(*pods("a")), Cluster()
    tasks = [asyncio.create_task(queue.connect(cluster.open)) for _ in range(3)]
    await settle()
    assert queue.demand == 3
    assert queue.idle_seconds == 0
    for task in tasks:
        (await task).close()
    assert queue.demand == 0
    assert queue.idle_seconds >= 0


async def test_one_too_many_is_told_when_to_come_again() -> None:
    queue, cluster = dispatcher(*pods("a"), max_waiting=2), Cluster()
    first = await queue.connect(cluster.open)
    waiting = [asyncio.create_task(queue.connect(cluster.open)) for _ in range(2)]
    await settle()
    with pytest.raises(Busy) as busy:
        await queue.connect(cluster.open)
    assert busy.value.retry_after
    first.close()
    for task in waiting:
        (await task).close()


async def test_one_that_a_worker_is_held_for_is_never_one_too_many() -> None:
    queue, cluster = dispatcher(*pods("a"), max_waiting=0), Cluster()
    with pytest.raises(Busy):
        await queue.connect(cluster.open)
    PLACE.set(LinePlace(1.0, 0, 0.25, "s-0"))
    (await queue.connect(cluster.open)).close()


async def test_a_new_pod_serves_those_who_wait_at_once() -> None:
    queue, cluster = dispatcher(*pods("a")), Cluster()
    first = await queue.connect(cluster.open)
    second = asyncio.create_task(queue.connect(cluster.open))
    await settle()
    queue.update(pods("a", "b"))
    assert (await second).pod == "b"
    first.close()


async def test_without_pods_a_job_says_so_and_those_who_wait_too() -> None:
    queue, cluster = dispatcher(), Cluster()
    with pytest.raises(NoPods):
        await queue.connect(cluster.open)
    queue.update(pods("a"))
    first = await queue.connect(cluster.open)
    second = asyncio.create_task(queue.connect(cluster.open))
    await settle()
    queue.update([])
    with pytest.raises(NoPods):
        await second
    first.close()


async def test_a_pod_that_refuses_is_replaced_by_another_before_anybody_hears_of_it() -> None:
    queue, cluster = dispatcher(*pods("a", "b", capacity=8)), Cluster(dead={"a"})
    jobs = [await queue.connect(cluster.open) for _ in range(8)]
    assert {job.pod for job in jobs} == {"b"}
    assert cluster.opened["a"] <= 2


async def test_a_job_that_every_pod_refuses_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardgate_gateway.etl.kubernetes.routing.LEFT_OUT_SECONDS", 0.001)
    queue, cluster = dispatcher(*pods("a")), Cluster(dead={"a"})
    with pytest.raises(WorkerLost, match="a was tried last"):
        await queue.connect(cluster.open)
    assert cluster.opened["a"] == TRIES
    assert queue.demand == 0


async def test_a_job_that_is_stuck_at_a_crowded_pod_takes_the_first_worker_that_is_free_anywhere() -> None:
    free = asyncio.Event()
    queue, cluster = dispatcher(*pods("a", capacity=5)), Cluster(crowded={"a": free})
    first, second = (asyncio.create_task(queue.connect(cluster.open)) for _ in range(2))
    await until_stuck(queue, ["a", "a"])
    third = asyncio.create_task(queue.connect(cluster.open))
    await settle()
    assert cluster.opened == {"a": 2}, "a crowded pod gets no other job"
    queue.update([*pods("a", capacity=5), *pods("b", capacity=1)])
    moved = await first
    assert moved.pod == "b"
    free.set()
    assert {(await second).pod, (await third).pod} == {"a"}
    for job in (moved, second.result(), third.result()):
        job.close()
    assert queue.demand == 0


async def test_a_job_leaves_a_pod_that_goes_while_it_is_stuck_there() -> None:
    queue, cluster = dispatcher(*pods("a")), Cluster(crowded={"a": asyncio.Event()})
    job = asyncio.create_task(queue.connect(cluster.open))
    await until_stuck(queue, ["a"])
    queue.update(pods("a", "b")[1:])
    moved = await job
    assert moved.pod == "b"
    moved.close()
    assert queue.demand == 0


async def test_a_reader_that_leaves_gives_back_what_was_handed_to_it_at_that_moment() -> None:
    queue, cluster = dispatcher(*pods("a")), Cluster()
    first = await queue.connect(cluster.open)
    leaving = asyncio.create_task(queue.connect(cluster.open))
    staying = asyncio.create_task(queue.connect(cluster.open))
    await settle()
    first.close()
    leaving.cancel()
    (await asyncio.wait_for(staying, 5)).close()
    assert queue.demand == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(), st.integers(1, 3), st.integers(1, 12))
def test_whatever_happens_no_place_is_lost_and_everybody_who_stays_is_served(
    seed: int, capacity: int, readers: int
) -> None:
    asyncio.run(_mayhem(random.Random(seed), capacity, readers))


async def _mayhem(chance: random.Random, capacity: int, readers: int) -> None:
    cluster = Cluster()
    queue = dispatcher(*pods("a", "b", capacity=capacity))
    working: Counter[str] = Counter()

    async def read() -> None:
        job = await connect_when_there_are_pods(queue, cluster)
        try:
            working[job.pod] += 1
            assert working[job.pod] <= capacity
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            working[job.pod] -= 1
            job.close()

    tasks = [asyncio.create_task(read()) for _ in range(readers)]
    left = set()
    for _ in range(chance.randrange(30)):
        event = chance.randrange(4)
        if event == 0:
            queue.update(pods(*chance.sample("abc", chance.randrange(4)), capacity=capacity))
        elif event == 1:
            cluster.dead = set(chance.sample("abc", chance.randrange(3)))
        elif event == 2:
            task = chance.choice(tasks)
            task.cancel()
            left.add(task)
        await asyncio.sleep(0)
    cluster.dead = set()
    queue.update(pods("a", capacity=capacity))
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert all(result is None or task in left for task, result in zip(tasks, results, strict=True)), results
    assert queue.demand == 0
    jobs = [await queue.connect(cluster.open) for _ in range(capacity)]
    assert all(job.pod == "a" for job in jobs)
    for job in jobs:
        job.close()


async def connect_when_there_are_pods(queue: Dispatcher, cluster: Cluster) -> Job:
    while True:
        try:
            return await queue.connect(cluster.open)
        except NoPods:
            await asyncio.sleep(0)


async def until_stuck(queue: Dispatcher, expected: list[str]) -> None:
    """Return when jobs wait at these pods."""
    async with asyncio.timeout(30):
        while True:
            at = [waiter.stuck_at.endpoint.pod for waiter in queue._line.values() if waiter.stuck_at is not None]
            if at == expected:
                return
            await asyncio.sleep(0.01)
