"""Real stores and a bad network, on this machine, for tests and benchmarks.

Every `start_*` is a context manager: it finds or installs its program (`servers_install.py`), starts it on a free
port of 127.0.0.1 with a folder that the caller gives, waits until it accepts connections, and stops it by its pid.
The kernel kills it when the test process dies, whatever the reason. `python tests/support/servers.py install` installs
everything beforehand.

The fault-injecting HTTP server is `servers_faulty.FaultyOrigin`, the bad network `servers_toxiproxy.start_toxiproxy`,
the database `servers_postgres.start_postgres`.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from servers_install import CATALOGUE, ToolMissingError, find_or_install, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.utils import formatdate
    from pathlib import Path
from email.utils import formatdate

START_SECONDS = 30
STOP_SECONDS = 5
START_ATTEMPTS = 3

S3_USER = "test"
S3_SECRET = "testtesttest"
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Both are printed in Azurite's documentation; every installation has them."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: `http://127.0.0.1:PORT`.
        folder: Where it keeps its objects; its log is `folder.parent/NAME.log`.
        process: To send signals to.
    """

    url: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]


S = TypeVar("S", bound=Server)


class S3Server(Server):
    def create_bucket(self, bucket: str) -> None:
        """Both servers take every folder for a bucket."""
        (self.folder / bucket).mkdir()

    def where(self, bucket: str, *, url: str = "", **options: str) -> str:
        """Location of a bucket (or `bucket/prefix`) for `BucketSettings`; `url` puts a proxy before the server."""
        query = {
            "endpoint": url or self.url,
            "region": "us-east-1",
            "access_key_id": S3_USER,
            "secret_access_key": S3_SECRET,
            **options,
        }
        return f"s3://{bucket}?{urlencode(query)}"


class AzureServer(Server):
    def where(self, container: str, *, url: str = "") -> str:
        query = {
            "account": AZURITE_ACCOUNT,
            "access_key": AZURITE_KEY,
            "endpoint": f"{url or self.url}/{AZURITE_ACCOUNT}",
        }
        return f"az://{container}?{urlencode(query)}"

    def create_container(self, container: str) -> None:
        """Azure creates nothing on the first write. This is the Shared Key signature of one such request."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        named = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
        resource = f"/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/{container}\nrestype:container"
        signature = hmac.digest(base64.b64decode(AZURITE_KEY), f"PUT{chr(10) * 12}{named}{resource}".encode(), "sha256")
        headers["Authorization"] = f"SharedKey {AZURITE_ACCOUNT}:{base64.b64encode(signature).decode()}"
        url = f"{self.url}/{AZURITE_ACCOUNT}/{container}?restype=container"
        with urlopen(Request(url, method="PUT", headers=headers), timeout=START_SECONDS) as response:
            response.read()


class GcsServer(Server):
    def where(self, bucket: str, *, url: str = "") -> str:
        return f"gs://{bucket}?{urlencode({'endpoint': url or self.url, 'skip_signature': 'true'})}"

    def create_bucket(self, bucket: str) -> None:
        self._call("/storage/v1/b", json.dumps({"name": bucket}).encode(), "application/json")

    def upload(self, bucket: str, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Store an object by the JSON API: the server refuses the XML one that obstore writes with."""
        query = urlencode({"uploadType": "media", "name": key})
        self._call(f"/upload/storage/v1/b/{quote(bucket)}/o?{query}", data, content_type)

    def _call(self, path: str, body: bytes, content_type: str) -> None:
        request = Request(self.url + path, data=body, headers={"Content-Type": content_type})
        with urlopen(request, timeout=START_SECONDS) as response:
            response.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen on {port}: {log.read_text(errors='replace')[-2000:]}")


