"""The Kubernetes API server, as the gateway speaks to it.

The official client brings what is hard to get right: kubeconfigs, in-cluster credentials and their renewal, exec
plugins, TLS. We send and receive plain JSON through it instead of its model classes, because a gateway may have to hold
thousands of pods. Everything is written by server-side apply under one field manager, so that ten gateways that create
the same object at once create one.

A request has a time limit as a whole; a stream (watch, logs) has one for silence only. A connection whose other end is
gone without a word is found by TCP keepalive, whatever flows over it.

When five hundred transforms start at once, their requests wait here for their turn, before their time runs, and the API
server sees few at a time. Each kind of object has a line of its own: a Lease must be renewed whatever the others do.
Streams wait for nobody, for they last.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp

from shardgate_gateway import metrics
from shardgate_gateway.errors import KubernetesError, KubernetesUnavailable
from shardgate_gateway.kube.kinds import Kind, Object, kind_of, name_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from kubernetes.aio.client import ApiClient

FIELD_MANAGER = "shardgate"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
"""JSON is YAML, too."""
REQUEST_SECONDS = 15.0
CONNECT_SECONDS = 5.0
"""With TLS: a server that hangs takes connections, too."""
LINE_BYTES = 2 << 20
"""Of an event in a watch: etcd takes no larger object."""
AT_ONCE = 16
"""Requests about one kind of object."""
PAGE = 500
"""Objects per answer of a list."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 14_000}
MOVED = 300
NOT_FOUND = 404
TOO_MANY = 429
SERVER_ERROR = 500


