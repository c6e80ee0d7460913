"""A redirect is followed to the origin itself and to listed hosts, and to nowhere else, however it is disguised."""

from __future__ import annotations

import socket

import pytest
from aiohttp import ThreadedResolver
from servers_faulty import Fault, FaultyOrigin
from yarl import URL

from shardgate_gateway.errors import Forbidden, NotFound, UpstreamError
from shardgate_gateway.stores.redirects import GuardedResolver, RedirectPolicy


def follow(base, location, *hosts):
    return str(RedirectPolicy(URL(base), hosts).target(URL(f"{base}/key"), location, "http://b/key"))


@pytest.mark.parametrize(
    ("base", "location", "hosts"),
    [
        ("http://files.example/base", "/other", ()),
        ("http://files.example/base", "http://files.example/x%20y", ()),
        ("http://files.example/base", "https://files.example/x", ()),
        ("http://files.example:81/base", "//files.example:81/x", ()),
        ("http://files.example/base", "https://cdn.example/x", ("cdn.example",)),
        ("http://files.example/base", "https://CDN.example/x", ("cdn.EXAMPLE",)),
        ("http://files.example/base", "http://cdn.example:8080/x", ("cdn.example:8080",)),
        ("http://10.0.0.1/base", "http://10.0.0.1/x", ()),
        ("http://files.example/base", "http://10.0.0.2/x", ("10.0.0.2",)),
        ("http://files.example/base", "http://[::1]:80/x", ("::1",)),
    ],
)
def test_allowed(base, location, hosts):
    assert follow(base, location, *hosts).startswith(("http://", "https://"))


@pytest.mark.parametrize(
    ("base", "location", "hosts"),
    [
        ("http://files.example/base", "http://169.254.169.254/latest/meta-data/", ("cdn.example",)),
        ("http://files.example/base", "http://127.0.0.1/x", ()),
        ("http://files.example/base", "http://[::1]/x", ()),
        ("http://files.example/base", "http://2130706433/x", ()),
        ("http://files.example/base", "http://files.example:9200/x", ()),
        ("http://files.example/base", "http://evil.files.example/x", ()),
        ("http://files.example/base", "http://files.example.evil/x", ()),
        ("http://files.example/base", "http://files.example@evil/x", ()),
        ("http://files.example/base", "//evil/x", ()),
        ("http://files.example/base", "file:///etc/passwd", ()),
        ("http://files.example/base", "gopher://files.example/x", ()),
        ("https://files.example/base", "http://files.example/x", ()),
        ("http://files.example/base", "http://cdn.example:22/x", ("cdn.example:8080",)),
    ],
)
def test_refused(base, location, hosts):
    with pytest.raises(Forbidden, match="does not allow") as caught:
        follow(base, location, *hosts)
    assert "allow_redirect_hosts" in caught.value.hint


def test_what_is_no_url_is_refused():
    with pytest.raises(UpstreamError, match="no URL"):
        follow("http://files.example/base", "http://[::1/x")


def resolves_to(monkeypatch, address):
    async def resolve(self, host, port=0, family=socket.AF_INET):
        return [{"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)


@pytest.mark.parametrize(
    ("host", "address", "allowed"),
    [
        ("files.example", "93.184.216.34", True),
        ("files.example", "10.0.0.1", True),
        ("files.example", "127.0.0.1", True),
        ("cdn.example", "10.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("cdn.example", "127.0.0.1", False),
        ("cdn.example", "::1", False),
        ("cdn.example", "::ffff:127.0.0.1", False),
        ("files.example", "169.254.169.254", False),
        ("cdn.example", "169.254.169.254", False),
        ("files.example", "fe80::1%eth0", False),
        ("files.example", "::ffff:169.254.169.254", False),
        ("files.example", "2606:4700::1111", True),
        ("files.example", "fd12::1", True),
        ("files.example", "0.0.0.0", True),
        ("cdn.example", "64:ff9b::5db8:d822", True),
        ("cdn.example", "2002:5db8:d822::1", True),
        ("cdn.example", "0.0.0.0", False),
        ("cdn.example", "0.1.2.3", False),
        ("cdn.example", "::", False),
        ("cdn.example", "::ffff:0.0.0.0", False),
        ("cdn.example", "::127.0.0.1", False),
        ("cdn.example", "::ffff:0:127.0.0.1", False),
        ("cdn.example", "64:ff9b::127.0.0.1", False),
        ("cdn.example", "2002:7f00:1::1", False),
        ("files.example", "64:ff9b::169.254.169.254", False),
        ("files.example", "64:ff9b:1::169.254.169.254", False),
        ("files.example", "2002:a9fe:a9fe::", False),
        ("files.example", "2001:0:5db8:d822:0:0:5601:5601", False),
        ("files.example", "2001:db8::5efe:169.254.169.254", False),
        ("files.example", "2001:db8::200:5efe:169.254.169.254", False),
        ("files.example", "fd00:ec2::254", False),
        ("files.example", "fd20:ce::254", False),
        ("files.example", "100.100.100.200", False),
        ("files.example", "168.63.129.16", False),
    ],
)
async def test_a_name_that_was_rebound_leads_nowhere(monkeypatch, host, address, allowed):
    resolves_to(monkeypatch, address)
    resolver = GuardedResolver("files.example")
    if allowed:
        assert (await resolver.resolve(host, 80))[0]["host"] == address
    else:
        with pytest.raises(Forbidden, match="leads to"):
            await resolver.resolve(host, 80)


async def test_a_store_refuses_a_rebound_origin_without_connecting(monkeypatch, open_bucket):
    resolves_to(monkeypatch, "169.254.169.254")
    store = open_bucket("http://files.example/base")
    with pytest.raises(Forbidden, match="leads to"):
        await store.get("a")
    await store.aclose()


async def test_a_store_follows_and_refuses_over_real_sockets(origin, open_bucket, helpers):
    with FaultyOrigin() as other:
        other.put("elsewhere", b"other")
        origin.put("a", b"")
        origin.put("moved", b"moved")
        strict = open_bucket(origin.url)
        lenient = open_bucket(origin.url, allow_redirect_hosts=(other.url.removeprefix("http://"),))
        origin.fail("a", Fault(status=302, headers={"Location": "/moved"}))
        assert await helpers["drain"](await strict.get("a")) == b"moved"
        origin.fail("a", Fault(status=307, headers={"Location": f"{other.url}/elsewhere"}), times=2)
        with pytest.raises(Forbidden):
            await strict.get("a")
        assert other.requests == []
        assert await helpers["drain"](await lenient.get("a")) == b"other"
        origin.fail("a", Fault(status=301, headers={"Location": "/a"}), times=20)
        with pytest.raises(UpstreamError, match="more than 5 times"):
            await strict.get("a")
        origin.heal("a")
        origin.fail("a", Fault(status=301, headers={"Location": "/a/"}))
        with pytest.raises(NotFound, match="folder"):
            await strict.get("a")
        await strict.aclose()
        await lenient.aclose()
