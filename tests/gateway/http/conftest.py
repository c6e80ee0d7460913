"""A gateway for the tests of this folder, with two buckets of one name and a few objects."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from gateway_process import GatewayProcess, running_gateway
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

BIG = os.urandom(5_000_000)
SMALL = os.urandom(4096)


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


@pytest.fixture(scope="session")
def objects() -> dict[str, bytes]:
    return {
        "big": BIG,
        "small": SMALL,
        "empty": b"",
        "a.tar": tar_of({"x.cls": b"7", "d/y z.bin": BIG[:100_000], "empty": b""}),
        "a.tar.gz": b"not the tar",
        "folder/a b%2F#?.bin": b"odd",
        "folder/\u20ac": b"unicode",
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, objects: dict[str, bytes]) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    data = folder / "data"
    for key, body in objects.items():
        path = data / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    twin = folder / "twin"
    twin.mkdir()
    buckets: dict[str, str | Path | dict[str, object]] = {
        "gcp://data": {"where": str(data), "freshness": "always"},
        "gcp://twin": twin,
        "aws://twin": twin,
        "gcp://fixed": {"where": str(data), "read_only": True, "freshness": "immutable"},
    }
    with running_gateway(folder / "gateway", buckets) as running:
        yield running
