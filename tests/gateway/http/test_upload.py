"""Uploads that stand still, and packages."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from gateway_process import GatewayProcess, running_gateway
from readers import curl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
STALLED = 12
"""As many small objects fit into the memory for uploads at a time."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("uploads")
    settings = {"serve.upload_stall_seconds": 1, "serve.upload_memory_bytes": 16 * MIB}
    with running_gateway(folder, {"mem://b": "mem://", "file://f": folder / "f"}, settings=settings) as running:
        yield running


def stalled_put(gateway: GatewayProcess, target: str, framing: str, sent: bytes) -> bytes:
    """Send so much of a body and then nothing; the answer."""
    parts = urlsplit(gateway.endpoint)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as sock:
        sock.sendall(f"PUT /v1/objects/{target} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode() + sent)
        return sock.recv(1 << 16)


@pytest.mark.parametrize("bucket", ["b", "f"])
@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        ("Content-Length: 1000000", b"1" * 1000),
        ("Content-Length: 100000000", b""),
        ("Transfer-Encoding: chunked", b"5\r\n12345\r\n"),
    ],
)
def test_an_upload_that_stands_still_ends_and_stores_nothing(
    gateway: GatewayProcess, bucket: str, framing: str, sent: bytes
) -> None:
    answer = stalled_put(gateway, f"{bucket}/still", framing, sent)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request_stalled"
    provider = "mem" if bucket == "b" else "file"
    assert curl(gateway.url(f"{provider}://{bucket}", "still")).status == 404


def test_uploads_go_on_when_stalled_ones_held_all_the_memory(gateway: GatewayProcess, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"1" * MIB)
    with ThreadPoolExecutor(STALLED) as pool:
        held = [
            pool.submit(stalled_put, gateway, f"b/{number}", f"Content-Length: {7 * MIB}", b"1" * MIB)
            for number in range(STALLED)
        ]
        assert all(b" 408 " in future.result()[:20] or b" 503 " in future.result()[:20] for future in held)
    assert curl(gateway.url("mem://b", "good"), "-T", str(tmp_path / "body")).status == 200
    assert curl(gateway.url("mem://b", "good")).body == b"1" * MIB


@pytest.mark.parametrize("body", [b"", b"\x00", b"1" * (3 * MIB)])
def test_what_is_no_package_is_refused(gateway: GatewayProcess, tmp_path: Path, body: bytes) -> None:
    (tmp_path / "package").write_bytes(body)
    answer = curl(f"{gateway.endpoint}/v1/transforms", "--data-binary", f"@{tmp_path / 'package'}")
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "package_invalid")
