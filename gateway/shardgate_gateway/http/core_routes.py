"""The routes of the core: objects, buckets, the cluster, and what monitors ask. Features bring their own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shardgate_gateway.http import buckets, cluster_view, health, objects
from shardgate_gateway.http.route import BY_HANDLER, Route, route
from shardgate_gateway.tokens import PEER

if TYPE_CHECKING:
    from shardgate_gateway.kernel import Kernel


def core_routes(kernel: Kernel) -> tuple[Route, ...]:
    """All of them, bound to this gateway."""
    return (
        route(
            "objects",
            "/v1/objects/.*",
            needs=BY_HANDLER,
            GET=partial(objects.get, kernel),
            HEAD=partial(objects.head_of, kernel),
            PUT=partial(objects.put, kernel),
            DELETE=partial(objects.delete, kernel),
        ),
        route("buckets", "/v1/buckets/?", needs=BY_HANDLER, GET=partial(buckets.show_all, kernel)),
        route("list", "/v1/buckets/([^/]+)/?", needs=BY_HANDLER, GET=partial(buckets.show_objects, kernel)),
        route("cluster", "/v1/cluster", needs=BY_HANDLER, GET=partial(cluster_view.show, kernel)),
        route("forget", "/v1/cluster/forget", needs=PEER, POST=partial(cluster_view.forget, kernel)),
        route("healthz", "/healthz", needs=BY_HANDLER, public=True, GET=partial(health.alive, kernel)),
        route("readyz", "/readyz", needs=BY_HANDLER, public=True, GET=partial(health.ready, kernel)),
        route("metrics", "/metrics", needs=BY_HANDLER, GET=partial(health.scrape, kernel)),
    )
