"""What the API server has of one kind, kept up to date here: list, watch, resume, list again.

Problem: a gateway has to know within a second or two what became of its pods, without asking again and again, and it
must go on knowing when the API server restarts, when a connection is dropped, or when it falls silent.

Idea (client-go calls it a reflector): list once, then watch from that list's resource version. Every event moves the
version on, and so do bookmarks, which the server sends when nothing happens. A watch that ends, for whatever reason, is
begun again from the last version; only when the server does not take that version (410 Gone most of all) is everything
listed again, and compared, so that what was deleted meanwhile is noticed. Whoever reads `items` reads memory and is
never kept waiting; while the API server is away it reads what was true last.

What can go wrong: a connection that is dead but open. TCP keepalive finds it where the machine is gone (`client.py`),
and where the server hangs the limit on silence does, which is longer than the time between two bookmarks. Memory is
bounded by what there is: one copy of each object, trimmed by `keep`, and a list arrives page by page.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from typing import TYPE_CHECKING, Any

from shardgate_gateway import metrics
from shardgate_gateway.errors import KubernetesError
from shardgate_gateway.kube.client import selectors
from shardgate_gateway.kube.kinds import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Kind, Object

SILENCE_SECONDS = 90.0
"""Bookmarks come about once a minute."""
WATCH_SECONDS = 300
"""After which the server ends a watch, about: spread, so that the watches of many gateways don't begin at once."""
BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 3.0
GONE = 410
AWAY = (0, 429, 502, 503)
"""Statuses that say nothing about the version that a watch began from; after any other one, a list tells a good one."""

log = logging.getLogger(__name__)


class Reflector:
    """All objects of one kind that selectors choose, as an async context.

    Args:
        api: Where to look.
        kind: What to look for.
        selector: By labels; fields: by fields, as the API server has them.
        group: What objects are found by and changes told by, besides their names; "" for those that belong nowhere.
        keep: Takes from an object what is not needed of it.

    Attributes:
        items: Objects by name.
        synced: Whether they were listed once.
    """

    def __init__(
        self,
        api: KubeApi,
        kind: Kind,
        selector: str = "",
        *,
        fields: str = "",
        group: Callable[[Object], str] = name_of,
        keep: Callable[[Object], Object] = lambda obj: obj,
    ) -> None:
        self.items: dict[str, Object] = {}
        self._api = api
        self._kind = kind
        self._query = selectors(selector, fields)
        self._selector, self._fields = selector, fields
        self._group = group
        self._keep = keep
        self._groups: dict[str, dict[str, Object]] = {}
        self._callbacks: list[Callable[[str], None]] = []
        self._version = ""
        self._synced = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"watch {self._kind.plural}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    def group(self, key: str) -> Mapping[str, Object]:
        """The objects of one group, by name."""
        return self._groups.get(key, {})

    def groups(self) -> list[str]:
        return list(self._groups)

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Have each change told, by the group of the object that appeared, changed or went. Returns how to end it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def wait_until_synced(self) -> None:
        await self._synced.wait()

    async def wait_for_change(self) -> None:
        """Return at the next change of any object."""
        await self._changed.wait()

    async def _run(self) -> None:
        cause, backoff = "start", BACKOFF_SECONDS
        while True:
            began = asyncio.get_running_loop().time()
            try:
                metrics.KUBERNETES_WATCHES.labels(self._kind.plural, cause).inc()
                async with contextlib.AsyncExitStack() as stack:
                    self._version = self._version or await self._list()
                    lines = await stack.enter_async_context(self._stream(self._version))
                    while line := await lines.readline():
                        self._version = self._take(json.loads(line))
                        backoff = BACKOFF_SECONDS
                cause = "ended"
            except KubernetesError as error:
                cause = "gone" if error.status == GONE else "failed"
                self._version = self._version if error.status in AWAY else ""
                log.info("watching %s: %s", self._kind.plural, error.message)
            except (ValueError, KeyError) as error:  # half a line, one without end, or what is no event
                cause = "broken"
                log.warning("watching %s: %s", self._kind.plural, error)
            if cause != "ended" or asyncio.get_running_loop().time() - began < BACKOFF_SECONDS:
                await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311
                backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    def _stream(self, version: str) -> contextlib.AbstractAsyncContextManager[Any]:
        seconds = int(WATCH_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        return self._api.stream(self._kind.path(self._api.namespace), query, silence=SILENCE_SECONDS)

    async def _list(self) -> str:
        version, seen = "", set()
        async for page, listed in self._api.list(self._kind, self._selector, self._fields):
            version = listed
            for obj in page:
                seen.add(name_of(obj))
                self._put(obj)
        for name in self.items.keys() - seen:
            self._drop(name)
        self._synced.set()
        return version

    def _take(self, event: Mapping[str, Any]) -> str:
        """Take an event in; returns the version that it leads to."""
        obj = event["object"]
        if event["type"] == "ERROR":
            raise KubernetesError(str(obj.get("message")), status=int(obj.get("code") or 0))
        if event["type"] == "DELETED":
            self._drop(name_of(obj))
        elif event["type"] != "BOOKMARK":
            self._put(obj)
        return str(obj["metadata"]["resourceVersion"])

    def _put(self, obj: Object) -> None:
        name = name_of(obj)
        old = self.items.get(name)
        if old is not None and old["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]:
            return
        obj["metadata"].pop("managedFields", None)
        obj = self._keep(obj)
        key = self._group(obj)
        if old is not None and (before := self._group(old)) != key:
            self._forget(before, name)
        self.items[name] = obj
        self._groups.setdefault(key, {})[name] = obj
        self._tell(key)

    def _drop(self, name: str) -> None:
        old = self.items.pop(name, None)
        if old is not None:
            self._forget(self._group(old), name)

    def _forget(self, key: str, name: str) -> None:
        members = self._groups[key]
        del members[name]
        if not members:
            del self._groups[key]
        self._tell(key)

    def _tell(self, key: str) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        for callback in tuple(self._callbacks):
            callback(key)
