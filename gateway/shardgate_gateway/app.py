"""One gateway process, and the one place where everything is put together.

`build` walks up the house: stores, cache, registry, runner, relay, and then the features that stand on them. `serve`
runs what it built until it is told to stop, then drains: no new connections, running answers end, and what is not done
after `serve.drain_seconds` is reset.
The supervisor starts `python -m shardgate_gateway.app`, with the settings on stdin and the listening socket as an
inherited descriptor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from shardgate.providers import split_bucket
from shardgate_gateway.auth.tokens import Tokens
from shardgate_gateway.cache.cache import Cache
from shardgate_gateway.cluster.calls import PeerCalls
from shardgate_gateway.cluster.connection import PeerClient
from shardgate_gateway.cluster.credentials import Credentials
from shardgate_gateway.cluster.dns import DnsMembership
from shardgate_gateway.cluster.membership import Member, Membership, StaticMembership
from shardgate_gateway.cluster.peers import Peers
from shardgate_gateway.cluster.popularity import Popularity
from shardgate_gateway.confidential import hide
from shardgate_gateway.errors import GatewayError
from shardgate_gateway.etl.delivery import Delivery
from shardgate_gateway.etl.local.orphans import adopt_orphans
from shardgate_gateway.etl.local.process import is_for_workers
from shardgate_gateway.etl.local.runner import LocalRunner
from shardgate_gateway.etl.packages import Packages
from shardgate_gateway.etl.registration import Registrar
from shardgate_gateway.etl.registry import Registry
from shardgate_gateway.etl.relay import Relay
from shardgate_gateway.etl.seen_requests import SeenRequests
from shardgate_gateway.features import cache_admin, demand, environments, transforms
from shardgate_gateway.http.accept import Acceptor
from shardgate_gateway.http.core_routes import core_routes
from shardgate_gateway.http.router import Router
from shardgate_gateway.http.server import Server
from shardgate_gateway.jobs.supervisor import JobSupervisor
from shardgate_gateway.kernel import Kernel, Traffic
from shardgate_gateway.log_format import set_up_logging
from shardgate_gateway.metrics import WORKER_NUMBER
from shardgate_gateway.objects.buckets import Bucket, Buckets
from shardgate_gateway.objects.ownership import Ownership
from shardgate_gateway.objects.service import Objects
from shardgate_gateway.settings import BucketSettings, Settings
from shardgate_gateway.state.database import DATABASE_FILE, Database, database_url
from shardgate_gateway.state.payloads import Payloads
from shardgate_gateway.state.private import make_private_file, open_state
from shardgate_gateway.stores.local_folder import LocalFolder
from shardgate_gateway.stores.measured import Measured
from shardgate_gateway.stores.open import open_store
from shardgate_gateway.stores.start_check import check_buckets
from shardgate_gateway.stores.upload_memory import UploadMemory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from shardgate_gateway.cache.cache import CacheStat
    from shardgate_gateway.etl.runner import Runner
    from shardgate_gateway.feature import Feature
    from shardgate_gateway.http.route import Route
    from shardgate_gateway.stores.base import Store

log = logging.getLogger("shardgate_gateway.app")  # it runs as __main__

FEATURES: Sequence[Feature] = (transforms.FEATURE, cache_admin.FEATURE, environments.FEATURE, demand.FEATURE)
"""What stands on the kernel. A feature is added and removed here."""
PR_SET_PDEATHSIG = 1
BAD_SETTINGS = 2
"""Exit status of a process that can't be put together as it is set up."""
DESCRIPTORS_PER_CONNECTION = 4
"""Its socket, the duplicate that its body is sent through, the entry it reads, a share of a fill."""
ABORT_SECONDS = 0.5
JOB_SECONDS = 900.0
"""How long beyond `etl.progress_timeout` a worker may begin to read its input. Its token opens that input and nothing
else: a shard, or what the earlier stages of a pipeline make of one. A worker that is at its shard for longer, and loses
the connection to its input then, is replaced by one with a new token, which goes on where that one was."""


async def serve(settings: Settings, listener: socket.socket, stop: asyncio.Event, ready: int) -> None:
    """Answer requests from the listener until `stop`.

    Args:
        settings: All of them.
        listener: The shared socket; closed at the end.
        stop: Ends it gracefully.
        ready: Descriptor that gets a byte when requests are answered.
    """
    host, port = listener.getsockname()[:2]
    async with build(settings, endpoint=f"http://{_bracketed(host)}:{port}") as gateway:
        server = Server(gateway.kernel, Router(gateway.kernel, gateway.routes))
        acceptor = Acceptor(listener, server)
        acceptor.start()
        os.write(ready, b"1")
        os.close(ready)
        await stop.wait()
        gateway.kernel.traffic.draining = True
        await asyncio.sleep(settings.serve.linger_seconds)
        acceptor.stop()
        await drain(gateway.kernel.traffic, server, settings.serve.drain_seconds)


