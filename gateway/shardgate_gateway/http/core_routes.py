"""The routes of the core: objects, buckets, the cluster, and what monitors ask. Features bring their own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shardgate.wire import paths
from shardgate_gateway.auth.scopes import PEER
from shardgate_gateway.http import buckets, cluster_view, health, objects
from shardgate_gateway.http.route import BY_HANDLER, Route, route

if TYPE_CHECKING:
    from shardgate_gateway.kernel import Kernel


def core_routes(kernel: Kernel) -> tuple[Route, ...]:
    """All of them, bound to this gateway."""
    return (
        route(
            "objects",
            f"{paths.OBJECTS}.*",
            needs=BY_HANDLER,
            GET=partial(objects.get, kernel),
            HEAD=partial(objects.head_of, kernel),
            PUT=partial(objects.put, kernel),
            DELETE=partial(objects.delete, kernel),
        ),
        route("buckets", f"{paths.BUCKETS}/?", needs=BY_HANDLER, GET=partial(buckets.show_all, kernel)),
        route("list", f"{paths.BUCKETS}/([^/]+)/?", needs=BY_HANDLER, GET=partial(buckets.show_objects, kernel)),
        route("cluster", paths.CLUSTER, needs=BY_HANDLER, GET=partial(cluster_view.show, kernel)),
        route("forget", paths.FORGET, needs=PEER, POST=partial(cluster_view.forget, kernel)),
        route("healthz", paths.ALIVE, needs=BY_HANDLER, public=True, GET=partial(health.alive, kernel)),
        route("readyz", paths.READY, needs=BY_HANDLER, public=True, GET=partial(health.ready, kernel)),
        route("metrics", paths.METRICS, needs=BY_HANDLER, GET=partial(health.scrape, kernel)),
    )
