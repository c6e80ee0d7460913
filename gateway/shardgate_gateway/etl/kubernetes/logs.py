"""The logs of a transform's pods, merged by time, each line with the name of its pod.

The API server stamps the lines. `tail` sorts them; whoever follows gets them as they come, from pods that appear
meanwhile, too. A stream that breaks is opened again behind the last line it brought.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from shardgate_gateway.errors import KubernetesError
from shardgate_gateway.etl.kubernetes.state import Failure
from shardgate_gateway.kube.kinds import POD, name_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from shardgate_gateway.etl.kubernetes.view import ClusterView
    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Object

SILENCE_SECONDS = 30.0
FOLLOW_SILENCE_SECONDS = 3600.0
LOOK_SECONDS = 0.5
QUEUED_LINES = 1000
"""Beyond that, pods wait for the reader."""
TAIL_BYTES = 8 << 20
"""Of the last lines of all pods together; of more, the oldest are left out."""


class PodLogs:
    """Reads logs.

    Args:
        api: Where they are.
        view: Which pods there are.
    """

    def __init__(self, api: KubeApi, view: ClusterView) -> None:
        self._api = api
        self._view = view

    async def tail(self, transform_id: str, lines: int) -> str:
        """The last lines of all pods together. Where there are none, what a start that failed said."""
        pods = self._view.observe(transform_id).pods
        most = TAIL_BYTES // max(1, len(pods))
        parts = await asyncio.gather(*(self._of_pod(pod, lines, most) for pod in pods))
        merged = sorted(line for part in parts for line in part)
        last = merged[max(0, len(merged) - lines) :]
        return "".join(f"{text}\n" for _, text in last) or self._last_words(transform_id)

    async def follow(self, transform_id: str, lines: int) -> AsyncGenerator[bytes]:
        """The last lines of each pod, and what comes, until the generator is closed; b"" now and then."""
        yield self._last_words(transform_id).encode()
        queue: asyncio.Queue[str] = asyncio.Queue(QUEUED_LINES)
        readers: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                pods = {name_of(pod): pod for pod in self._view.observe(transform_id).pods}
                readers |= {
                    name: asyncio.create_task(self._read(pods[name], lines, queue))
                    for name in pods.keys() - readers.keys()
                }
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        line = await queue.get()
                    yield f"{line}\n".encode()
                except TimeoutError:
                    yield b""
        finally:
            for reader in readers.values():
                reader.cancel()
            await asyncio.gather(*readers.values(), return_exceptions=True)

    def _last_words(self, transform_id: str) -> str:
        deployment = self._view.deployment(transform_id)
        failure = Failure.of(deployment) if deployment is not None else None
        return f"{failure.message}\n" if failure is not None else ""

    async def _of_pod(self, pod: Object, lines: int, most: int) -> Iterable[tuple[str, str]]:
        """The last of one pod, with their times; of a container that was restarted, those of its last run, too."""
        found = Tail(lines, most)
        restarted = any(c.get("restartCount") for c in (pod.get("status") or {}).get("containerStatuses") or ())
        for previous in ([True] if restarted else []) + [False]:
            query = {"tailLines": str(lines), "previous": str(previous).lower()}
            with contextlib.suppress(KubernetesError, ValueError):  # it has not started yet, or a line has no end
                async for line in self._lines(pod, query, SILENCE_SECONDS):
                    found.add(line)
        return found.kept

    async def _read(self, pod: Object, lines: int, queue: asyncio.Queue[str]) -> None:
        """Put the last lines of a pod, and those that come, into the queue, for as long as the pod is there."""
        last = ""
        while name_of(pod) in self._view.pods.items:
            query = {"follow": "true"} | ({"sinceTime": last} if last else {"tailLines": str(lines)})
            with contextlib.suppress(KubernetesError, ValueError):  # not begun yet, broken off, or a line without end
                async with contextlib.aclosing(self._lines(pod, query, FOLLOW_SILENCE_SECONDS)) as stream:
                    async for at, text in stream:
                        if at > last:
                            last = at
                            await queue.put(text)
            await asyncio.sleep(LOOK_SECONDS)

    async def _lines(self, pod: Object, query: dict[str, str], silence: float) -> AsyncGenerator[tuple[str, str]]:
        name = name_of(pod)
        path = f"{POD.path(self._api.namespace, name)}/log"
        container = pod["spec"]["containers"][0]["name"]
        async with self._api.stream(
            path, {"container": container, "timestamps": "true", **query}, silence=silence
        ) as content:
            while line := await content.readline():
                at, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
                yield at, f"[{_short(name)}] {text}"


class Tail:
    """The last lines of a stream: so many, and so many bytes of them.

    Args:
        lines: That are kept.
        most: Bytes that are kept; the last line is, however long.
    """

    def __init__(self, lines: int, most: int) -> None:
        self.kept: deque[tuple[str, str]] = deque(maxlen=lines)
        self._most = most
        self._size = 0

    def add(self, line: tuple[str, str]) -> None:
        if len(self.kept) == self.kept.maxlen:
            if not self.kept:
                return
            self._size -= len(self.kept.popleft()[1])
        self.kept.append(line)
        self._size += len(line[1])
        while self._size > self._most and len(self.kept) > 1:
            self._size -= len(self.kept.popleft()[1])


def _short(pod: str) -> str:
    """What tells the pods of one transform apart: the end of their names."""
    return "-".join(pod.rsplit("-", 2)[1:])
