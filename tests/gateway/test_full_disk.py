"""A cache that can't write costs no reader anything, and its operator sees it, and when it can again."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from gateway_process import eventually, running_gateway
from readers import curl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK_BYTES = 12 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a few MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", path]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_cache_that_can_not_write_is_told_until_it_can_again(tmp_path: Path, disk: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    body = os.urandom(6 << 20)
    (data / "first").write_bytes(body)
    (data / "second").write_bytes(body[::-1])
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES - (2 << 20)))
    settings = {"cache.dir": str(disk / "cache"), "cache.capacity_bytes": "100MB"}
    with running_gateway(tmp_path / "g", {"gcp://data": data}, settings=settings) as gateway:

        def ready() -> dict[str, str]:
            answer = curl(f"{gateway.endpoint}/readyz")
            assert answer.status == 200, "it still answers, from the stores"
            found: dict[str, str] = json.loads(answer.body)
            return found

        def scraped() -> list[str]:
            return curl(f"{gateway.endpoint}/metrics").body.decode().splitlines()

        assert ready()["status"] == "ready"
        assert curl(gateway.url("gcp://data", "first")).body == body
        eventually(lambda: ready()["status"] == "degraded")
        assert "No space left on device" in ready()["cache"]
        assert "shardgate_cache_writable 0.0" in scraped()
        assert 'shardgate_cache_disk_errors_total{error="ENOSPC"} 1.0' in scraped()
        assert "ERROR shardgate_gateway.cache.disk_health" in gateway.said
        assert curl(gateway.url("gcp://data", "second")).body == body[::-1]
        ballast.unlink()
        eventually(lambda: ready()["status"] == "ready")
        assert "shardgate_cache_writable 1.0" in scraped()
        assert "the cache can write to its disk again" in gateway.said
        assert curl(gateway.url("gcp://data", "second")).body == body[::-1]
        eventually(lambda: curl(gateway.url("gcp://data", "second")).headers["x-shardgate-cache"] == "hit")