async def drain(traffic: Traffic, server: Server, seconds: float) -> None:
    """Let the answers end that are under way, and break off those that take longer than `seconds`."""
    if traffic.running:
        log.info("draining: %d requests are being answered", traffic.running)
        traffic.idle.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(traffic.idle.wait(), seconds)
    server.pre_shutdown()
    await server.shutdown(ABORT_SECONDS)
    server.hot.flush()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that was put together."""

    kernel: Kernel
    routes: Sequence[Route]


@contextlib.asynccontextmanager
async def build(settings: Settings, *, endpoint: str, features: Sequence[Feature] = FEATURES) -> AsyncIterator[Gateway]:
    """Put the gateway together, and take it apart in the reverse order.

    Args:
        settings: All of them.
        endpoint: How workers on this machine reach this gateway.
        features: What stands on the kernel.

    Raises:
        BadRequest: A setting can't be used.
        LocalStorageError: The cache or state folder can't be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        kernel = await _open_kernel(settings, endpoint, stack)
        mounts = [await stack.enter_async_context(feature.open(kernel)) for feature in features]
        for job in (job for mount in mounts for job in mount.jobs):
            kernel.jobs.start(job)
        routes = [*core_routes(kernel), *(route for mount in mounts for route in mount.routes)]
        yield Gateway(kernel, routes)


