"""How gateways find each other."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from shardgate_gateway.settings.base import Group


class ClusterSettings(Group):
    """Several gateways that share the objects among them."""

    membership: Literal["none", "static", "dns", "kubernetes"] = Field(
        "none",
        description="How the gateways find each other: not at all (this is the only one), by `members`, by `dns`, or "
        "by the EndpointSlices of `service`.",
    )
    name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Name of this gateway among the members. Objects are placed by names, so it must outlive restarts; "
        "empty takes the host name, which is the pod's.",
    )
    url: str = Field(
        "", description="How the other gateways reach this one; empty takes `http://serve.host:serve.port`."
    )
    members: dict[str, str] = Field(
        default_factory=dict, description="With `static`: URLs of all gateways by name, this one included."
    )
    dns: str = Field(
        "", description="With `dns`: `http://NAME:PORT`, where NAME resolves to the addresses of all ready gateways."
    )
    service: str = Field("", description="With `kubernetes`: name of the headless Service in front of the gateways.")
    connect_timeout: float = Field(
        1, gt=0, description="Seconds after which a gateway that does not answer is skipped for the next in rank."
    )
    refresh_seconds: float = Field(5, gt=0, description="Seconds between two looks at `dns`.")
    hot_requests: int = Field(
        64,
        ge=0,
        description="Requests within 10 seconds, passed on by other gateways, from which on an object is kept by one "
        "gateway more, and by another one for each time as many; 0 keeps every object once.",
    )
    hot_copies: int = Field(3, ge=1, le=8, description="Most gateways that keep a hot object.")

    @model_validator(mode="after")
    def _complete(self) -> ClusterSettings:
        needed = {"static": "members", "dns": "dns", "kubernetes": "service"}.get(self.membership)
        if needed and not getattr(self, needed):
            raise ValueError(f"cluster.membership is {self.membership!r}, so cluster.{needed} must be set")
        if self.membership == "static" and self.name not in self.members:
            raise ValueError(f"cluster.members lacks this gateway itself, cluster.name {self.name!r}")
        return self
