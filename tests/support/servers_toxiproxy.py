"""A bad network between two programs: toxiproxy, and as much of its API as tests need.

with start_toxiproxy(tmp_path) as toxiproxy:
    proxy = toxiproxy.proxy("127.0.0.1:9000")
    proxy.toxic("limit_data", bytes=1_000_000)     # close after so many bytes
    proxy.toxic("reset_peer", timeout=0)           # RST
    proxy.toxic("latency", latency=50, jitter=10)  # milliseconds
    proxy.toxic("bandwidth", rate=1000)            # KB/s
    proxy.toxic("timeout", timeout=0)              # no byte more, connection stays open
    proxy.clear()
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from servers import Server, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALL_SECONDS = 10


def _call(url: str, method: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=CALL_SECONDS) as response:
        text = response.read()
    return json.loads(text) if text else None


@dataclass(frozen=True)
class Proxy:
    """One forwarded port. `address` is what a client connects to."""

    api: str
    name: str
    address: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def toxic(self, kind: str, *, upstream: bool = False, **attributes: int) -> None:
        """Spoil what flows to the client, or with `upstream` what flows to the server."""
        stream = "upstream" if upstream else "downstream"
        _call(
            f"{self.api}/proxies/{self.name}/toxics", "POST", {"type": kind, "stream": stream, "attributes": attributes}
        )

    def clear(self) -> None:
        for toxic in _call(f"{self.api}/proxies/{self.name}/toxics", "GET"):
            _call(f"{self.api}/proxies/{self.name}/toxics/{toxic['name']}", "DELETE")

    def disable(self) -> None:
        """Drop all connections and refuse new ones."""
        _call(f"{self.api}/proxies/{self.name}", "POST", {"enabled": False})

    def enable(self) -> None:
        _call(f"{self.api}/proxies/{self.name}", "POST", {"enabled": True})


class Toxiproxy(Server):
    def proxy(self, upstream: str) -> Proxy:
        """Forward a new port to `host:port` (`http://host:port` will do)."""
        target = upstream.removeprefix("http://").rstrip("/")
        name = f"proxy-{len(_call(f'{self.url}/proxies', 'GET'))}"
        made = _call(f"{self.url}/proxies", "POST", {"name": name, "listen": "127.0.0.1:0", "upstream": target})
        return Proxy(self.url, name, made["listen"])


@contextmanager
def start_toxiproxy(folder: Path) -> Iterator[Toxiproxy]:
    with running(
        Toxiproxy, "toxiproxy-server", folder / "toxiproxy", lambda port: ["-host", "127.0.0.1", "-port", str(port)]
    ) as server:
        yield server