async def _open_kernel(settings: Settings, endpoint: str, stack: contextlib.AsyncExitStack) -> Kernel:
    tokens = Tokens(settings.auth, settings.serve.token)
    uploads = UploadMemory(settings.serve.upload_memory_bytes, settings.serve.upload_stall_seconds)
    buckets = _open_buckets(settings, uploads, stack)
    cache = await _open_cache(settings, buckets, stack)
    calls = await _open_cluster(settings, tokens, endpoint, stack)
    database, payloads = await _open_state(settings, stack)
    packages = Packages(database, payloads, is_own_store=not settings.state.packages)
    registry = Registry(database, packages)
    stack.push_async_callback(registry.aclose)
    runner = await _open_runner(settings, tokens, payloads, registry, calls, stack)
    relay = Relay(
        runner,
        registry,
        settings.etl,
        endpoint=settings.cluster.url or settings.serve.public_url or endpoint,
        sign=lambda scopes: tokens.mint("etl", scopes, seconds=settings.etl.progress_timeout + JOB_SECONDS),
        seal=tokens.seal,
    )
    delivery = Delivery(cache, relay, registry, settings.etl, SeenRequests(settings.cache.dir / "asked"))
    stack.push_async_callback(delivery.aclose)
    jobs = await stack.enter_async_context(JobSupervisor())
    for job in (*cache.jobs(), *packages.jobs()):
        jobs.start(job)
    return Kernel(
        settings=settings,
        name=_name(settings),
        tokens=tokens,
        buckets=Buckets(buckets),
        cache=cache,
        objects=Objects(cache, Ownership(calls)),
        registry=registry,
        registrar=Registrar(registry, runner, settings.etl.package_bytes),
        runner=runner,
        delivery=delivery,
        database=database,
        payloads=payloads,
        jobs=jobs,
        uploads=uploads,
        traffic=Traffic(settings.serve.max_connections or _descriptors() // DESCRIPTORS_PER_CONNECTION),
    )


def _open_buckets(settings: Settings, uploads: UploadMemory, stack: contextlib.AsyncExitStack) -> list[Bucket]:
    buckets = []
    for name, bucket in settings.buckets.items():
        store = Measured(open_store(name, bucket, settings.upstream, uploads), label=name)
        stack.push_async_callback(store.aclose)
        buckets.append(Bucket(*split_bucket(name), store, bucket))
    return buckets


async def _open_cache(settings: Settings, buckets: list[Bucket], stack: contextlib.AsyncExitStack) -> Cache:
    cache = Cache(settings.cache, settings.upstream)
    await cache.start()
    if _speaks_for_all():
        _log_cache(settings, await cache.stat())
        looking = asyncio.create_task(check_buckets([(str(b), b.settings, b.store) for b in buckets]))
        stack.push_async_callback(_end, looking)
    stack.push_async_callback(cache.aclose)
    return cache


async def _open_state(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[Database, Store]:
    """The database, and the store beside it for what is too large for rows."""
    state = settings.state
    await asyncio.to_thread(open_state, state.dir)
    if not state.database:
        make_private_file(state.dir / DATABASE_FILE)
    database = Database(database_url(state.database, state.dir))
    stack.push_async_callback(database.aclose)
    await asyncio.to_thread(database.prepare)
    payloads = _open_packages(settings, database)
    stack.push_async_callback(payloads.aclose)
    return database, payloads


async def _open_runner(
    settings: Settings,
    tokens: Tokens,
    payloads: Store,
    registry: Registry,
    calls: PeerCalls | None,
    stack: contextlib.AsyncExitStack,
) -> Runner:
    runner: Runner
    if settings.etl.runner == "kubernetes":
        from shardgate_gateway.etl.kubernetes.pods import open_pods  # noqa: PLC0415 (nothing of it on a laptop)

        peers, credentials = calls.peers if calls else None, Credentials(tokens, _name(settings))
        runner = await stack.enter_async_context(open_pods(settings, tokens, payloads, registry, peers, credentials))
    else:
        runner = LocalRunner(settings.etl, settings.state.dir, registry.package)
    stack.push_async_callback(runner.aclose)
    return runner


def _open_packages(settings: Settings, database: Database) -> Store:
    """Where they are told to be; else beside the database, or in it if that is one for several gateways."""
    state = settings.state
    if database.shared and not state.packages:
        return Payloads(database, label="state://payloads")
    if not state.packages:
        return LocalFolder(state.dir / "packages", label="file://packages", private=True)
    return open_store("file://packages", BucketSettings(where=state.packages), settings.upstream)


async def _open_cluster(
    settings: Settings, tokens: Tokens, endpoint: str, stack: contextlib.AsyncExitStack
) -> PeerCalls | None:
    cluster = settings.cluster
    if cluster.membership == "none":
        return None
    name = _name(settings)
    client = PeerClient(cluster.connect_timeout)
    membership: Membership
    if cluster.membership == "static":
        membership = StaticMembership(cluster.members)
    elif cluster.membership == "dns":
        membership = DnsMembership(cluster.dns, client, cluster.refresh_seconds)
    else:
        from shardgate_gateway.cluster.slices import SliceMembership  # noqa: PLC0415 (nothing of it on a laptop)
        from shardgate_gateway.kube.client import open_api  # noqa: PLC0415

        api = await stack.enter_async_context(open_api(settings.kubernetes.kubeconfig, settings.kubernetes.namespace))
        membership = SliceMembership(api, cluster.service)
    await stack.enter_async_context(membership)
    popularity = Popularity(cluster.hot_requests, cluster.hot_copies)
    peers = await stack.enter_async_context(
        Peers(Member(name, cluster.url or endpoint), membership, client, popularity)
    )
    return PeerCalls(peers, Credentials(tokens, name))


def _name(settings: Settings) -> str:
    return settings.cluster.name or socket.gethostname()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _descriptors() -> int:
    """Take as many as the system lets us have: idle readers should be cheap."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _main(settings: Settings, listener: socket.socket, ready: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP is left to the process above this one")
    await serve(settings, listener, stop, ready)


def _speaks_for_all() -> bool:
    """What is said or looked at once per gateway, the first of its processes does."""
    return os.environ.get(WORKER_NUMBER, "0") == "0"


def _log_cache(settings: Settings, stat: CacheStat) -> None:
    folder, capacity = settings.cache.dir, stat.capacity_bytes
    log.info(
        "cache: %s has %d bytes in %d entries, of %d that it may use",
        *(folder, stat.used_bytes, stat.entries, capacity),
        extra={"fields": {"capacity_bytes": capacity, "used_bytes": stat.used_bytes}},
    )
    disk = shutil.disk_usage(folder).total
    if capacity > disk:
        log.warning("cache.capacity_bytes is %d, and the disk of %s has %d bytes in all", capacity, folder, disk)


def main() -> int:
    """Entry point of a worker process; see `supervisor.py`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    # The kernel asks us to end when the supervisor is gone, however it went.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != given.parent:
        return 0
    hide(is_for_workers)
    adopt_orphans()
    settings = Settings.model_validate_json(sys.stdin.read())
    set_up_logging(settings.log)
    listener = socket.socket(fileno=given.listener)
    listener.setblocking(False)
    try:
        uvloop.run(_main(settings, listener, given.ready))
    except GatewayError as error:
        print(f"shardgate: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return BAD_SETTINGS
    return 0


if __name__ == "__main__":
    sys.exit(main())
