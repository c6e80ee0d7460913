"""What we measure against (nginx as a cache), and what stands behind us: nginx and versitygw as stores, far or near.

nginx is set to serve files fast: sendfile, one worker, no access log in the cache, connections that live for ever. It
keeps its default `tcp_nopush off`, because with it on, a 100 KB answer on loopback waits 40 ms for a delayed
acknowledgement every now and then, and nginx would look ten times slower than it is.
"""

from __future__ import annotations

import os
import pwd
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore import sign
from obstore.store import S3Store
from servers_install import require
from servers_toxiproxy import start_toxiproxy

from benchmarks.harness import Server, accepts, free_port, server
from servers import S3_SECRET, S3_USER, start_versitygw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NGINX = """
daemon off;
worker_processes 1;
{user}
error_log {root}/error.log warn;
pid {root}/pid;
events {{ worker_connections 2048; }}
http {{
  sendfile on;
  keepalive_requests 1000000000;
  default_type application/octet-stream;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  {http}
}}
"""

_STATIC = """
  log_format sent '$body_bytes_sent';
  access_log {root}/sent.log sent;
  server {{ listen 127.0.0.1:{port} backlog=2048; root {files}; }}
"""

_CACHE = """
  access_log off;
  proxy_cache_path {root}/cache levels=1:2 keys_zone=objects:16m max_size=64g inactive=1d use_temp_path=off;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass {origin};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_max_temp_file_size 0;
      proxy_cache objects;
      proxy_cache_valid 200 1d;
      proxy_cache_lock on;
    }}
  }}
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """A store that hands out files.

    Attributes:
        url: Base URL.
        files: Folder whose files it serves.
        sent_log: One line per response with the bytes of its body.
        process: The server.
    """

    url: str
    files: Path
    sent_log: Path
    process: Server

    def bytes_sent(self) -> int:
        return sum(map(int, self.sent_log.read_text().split()))


@contextmanager
def _nginx(root: Path, http: str, port: int) -> Iterator[Server]:
    root.mkdir(parents=True)
    user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
    config = root / "nginx.conf"
    config.write_text(_NGINX.format(user=user, root=root, http=http))
    with server([str(require("nginx")), "-c", str(config), "-p", str(root)], log=root / "output.log") as process:
        process.wait_until(lambda: accepts(port))
        yield process


@contextmanager
def nginx_origin(root: Path, files: Path) -> Iterator[Origin]:
    """nginx that serves `files` with ETag and ranges."""
    port = free_port()
    with _nginx(root, _STATIC.format(root=root, port=port, files=files), port) as process:
        yield Origin(f"http://127.0.0.1:{port}", files, root / "sent.log", process)


@contextmanager
def nginx_cache(root: Path, origin: str) -> Iterator[tuple[str, Server]]:
    """nginx's proxy_cache in front of `origin`: base URL and process."""
    port = free_port()
    with _nginx(root, _CACHE.format(root=root, port=port, origin=origin), port) as process:
        yield f"http://127.0.0.1:{port}", process


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a store is: latency of its answers, and what one connection carries at most."""

    latency_ms: int
    megabytes_per_second: int


REMOTE = Distance(latency_ms=5, megabytes_per_second=88)
"""A cloud's object store, seen from the same region: AWS's design patterns speak of 85 to 90 MB/s per connection."""


@contextmanager
def shaped(root: Path, upstream: str, distance: Distance) -> Iterator[str]:
    """A proxy in front of `upstream` whose every connection has the latency and the bandwidth of `distance`."""
    root.mkdir(parents=True)
    with start_toxiproxy(root) as toxiproxy:
        proxy = toxiproxy.proxy(upstream)
        proxy.toxic("latency", latency=distance.latency_ms)
        proxy.toxic("bandwidth", rate=distance.megabytes_per_second * 1000)
        yield proxy.url


@dataclass(frozen=True, slots=True)
class S3Bucket:
    """A bucket of a real S3 server: `where` locates it for the gateway, `folder` holds its objects as plain files."""

    where: str
    folder: Path
    store: S3Store

    def signed(self, key: str) -> str:
        """A presigned GET URL, so that a plain reader may read straight from the store."""
        return sign(self.store, "GET", key, timedelta(hours=1))


@contextmanager
def s3_bucket(root: Path, name: str = "bench") -> Iterator[S3Bucket]:
    """One bucket of versitygw."""
    root.mkdir(parents=True)
    with start_versitygw(root / "s3") as s3:
        s3.create_bucket(name)
        store = S3Store(
            name,
            endpoint=s3.url,
            region="us-east-1",
            access_key_id=S3_USER,
            secret_access_key=S3_SECRET,
            client_options={"allow_http": True},
        )
        yield S3Bucket(s3.where(name), s3.folder / name, store)
