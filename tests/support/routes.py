"""All routes of a gateway, as a table: they are bound to nothing, and are not to be called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardgate_gateway.features.cache_admin.feature import routes as cache_routes
from shardgate_gateway.features.demand.endpoints import routes as demand_routes
from shardgate_gateway.features.environments.feature import routes as environment_routes
from shardgate_gateway.features.transforms.feature import routes as transform_routes
from shardgate_gateway.http.core_routes import core_routes

if TYPE_CHECKING:
    from shardgate_gateway.http.route import Route


def every_route() -> list[Route]:
    """Of the core and of every feature, also of those that only gateways with pods have."""
    nothing: Any = None
    return [
        *core_routes(nothing),
        *transform_routes(nothing),
        *cache_routes(nothing),
        *environment_routes(nothing, nothing),
        *demand_routes(nothing),
    ]