def spawn(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills together with the thread that called this (so call it in the main one)."""
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig", "KILL", "--", *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def _wait_for_200(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), urlopen(url, timeout=START_SECONDS):  # a refusal is an OSError, too
            return
        time.sleep(0.02)
    raise AssertionError(f"{url} did not become ready: {log.read_text(errors='replace')[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process by its pid; SIGKILL when SIGTERM is not enough."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(
    kind: type[S],
    name: str,
    folder: Path,
    arguments: Callable[[int], list[str]],
    environment: dict[str, str] | None = None,
    *,
    ready: str = "",
) -> Iterator[S]:
    """Run a program with the arguments for a port; when another process took the port meanwhile, try the next.

    Where it opens its port before it is ready, `ready` is the path that it answers with 200 from then on.
    """
    program, log = str(require(name)), folder.parent / f"{name}.log"
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(START_ATTEMPTS):
        port = free_port()
        process = spawn([program, *arguments(port)], log, environment)
        try:
            wait_for_port(port, process, log)
            if ready:
                _wait_for_200(f"http://127.0.0.1:{port}{ready}", log)
            break
        except RuntimeError:
            stop(process)
            if attempt + 1 == START_ATTEMPTS:
                raise
    try:
        yield kind(f"http://127.0.0.1:{port}", port, folder, process)
    finally:
        stop(process)


def start_versitygw(folder: Path) -> AbstractContextManager[S3Server]:
    """S3 whose objects are plain files in `folder/BUCKET`, easy to change behind the gateway's back."""
    environment = {"ROOT_ACCESS_KEY": S3_USER, "ROOT_SECRET_KEY": S3_SECRET}
    return running(
        S3Server,
        "versitygw",
        folder,
        lambda port: ["--port", f"127.0.0.1:{port}", "--quiet", "posix", str(folder)],
        environment,
    )


def start_minio(folder: Path) -> AbstractContextManager[S3Server]:
    environment = {"MINIO_ROOT_USER": S3_USER, "MINIO_ROOT_PASSWORD": S3_SECRET}
    return running(
        S3Server,
        "minio",
        folder,
        lambda port: ["server", "--address", f"127.0.0.1:{port}", "--quiet", str(folder)],
        environment,
        ready="/minio/health/cluster",
    )


def start_azurite(folder: Path) -> AbstractContextManager[AzureServer]:
    return running(
        AzureServer,
        "azurite-blob",
        folder,
        lambda port: [
            *("--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)),
            *("--silent", "--skipApiVersionCheck", "--disableTelemetry"),
        ],
    )


def start_fake_gcs(folder: Path) -> AbstractContextManager[GcsServer]:
    return running(
        GcsServer,
        "fake-gcs-server",
        folder,
        lambda port: [
            *("-backend", "filesystem", "-filesystem-root", str(folder), "-scheme", "http"),
            *("-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}", "-log-level", "error"),
        ],
    )


NGINX = """
daemon off; master_process off; pid {state}/nginx.pid; error_log stderr warn; user {user};
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; client_max_body_size 0; default_type application/octet-stream;
  client_body_temp_path {state}/body; proxy_temp_path {state}/proxy; fastcgi_temp_path {state}/fastcgi;
  uwsgi_temp_path {state}/uwsgi; scgi_temp_path {state}/scgi;
  types {{ application/x-tar tar; text/plain txt; }}
  server {{
    listen 127.0.0.1:{port}; root {folder};
    location / {{ dav_methods PUT DELETE; create_full_put_path on; {directives} }}
  }}
}}
"""


def start_nginx(folder: Path, *, directives: str = "") -> AbstractContextManager[Server]:
    """A web server over `folder` that takes PUT and DELETE; `directives` go into its one location."""
    state = folder.parent / "nginx-state"
    state.mkdir(parents=True, exist_ok=True)

    def arguments(port: int) -> list[str]:
        user = pwd.getpwuid(os.geteuid()).pw_name
        text = NGINX.format(state=state, port=port, folder=folder, directives=directives, user=user)
        (state / "nginx.conf").write_text(text)
        return ["-e", "stderr", "-c", str(state / "nginx.conf")]

    return running(Server, "nginx", folder, arguments)


def main() -> int:
    """Install the programs that were named, or the whole catalogue; name those that can't be had."""
    missing = 0
    for name in sys.argv[2:] or CATALOGUE:
        try:
            print(f"{name}: {find_or_install(name)}")
        except ToolMissingError as error:
            missing += 1
            print(f"{name}: {error}", file=sys.stderr)
    return missing


if __name__ == "__main__":
    if sys.argv[1:2] != ["install"] or not CATALOGUE.keys() >= set(sys.argv[2:]):
        sys.exit(f"usage: {sys.argv[0]} install [{'|'.join(CATALOGUE)}]...")
    sys.exit(main())