class KubeApi:
    """Requests to one API server, about one namespace. Use `open_api`.

    Attributes:
        namespace: Where all objects are.
    """

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._client = client
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self.namespace = namespace

    async def get(self, kind: Kind, name: str) -> Object | None:
        """One object, or None where there is none.

        Raises:
            KubernetesError: As of every method here: refused, and why.
            KubernetesUnavailable: As of every method here: no answer, or one that says to try again.
        """
        try:
            return await self.request("GET", kind.path(self.namespace, name))
        except KubernetesError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def list(self, kind: Kind, selector: str = "", fields: str = "") -> AsyncIterator[tuple[list[Object], str]]:
        """Pages of objects, each with the resource version of the whole list."""
        query = {"limit": str(PAGE), **selectors(selector, fields)}
        while True:
            page = await self.request("GET", kind.path(self.namespace), query=query)
            yield page.get("items") or [], page["metadata"]["resourceVersion"]
            if not page["metadata"].get("continue"):
                return
            query["continue"] = page["metadata"]["continue"]

    async def apply(self, obj: Object, *, manager: str = FIELD_MANAGER) -> Object:
        """Make the object what it says here: server-side apply, which creates or changes it and owns its fields."""
        return await self.request(
            "PATCH",
            kind_of(obj).path(self.namespace, name_of(obj)),
            query={"fieldManager": manager, "force": "true"},
            body=obj,
            content_type=APPLY_PATCH,
        )

    async def create(self, obj: Object) -> Object:
        """Create an object. Raises KubernetesError with status 409 where it is already."""
        return await self.request("POST", kind_of(obj).path(self.namespace), body=obj)

    async def replace(self, obj: Object) -> Object:
        """Replace an object; status 409 if its `resourceVersion` is not the newest."""
        return await self.request("PUT", kind_of(obj).path(self.namespace, name_of(obj)), body=obj)

    async def patch(self, kind: Kind, name: str, patch: Object) -> Object:
        """Merge a patch into an object: None removes a field. A `resourceVersion` in it makes it conditional (409)."""
        return await self.request(
            "PATCH",
            kind.path(self.namespace, name),
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type=MERGE_PATCH,
        )

    async def delete(self, kind: Kind, name: str) -> bool:
        """Delete an object and, in the background, what it owns. False where it is not there."""
        try:
            await self.request("DELETE", kind.path(self.namespace, name), query={"propagationPolicy": "Background"})
        except KubernetesError as error:
            if error.status == NOT_FOUND:
                return False
            raise
        return True

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
    ) -> Object:
        """One request with a JSON answer."""
        limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS, connect=CONNECT_SECONDS)
        async with (
            self._turns[_resource(path)],
            self._answer(method, path, query or {}, limits, body, content_type) as response,
        ):
            answer: Object = json.loads(await response.read())
            return answer

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The unread body of a GET that goes on for as long as it likes, never silent for more than so many seconds.

        Reading it raises KubernetesUnavailable too, as long as it is done within the `with` block.
        """
        limits = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=silence)
        async with self._answer("GET", path, query, limits, None, JSON) as response:
            yield response.content

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
        body: Object | None,
        content_type: str,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        response: aiohttp.ClientResponse | None = None
        status = "none"
        try:
            url, headers, body = await self._request(method, path, query, body, content_type)
            answer = await self._client.call_api(method, url, headers, body, _request_timeout=limits)
            response = answer.response
            assert response is not None
            status = str(response.status)
            if response.status >= MOVED:
                raise _refusal(method, path, response.status, await response.read())
            yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubernetesUnavailable(
                f"the Kubernetes API does not answer: {str(error) or type(error).__name__}",
                hint="what runs goes on running; starting and scaling wait until it is back",
            ) from error
        finally:
            metrics.KUBERNETES_CALLS.labels(method, _resource(path), status).inc()
            if response is not None:
                response.release() if response.content.at_eof() else response.close()

    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str
    ) -> tuple[str, dict[str, str], Object | None]:
        """URL, headers and body as the official client makes them, with credentials that are renewed if need be."""
        headers = {"Content-Type": content_type, "Accept": JSON}
        target = path + (f"?{urlencode(query)}" if query else "")
        try:
            _, url, headers, body, _ = await self._client.param_serialize(
                method, target, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
        except Exception as error:  # an exec plugin, a token file: whatever renewing takes
            raise KubernetesUnavailable(f"the credentials for the Kubernetes API can't be renewed: {error}") from error
        return url, headers, body


@asynccontextmanager
async def open_api(kubeconfig: str = "", namespace: str = "") -> AsyncIterator[KubeApi]:
    """Connect to the API server.

    Args:
        kubeconfig: A file; empty takes the service account of this pod, or the user's own kubeconfig outside.
        namespace: Empty takes that of the pod or of the kubeconfig's context.

    Raises:
        BadRequest: There are no usable credentials.
    """
    from shardgate_gateway.kube.login import login  # noqa: PLC0415 (the official client takes a second to import)

    client, own = await login(kubeconfig)
    async with client:
        client.rest_client.pool_manager = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=client.rest_client.ssl_context, socket_factory=_kept_alive),
            trust_env=True,
            read_bufsize=LINE_BYTES,
        )
        yield KubeApi(client, namespace or own)


def selectors(labels: str, fields: str) -> dict[str, str]:
    """The query parameters of label and field selectors."""
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {name: value for name, value in given.items() if value}


def _kept_alive(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _refusal(method: str, path: str, status: int, body: bytes) -> KubernetesError:
    try:
        said = json.loads(body)
    except ValueError:
        said = {"message": body.decode(errors="replace")[:500]}
    message = f"{method} {path}: {said.get('message') or status}"
    if status == TOO_MANY or status >= SERVER_ERROR:
        return KubernetesUnavailable(f"the Kubernetes API is not well: {message}", status=status, retry_after=1)
    return KubernetesError(
        message,
        hint="is the gateway's Role complete?" if "cannot" in str(said.get("message")) else "",
        status=status,
        reason=str(said.get("reason", "")),
    )


def _resource(path: str) -> str:
    """Of a path below a namespace, its plural: few enough for a label."""
    parts = path.split("/namespaces/", 1)[-1].split("/")
    return parts[1] if len(parts) > 1 else path
