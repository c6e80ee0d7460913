"""Tars that were made to hurt, through the whole gateway. Case 29.

The raw bytes are the object's, always. A transform of such a shard gives whole samples or fails and names the shard;
neither the gateway nor a worker is lost for others.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib

import pytest
from readers import curl
from shards import shard, tar_of

from shardgate import WDTransform

GOOD = tar_of({"0.txt": b"good", "0.cls": b"1"})


def header(name: bytes = b"0.txt", size: bytes = b"00000000004\0", kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A ustar header with a right checksum, whatever is in its fields."""
    block = bytearray(512)
    block[0:100] = name.ljust(100, b"\0")
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[157:257] = link.ljust(100, b"\0")
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes) -> bytes:
    return header(b"pax", b"%011o\0" % len(records), b"x") + records.ljust(-(-len(records) // 512) * 512, b"\0")


def image_bomb() -> bytes:
    """A PNG that says it has 50000 x 50000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def links() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, target in [
            ("0.txt", tarfile.SYMTYPE, "/etc/passwd"),
            ("1.txt", tarfile.LNKTYPE, "../../etc/passwd"),
            ("../2.txt", tarfile.REGTYPE, ""),
            ("/etc/3.txt", tarfile.REGTYPE, ""),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return out.getvalue()


TARS = {
    "empty file": b"",
    "only zeros": bytes(10240),
    "no tar at all": b"this is a text, not a tar\n" * 100,
    "negative size": header(size=b"-0000000001\0") + bytes(1024),
    "negative base-256 size": header(size=b"\xff" * 12) + bytes(1024),
    "huge base-256 size": header(size=b"\x80" + b"\x7f" * 11) + bytes(1024),
    "size beyond the end": header(size=b"77777777777\0") + b"good" + bytes(508),
    "size that is no number": header(size=b"zzzzzzzzzzz\0") + bytes(1024),
    "bad checksum": GOOD[:148] + b"000000\0 " + GOOD[156:],
    "truncated in a header": GOOD[:700],
    "truncated in a body": shard(3)[:30_000],
    "truncated after a header": shard(3)[:21_504],
    "PAX length that lies": pax(b"99999999999 path=x\n") + GOOD,
    "PAX size that lies": pax(b"20 size=99999999999\n") + GOOD,
    "PAX bomb": pax(b"".join(b"%d comment=%s\n" % (1012, b"x" * 998) for _ in range(3000))) + GOOD,
    "PAX without end": b"".join(pax(b"12 path=x.y\n") for _ in range(2000)),
    "long name without end": header(b"././@LongLink", b"77777777777\0", b"L") + bytes(4096),
    "links": links(),
    "duplicate names": tar_of({"0.txt": b"one"})[:1024] + tar_of({"0.txt": b"two"}),
    "names without a stem": tar_of({".txt": b"a", "txt": b"b", "": b"c"}),
    "sparse": header(kind=b"S") + bytes(1024),
    "image bomb": tar_of({"0.png": image_bomb(), "0.cls": b"1"}),
    "cut image": tar_of({"0.png": image_bomb()[:40], "0.cls": b"1"}),
}


def as_is(sample):
    return sample


@pytest.fixture(scope="module")
def gateway(start_shared_gateway, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    for number, data in enumerate(TARS.values()):
        (folder / f"{number}.tar").write_bytes(data)
    (folder / "good.tar").write_bytes(GOOD)
    return start_shared_gateway({"file://b": folder}, settings={"etl.memory_bytes": 1 << 30})


@pytest.fixture(scope="module")
def etl(gateway):
    return WDTransform(gateway.client, as_is, "as-is", "pil", on_error="fail", sample_timeout=20)


@pytest.mark.parametrize("number", range(len(TARS)), ids=TARS)
def test_a_hostile_tar_is_served_as_it_is_and_hurts_nobody_when_transformed(gateway, etl, number):
    name, data = f"{number}.tar", list(TARS.values())[number]
    raw = curl(gateway.url("file://b", name))
    assert (raw.exit, raw.status, raw.body) == (0, 200, data)
    result = curl(gateway.url("file://b", name, transform_id=etl.uuid))
    if (result.exit, result.status) == (0, 200):
        with tarfile.open(fileobj=io.BytesIO(result.body)) as tar:
            members = tar.getmembers()
        assert all(member.isfile() for member in members), "a result has no links"
    elif result.status >= 400:
        problem = json.loads(result.body)
        assert name in problem["message"]
        assert problem["code"] in {"transform_failed", "sample_failed", "input_invalid"}
    good = curl(gateway.url("file://b", "good.tar", transform_id=etl.uuid))
    assert (good.exit, good.status) == (0, 200)


@pytest.mark.parametrize("member", ["0.txt", "../2.txt", "/etc/3.txt", "/etc/passwd", "1.txt", "", "\x00"])
def test_a_member_of_a_hostile_tar_is_a_regular_file_of_it_or_nothing(gateway, member):
    number = list(TARS).index("links")
    answer = curl(gateway.client.object_url("file://b", f"{number}.tar", archpath=member))
    assert answer.status in {200, 400, 404}
    assert b"root:" not in answer.body


@pytest.mark.parametrize("cut", ["truncated in a header", "truncated in a body", "truncated after a header"])
def test_a_truncated_shard_never_gives_a_result_that_looks_whole(gateway, etl, cut):
    """The object itself is short, so reading it raw is right; transforming it must say that it has no end."""
    number = list(TARS).index(cut)
    answer = curl(gateway.url("file://b", f"{number}.tar", transform_id=etl.uuid))
    assert answer.exit != 0 or answer.status >= 400
