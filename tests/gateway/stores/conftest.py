"""Every kind of store, opened as the gateway opens it, each test in a place of its own."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest
from servers_faulty import FaultyOrigin

from servers import start_azurite, start_fake_gcs, start_minio, start_nginx, start_versitygw
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.settings import BucketSettings, UpstreamSettings
from shardgate_gateway.state.database import Database
from shardgate_gateway.state.payloads import Payloads
from shardgate_gateway.stores.open import open_store
from shardgate_gateway.stores.read_only import ReadOnly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from shardgate_gateway.stores.base import ListPage, ObjectMeta, ObjectStream, Store

BUCKET = "bucket"
PATIENT = UpstreamSettings(attempts=1, backoff_seconds=0.01)
IMPATIENT = UpstreamSettings(attempts=1, backoff_seconds=0.01, progress_timeout=1)
"""For tests in which something is silent for good."""


async def chunked(data: bytes, size: int = 1 << 20) -> AsyncIterator[bytes]:
    for offset in range(0, len(data), size):
        yield data[offset : offset + size]


@dataclass
class Backend:
    """A store under test, and what to expect of it.

    Attributes:
        writable: Takes PUT and DELETE.
        lists: Can list.
        exclusive: `a` and `a/b` can't both be.
        keeps_type: Keeps the content type.
        fill: Puts an object there, behind the store's back where the store can't.
    """

    store: Store
    writable: bool = True
    lists: bool = True
    exclusive: bool = False
    keeps_type: bool = True
    fill: Callable[[str, bytes], Awaitable[object]] = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if self.fill is None:
            self.fill = lambda key, data: self.store.put(key, chunked(data), size=len(data))

    async def read(self, key: str, **how: object) -> tuple[ObjectMeta, bytes]:
        stream = await self.store.get(key, **how)
        return stream.meta, await drain(stream)


async def drain(stream: ObjectStream) -> bytes:
    try:
        return b"".join([bytes(chunk) async for chunk in stream.chunks])
    finally:
        await stream.aclose()


async def list_all(store: Store, prefix: str = "", **how: object) -> tuple[list[str], list[str]]:
    """All pages: keys and folded prefixes."""
    keys: list[str] = []
    prefixes: list[str] = []
    token = None
    while True:
        page: ListPage = await store.list(prefix, token=token, **how)
        keys += [meta.key for meta in page.objects]
        prefixes += page.prefixes
        token = page.token
        if token is None:
            return keys, prefixes


def opened(where: object, *, upstream: UpstreamSettings = PATIENT, **settings: object) -> Store:
    return open_store("test://bucket", BucketSettings(where=str(where), **settings), upstream)


@pytest.fixture
def open_bucket():
    return opened


@pytest.fixture
def impatient():
    return IMPATIENT


@pytest.fixture
def helpers():
    """Functions that several test modules need: `drain`, `chunked`, `list_all`."""
    return {"drain": drain, "chunked": chunked, "list_all": list_all}


def server(start, prepare=lambda server: None):
    @pytest.fixture(scope="session")
    def running(tmp_path_factory):
        with start(tmp_path_factory.mktemp(start.__name__) / "objects") as server:
            prepare(server)
            yield server

    return running


versitygw = server(start_versitygw, lambda server: server.create_bucket(BUCKET))
minio = server(start_minio, lambda server: server.create_bucket(BUCKET))
azurite = server(start_azurite, lambda server: server.create_container(BUCKET))
fake_gcs = server(start_fake_gcs, lambda server: server.create_bucket(BUCKET))
nginx = server(start_nginx)


@pytest.fixture
def origin():
    with FaultyOrigin() as origin:
        yield origin


def memory_backend(request, place):
    return Backend(opened("mem://"))


def local_backend(request, place):
    folder = request.getfixturevalue("tmp_path") / "bucket"
    folder.mkdir()
    return Backend(opened(folder), exclusive=True, keeps_type=False)


def versitygw_backend(request, place):
    server = request.getfixturevalue("versitygw")
    return Backend(opened(server.where(f"{BUCKET}/{place}")), exclusive=True)


def minio_backend(request, place):
    return Backend(opened(request.getfixturevalue("minio").where(f"{BUCKET}/{place}")))


def azurite_backend(request, place):
    return Backend(opened(request.getfixturevalue("azurite").where(f"{BUCKET}/{place}")))


def fake_gcs_backend(request, place):
    server = request.getfixturevalue("fake_gcs")

    async def fill(key: str, data: bytes) -> None:
        try:
            await asyncio.to_thread(server.upload, BUCKET, f"{place}/{key}", data)
        except HTTPError as error:  # the fake keeps objects as files, and refuses what no file can be called
            error.close()
            raise BadRequest(f"fake-gcs-server refuses {key!r}") from None

    return Backend(opened(server.where(f"{BUCKET}/{place}")), writable=False, fill=fill)


def nginx_backend(request, place):
    url = request.getfixturevalue("nginx").url
    return Backend(opened(f"{url}/{place}"), lists=False, exclusive=True, keeps_type=False)


def payloads_backend(request, place):
    return _payloads(request, f"sqlite:///{request.getfixturevalue('tmp_path')}/payloads.db")


def payloads_in_postgres_backend(request, place):
    return _payloads(request, request.getfixturevalue("postgres").create())


def _payloads(request, url):
    database = Database(url)
    request.addfinalizer(database.close)
    database.prepare()
    return Backend(Payloads(database, label="test://bucket"))


def read_only_backend(request, place):
    inner = memory_backend(request, place)
    return Backend(ReadOnly(inner.store, label="test://bucket"), writable=False, fill=inner.fill)


BACKENDS = {
    make.__name__.removesuffix("_backend"): make
    for make in (
        memory_backend,
        local_backend,
        read_only_backend,
        versitygw_backend,
        minio_backend,
        azurite_backend,
        fake_gcs_backend,
        nginx_backend,
        payloads_backend,
        payloads_in_postgres_backend,
    )
}
IN_PROCESS = {"memory", "local", "read_only", "payloads"}


@pytest.fixture(
    params=[pytest.param(name, marks=() if name in IN_PROCESS else pytest.mark.servers, id=name) for name in BACKENDS]
)
async def backend(request):
    backend = BACKENDS[request.param](request, uuid.uuid4().hex)
    yield backend
    await backend.store.aclose()


@pytest.fixture
def writable(backend):
    if not backend.writable:
        pytest.skip("this store takes no PUT")
    return backend


@pytest.fixture
def listing(backend):
    if not backend.lists:
        pytest.skip("this store has no listing")
    return backend
