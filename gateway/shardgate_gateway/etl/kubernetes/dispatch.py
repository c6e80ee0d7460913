"""The queue for workers of one transform, in one gateway process.

**Problem.** Readers come when they like, workers are few, pods come and go. Whoever waits longest gets the first place
that is free, on any pod; nobody waits at a pod that is gone; and a reader that leaves takes nothing with it.

**Idea.** A job first gets a place (`routing.py` says on which pod), then opens a connection there. Places that become
free, new pods and pods whose time-out has passed all lead to the same step, `_match`, which hands places to those who
wait, in the order in which they came. A job that got a place but finds no free worker at the pod, because other
gateways use it, keeps its place in the pod's queue, and in ours too: it goes wherever a worker is free first.

**What can go wrong.** A reader that leaves at the very moment when a place is handed to it: whoever awaits a place
gives back what it can't take. A pod that can't be reached costs a moment and no attempt of the relay, as nothing was
started there; only a job that is refused again and again gives up, so that its reader hears why.

Beyond `max_waiting` jobs that wait, the next is refused with 503 and the seconds after which to come again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from shardgate_gateway import metrics
from shardgate_gateway.errors import Busy, WorkerLost
from shardgate_gateway.etl.line import Turn, Turns, own_place

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from typing import Any

    from shardgate_gateway.etl.kubernetes.routing import Endpoint, Pod, Routes

BUSY_SECONDS = 2.0
"""After which a refused request is told to come again."""
PATIENCE_SECONDS = 0.2
"""A worker that is free takes a job within a millisecond. After this long, others have it."""
NO_PODS_SECONDS = 0.5
"""That a job waits for the first pod to be listed before it says that there is none."""
TRIES = 8
"""Pods that one job may find unreachable before its reader is told."""


class NoPods(Exception):
    """No pod is ready: start one, and come back."""


class Closable(Protocol):
    def close(self) -> None:
        """Give up what was opened."""


C = TypeVar("C", bound=Closable)


class Place:
    """The right to have one job on a pod, until `release`.

    Attributes:
        running: A worker took the job.
    """

    def __init__(self, pod: Pod, give_back: Callable[[Place], None]) -> None:
        self.pod = pod
        self.endpoint = pod.endpoint
        self.running = False
        self._give_back: Callable[[Place], None] | None = give_back

    def release(self) -> None:
        """Give the place to the next. Idempotent."""
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back(self)


class _Waiter(NamedTuple):
    """Somebody in line for a place, who may be stuck at a pod meanwhile."""

    place: asyncio.Future[Place]
    stuck_at: Pod | None


class _Elsewhere(Exception):
    """A worker is free at another pod."""

    def __init__(self, place: Place) -> None:
        self.place = place


class Dispatcher:
    """Hands jobs to pods.

    Args:
        transform_id: For messages.
        routes: Which pods there are; only this object changes it from now on.
        max_waiting: Jobs that may wait at a time.
    """

    def __init__(self, transform_id: str, routes: Routes, max_waiting: int) -> None:
        self._id = transform_id
        self._routes = routes
        self._max_waiting = max_waiting
        self._numbers = itertools.count()
        self._line: dict[Turn, _Waiter] = {}
        self._unserved = Turns()
        self._waiting = self._running = 0
        self._used_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def capacity(self) -> int:
        """Jobs that can run at a time, on the pods that are ready."""
        return self._routes.capacity

    @property
    def demand(self) -> int:
        """Jobs that run or wait."""
        return self._running + self._waiting

    @property
    def idle_seconds(self) -> float:
        """Since there was any demand."""
        return 0.0 if self.demand else time.monotonic() - self._used_at

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Count as demand: as one that waits."""
        self._waiting += 1
        metrics.ETL_WAITING.inc()
        try:
            yield
        finally:
            self._waiting -= 1
            metrics.ETL_WAITING.dec()
            self._used_at = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count as one that waits: for a worker, or for pods to start.

        Raises:
            Busy: Too many wait already, and no worker is held for this one.
        """
        if self._waiting >= self._max_waiting and not own_place().is_awaited:
            raise Busy(
                f"{self._waiting} requests wait for a worker of {self._id}",
                hint="raise the transform's max_replicas or workers, or etl.max_waiting",
                retry_after=BUSY_SECONDS,
            )
        with self.wanted():
            yield

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Take the pods that are ready now."""
        self._routes.update(endpoints)
        self._match()
        for waiter in self._line.values():
            if waiter.place.done():
                continue
            if self._routes.empty:
                waiter.place.set_exception(NoPods(self._id))
            elif waiter.stuck_at is not None and not waiter.stuck_at.listed:
                waiter.place.set_exception(ConnectionResetError(f"{waiter.stuck_at.endpoint.pod} goes"))

    async def connect(
        self,
        open: Callable[[Place], Coroutine[Any, Any, C]],  # noqa: A002
        *,
        wants_more: bool = False,
    ) -> C:
        """Open a connection at the best pod that has a free worker, as soon as there is one.

        Args:
            open: Connects to the place's endpoint, and returns when a worker took the job. Raises OSError or WorkerLost
                if that can't be. What it returns releases the place when it is closed.
            wants_more: As in `Turn`.

        Raises:
            NoPods: None is ready.
            Busy: Too many wait already.
            WorkerLost: Pods are ready, and none takes the job.
        """
        with self.waiting():
            turn = Turn.of_request(next(self._numbers), wants_more=wants_more)
            failures = 0
            place = await self._place(turn)
            while True:
                try:
                    return await self._open(open, place, turn)
                except _Elsewhere as better:
                    place = better.place
                except (OSError, WorkerLost) as error:
                    failures += 1
                    if failures == TRIES:
                        raise self._unreachable(place, error) from error
                    place = await self._place(turn)

    async def _place(self, turn: Turn) -> Place:
        """Wait for a place, in turn."""
        future = self._stand_in_line(turn, None)
        try:
            return await self._turn(future)
        except BaseException:
            _refuse(future)
            raise
        finally:
            self._leave_line(turn)

    async def _turn(self, future: asyncio.Future[Place]) -> Place:
        while not future.done():
            await asyncio.wait({future}, timeout=NO_PODS_SECONDS if self._routes.empty else None)
            if self._routes.empty and not future.done():
                raise NoPods(self._id)
        return future.result()

    async def _open(self, open: Callable[[Place], Coroutine[Any, Any, C]], place: Place, turn: Turn) -> C:  # noqa: A002
        opening = asyncio.create_task(open(place))
        try:
            await asyncio.wait({opening}, timeout=PATIENCE_SECONDS)
            if not opening.done():
                await self._stuck(opening, place.pod, turn)
            connection = opening.result()
        except BaseException as error:
            if isinstance(error, OSError | WorkerLost):
                self._routes.failed(place.pod, time.monotonic())
            opening.add_done_callback(_close)
            opening.cancel()
            place.release()
            raise
        self._routes.worked(place.pod)
        place.running = True
        self._running += 1
        return connection

    async def _stuck(self, opening: asyncio.Future[C], pod: Pod, turn: Turn) -> None:
        """Return when the pod took the job; raise `_Elsewhere` with a place at another pod if that is there first."""
        pod.stuck += 1
        better = self._stand_in_line(turn, pod)
        either: set[asyncio.Future[Any]] = {opening, better}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            _refuse(better)
            raise
        finally:
            self._leave_line(turn)
            pod.stuck -= 1
            self._match()
        if not opening.done():
            raise _Elsewhere(better.result())
        _refuse(better)

    def _stand_in_line(self, turn: Turn, stuck_at: Pod | None) -> asyncio.Future[Place]:
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._line[turn] = _Waiter(future, stuck_at)
        self._unserved.add(turn)
        self._match()
        return future

    def _leave_line(self, turn: Turn) -> None:
        del self._line[turn]
        self._unserved.discard(turn)

    def _match(self) -> None:
        """Give the places that are free to those who wait, the first come first."""
        now = time.monotonic()
        while (turn := self._unserved.next()) is not None:
            place = self._line[turn].place
            if not place.done():
                pod = self._routes.choose(now)
                if pod is None:
                    self._match_later(now)
                    break
                self._routes.take(pod)
                place.set_result(Place(pod, self._give_back))
            self._unserved.discard(turn)

    def _match_later(self, now: float) -> None:
        """Look again when the next pod has been left out for long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._routes.next_return(now)
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(at - now, self._match)

    def _give_back(self, place: Place) -> None:
        if place.running:
            self._running -= 1
            self._used_at = time.monotonic()
        self._routes.give_back(place.pod)
        self._match()

    def _unreachable(self, place: Place, error: Exception) -> WorkerLost:
        return WorkerLost(
            f"no pod of {self._id} takes the job; {place.endpoint.pod} was tried last: {error}",
            hint=f"`shardgate etl show {self._id}` tells how its pods are",
        )


def _refuse(future: asyncio.Future[Place]) -> None:
    """Take no place from this future, and give back the one that it may hold."""
    if not future.cancel() and future.exception() is None:
        future.result().release()


def _close(opening: asyncio.Future[C]) -> None:
    """Close what was opened too late."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
