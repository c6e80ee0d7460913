"""Where a web server may send us: to itself, and to hosts that the operator listed. Nowhere else.

A redirect is an order from outside to connect somewhere. Followed blindly it lets an origin read the cloud's metadata
service, or whatever listens inside the cluster, through the gateway. So a redirect is followed only to the host and
port that the bucket names, to the same host by https, and to `allow_redirect_hosts`.

A name is no proof of a place either. When connecting by name, addresses of metadata services (link-local ones, and
those that clouds chose elsewhere) are refused always, and those of this machine for every name but the bucket's own and
`localhost`. An IPv6 address may carry an IPv4 one, which a translator or tunnel on the way leads to, so that one is
judged as well. Addresses that the operator wrote down as such are meant.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from shardgate.text import safe_line
from shardgate_gateway.errors import Forbidden, UpstreamError

if TYPE_CHECKING:
    import socket
    from ipaddress import IPv4Address, IPv6Address

    Address = IPv4Address | IPv6Address

REDIRECTS = {301, 302, 303, 307, 308}
MAX_REDIRECTS = 5
PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F))
IPV4 = 0xFFFFFFFF
CARRIERS = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (ipaddress.IPv6Network("::/96"), 0),  # compatible
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),  # translated (SIIT)
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),  # NAT64 of a network's own
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)
"""Networks whose addresses carry an IPv4 address, and how many bits stand behind it."""
ISATAP, ISATAP_MASK = 0x00005EFE, 0xFCFFFFFF
THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        *("fd00:ec2::254", "fd00:ec2::23", "fd00:ec2::253", "fd00:ec2::123"),  # AWS: instance, pods, DNS, time
        "fd20:ce::254",  # Google
        "168.63.129.16",  # Azure's platform
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:42::42",  # Scaleway
    )
)
"""Services that tell a machine its credentials, at addresses that are not link-local."""


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
        shown = safe_line(location, 100)
        try:
            target = url.join(URL(_ascii(location), encoded=True))
            host = safe_line(target.host or "", 100)
            allowed = target.scheme in {"http", "https"} and self._allows(target)
        except ValueError:  # yarl looks at hosts and ports when they are asked for
            location = ""
        if not location:
            raise UpstreamError(f"{label} was redirected to {shown!r}, which is no URL")
        if allowed:
            return target
        raise Forbidden(
            f"{label} was redirected to {host or repr(shown)}, which this bucket does not allow",
            hint=f"if that is right, add {host!r} to the bucket's allow_redirect_hosts",
        )

    def _allows(self, target: URL) -> bool:
        host, base = (target.host or "").lower(), self._base
        same_host = host == (base.host or "").lower()
        same_port = target.port == base.port
        upgraded = target.scheme == "https" and base.is_default_port() and target.is_default_port()
        downgraded = base.scheme == "https" and target.scheme == "http"
        listed = host in self._hosts or f"{host}:{target.port}" in self._hosts
        return listed or (same_host and (same_port or upgraded) and not downgraded)


def _ascii(location: str) -> str:
    """Bytes that may not stand in a URL are quoted, as browsers do; aiohttp gives what is no UTF-8 as surrogates."""
    return quote(location.encode("utf-8", "surrogateescape"), safe=PRINTABLE)


def places_of(address: Address) -> list[Address]:
    """The address, and the IPv4 addresses that it may be another way to write or to reach."""
    places: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        value = int(address)
        places += [ipaddress.IPv4Address(value >> shift & IPV4) for network, shift in CARRIERS if address in network]
        if (value >> 32 & IPV4) & ISATAP_MASK == ISATAP:
            places.append(ipaddress.IPv4Address(value & IPV4))
        if address.teredo is not None:
            places += address.teredo
    return places


def _is_metadata(address: Address) -> bool:
    return address.is_link_local or address in METADATA


def _is_here(address: Address) -> bool:
    """Linux takes 0.0.0.0 and :: for this machine."""
    return address.is_loopback or address.is_unspecified or address in THIS_NETWORK


class GuardedResolver(AbstractResolver):
    """Resolves names, but not to places that no name should lead to."""

    def __init__(self, own_host: str) -> None:
        self._own = {own_host.lower(), "localhost"}
        self._resolver = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily | int = 0) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]
        for item in found:
            address = ipaddress.ip_address(item["host"].partition("%")[0])
            own = host.lower() in self._own
            if any(_is_metadata(place) or (_is_here(place) and not own) for place in places_of(address)):
                raise Forbidden(
                    f"{host} leads to {address}, where no web server of this bucket can be",
                    hint="the name server may be lying; if this is meant, use the address itself in `where`",
                )
        return found

    async def close(self) -> None:
        await self._resolver.close()
