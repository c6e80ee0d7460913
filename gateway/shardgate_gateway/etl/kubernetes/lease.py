"""One gateway at a time: a `coordination.k8s.io/v1` Lease.

Some things must be decided once, whichever of the gateways does it: how many pods a transform gets, what is an orphan.
The Lease names who does. Its holder renews it, and who finds it unrenewed for as long as it says may take it. Every
write is conditional on the version that was read, so of two who take it at once one succeeds.

**Clocks are not compared.** The time in the Lease is for people. What counts is for how long *we* saw it unchanged.

**Overlap.** A holder that can't renew stops leading before others may start, by its own clock, also when the API server
is gone and it could not be told. A holder that ends in good order gives the Lease up, and the next takes it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shardgate_gateway.errors import GatewayError, KubernetesError
from shardgate_gateway.kube.kinds import LEASE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Object

DURATION_SECONDS = 10
"""Unrenewed for so long, a Lease is anybody's."""
RENEW_SECONDS = 2.0
SAFE_SECONDS = 8.0
"""After its last renewal, how long a holder leads."""

log = logging.getLogger(__name__)


class Lease:
    """One contender for a Lease.

    Args:
        api: The namespace's API.
        name: Of the Lease.
        identity: Of this contender, unlike any other's.
        metadata: Of the Lease besides its name, asked for by whoever creates it.

    Attributes:
        held: This one leads.
    """

    def __init__(
        self, api: KubeApi, name: str, identity: str, metadata: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> None:
        self.held = False
        self._api = api
        self._name = name
        self._identity = identity
        self._metadata = metadata
        self._seen = ""
        self._seen_at = 0.0

    async def run(self, lead: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Contend until cancelled, and run `lead` while the Lease is held. It is cancelled when the Lease is lost."""
        while True:
            renewed = time.monotonic()
            if await self._take():
                log.info("%s holds the Lease %s", self._identity, self._name)
                await self._lead(lead, renewed)
                log.warning("%s lost the Lease %s", self._identity, self._name)
            await asyncio.sleep(RENEW_SECONDS)

    async def _lead(self, lead: Callable[[], Coroutine[Any, Any, None]], renewed: float) -> None:
        """Lead until the Lease is lost; when cancelled, give it up."""
        leading = asyncio.create_task(lead(), name=f"lead {self._name}")
        self.held = True
        try:
            while time.monotonic() < renewed + SAFE_SECONDS and not leading.done():
                await asyncio.wait({leading}, timeout=RENEW_SECONDS)
                asked = time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(renewed + SAFE_SECONDS - asked, 0)):
                        renewed = asked if await self._take() else renewed
        except asyncio.CancelledError:
            await _end(leading)
            await self._give_up()
            raise
        finally:
            self.held = False
            await _end(leading)

    async def _take(self) -> bool:
        """Take or renew the Lease, if that can be."""
        try:
            lease = await self._api.get(LEASE, self._name)
            if lease is None:
                await self._api.create(self._mine({"metadata": {**await self._metadata(), "name": self._name}}))
            elif self._is_free(lease):
                await self._api.replace(self._mine(lease))
            else:
                return False
        except GatewayError as error:
            log.debug("the Lease %s could not be taken: %s", self._name, error.message)
            return False
        return True

    def _is_free(self, lease: Object) -> bool:
        spec = lease.get("spec") or {}
        if lease["metadata"]["resourceVersion"] != self._seen:
            self._seen, self._seen_at = lease["metadata"]["resourceVersion"], time.monotonic()
        unchanged = time.monotonic() - self._seen_at
        holder = spec.get("holderIdentity") or ""
        return holder in ("", self._identity) or unchanged > spec.get("leaseDurationSeconds", DURATION_SECONDS)

    def _mine(self, lease: Object) -> Object:
        before = lease.get("spec") or {}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now}
        if before.get("holderIdentity") == self._identity:
            spec |= {"acquireTime": before.get("acquireTime"), "leaseTransitions": before.get("leaseTransitions")}
        else:
            spec |= {"acquireTime": now, "leaseTransitions": before.get("leaseTransitions", -1) + 1}
        return {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": lease["metadata"], "spec": spec}

    async def _give_up(self) -> None:
        with contextlib.suppress(KubernetesError, TimeoutError):
            async with asyncio.timeout(RENEW_SECONDS):
                lease = await self._api.get(LEASE, self._name)
                if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"]["holderIdentity"] = ""
                    await self._api.replace(lease)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    for result in await asyncio.gather(task, return_exceptions=True):
        if isinstance(result, Exception):
            log.error("what the Lease's holder does failed", exc_info=result)
