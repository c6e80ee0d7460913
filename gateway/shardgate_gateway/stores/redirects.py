"""Where a web server may send us: to itself, and to hosts that the operator listed. Nowhere else.

A redirect is an order from outside to connect somewhere. Followed blindly it lets an origin read the cloud's metadata
service, or whatever listens inside the cluster, through the gateway. So a redirect is followed only to the host and
port that the bucket names, to the same host by https, and to `allow_redirect_hosts`.

A name is no proof of a place either. When connecting by name, link-local addresses (metadata services) are refused
always, and loopback ones for every name but the bucket's own and `localhost`. Addresses that the operator wrote down as
such are meant.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from shardgate_gateway.errors import Forbidden, UpstreamError

if TYPE_CHECKING:
    import socket

REDIRECTS = {301, 302, 303, 307, 308}
MAX_REDIRECTS = 5


class RedirectPolicy:
    """What the bucket at `base` may be redirected to; `hosts` are `host` or `host:port`."""

    def __init__(self, base: URL, hosts: tuple[str, ...]) -> None:
        self._base = base
        self._hosts = {host.lower() for host in hosts}

    def target(self, url: URL, location: str, label: str) -> URL:
        """The URL to ask next.

        Raises:
            Forbidden: It may not be asked.
            UpstreamError: It is no URL.
        """
        try:
            target = url.join(URL(location, encoded=True))
        except ValueError:
            raise UpstreamError(f"{label} was redirected to {location[:100]!r}, which is no URL") from None
        if target.scheme in {"http", "https"} and self._allows(target):
            return target
        raise Forbidden(
            f"{label} was redirected to {target.host or location[:100]!r}, which this bucket does not allow",
            hint=f"if that is right, add {target.host!r} to the bucket's allow_redirect_hosts",
        )

    def _allows(self, target: URL) -> bool:
        host, base = (target.host or "").lower(), self._base
        same_host = host == (base.host or "").lower()
        same_port = target.port == base.port
        upgraded = target.scheme == "https" and base.is_default_port() and target.is_default_port()
        downgraded = base.scheme == "https" and target.scheme == "http"
        listed = host in self._hosts or f"{host}:{target.port}" in self._hosts
        return listed or (same_host and (same_port or upgraded) and not downgraded)


class GuardedResolver(AbstractResolver):
    """Resolves names, but not to places that no name should lead to."""

    def __init__(self, own_host: str) -> None:
        self._own = {own_host.lower(), "localhost"}
        self._resolver = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily | int = 0) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]
        for item in found:
            address = ipaddress.ip_address(item["host"].partition("%")[0])
            address = getattr(address, "ipv4_mapped", None) or address
            if address.is_link_local or (address.is_loopback and host.lower() not in self._own):
                raise Forbidden(
                    f"{host} leads to {address}, where no web server of this bucket can be",
                    hint="the name server may be lying; if this is meant, use the address itself in `where`",
                )
        return found

    async def close(self) -> None:
        await self._resolver.close()
