"""A cache disk that lies, shrinks and fills up, and a process that runs out of descriptors. Cases 21 to 24."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from gateway_process import eventually
from readers import Reader, curl
from shards import random_bytes, shard

from shardgate import WDTransform

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1_500_000


def entries(gateway) -> list[Path]:
    return [path for path in (gateway.cache / "entries").rglob("*") if path.is_file()]


def flip(path: Path, offset: int) -> None:
    """Change one bit as a failing disk would: nothing else about the file changes."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("verify", ["always", "first"])
def test_a_flipped_bit_anywhere_in_the_cache_never_reaches_a_reader(start_gateway, origin, key, verify):
    """With `verify=first`, a process that has checked a block trusts it; so the process is a new one each time."""
    dice = random.Random(22)
    data = random_bytes(SIZE)
    origin.put(key, data)
    settings = {"cache.verify": verify, "cache.memory_object_bytes": 0, "cache.scrub_bytes_per_second": 0}
    gateway = start_gateway({"http://b": origin.url}, settings=settings)
    url = gateway.url("http://b", key)
    assert curl(url).body == data
    rounds = 40 if verify == "always" else 3
    for _ in range(rounds):
        (entry,) = eventually(lambda: curl(url).body == data and entries(gateway), what="the entry")
        flip(entry, dice.randrange(entry.stat().st_size))
        if verify == "first":
            gateway.stop()
            gateway.start()
        part = dice.randrange(SIZE)
        for option, expected in ((("-r", f"{part}-"), data[part:]), ((), data)):
            answer = curl(url, *option)
            assert answer.exit == 0
            assert answer.body == expected
    assert len(origin.gets(key)) > rounds // 2, "damaged entries were fetched again"


def test_a_damaged_entry_whose_version_is_gone_breaks_its_reader_off_and_gives_the_next_the_new_one(
    start_gateway, origin, key
):
    old, new = random_bytes(12_000_000, 1), random_bytes(12_000_000, 2)
    origin.put(key, old, etag="old")
    settings = {"cache.verify": "always", "cache.memory_object_bytes": 0}
    gateway = start_gateway({"http://b": {"where": origin.url, "freshness": "immutable"}}, settings=settings)
    url = gateway.url("http://b", key)
    assert curl(url).body == old
    origin.put(key, new, etag="new")
    (entry,) = eventually(lambda: entries(gateway), what="the entry")
    flip(entry, 11_000_000)
    answer = curl(url)
    assert answer.exit != 0 or answer.status >= 400
    assert old.startswith(answer.body)
    assert curl(url).body == new


def test_what_strangers_leave_in_the_cache_folder_is_never_served(start_gateway, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    gateway = start_gateway({"http://b": origin.url})
    url = gateway.url("http://b", key)
    assert curl(url).body == data
    (entry,) = eventually(lambda: entries(gateway), what="the entry")
    whole = entry.read_bytes()
    for damaged in (b"", whole[:4096], whole[:-1], random_bytes(len(whole), 9)):
        gateway.stop()
        entry.parent.mkdir(exist_ok=True)
        entry.write_bytes(damaged)
        gateway.start()
        answer = curl(url)
        assert (answer.exit, answer.body) == (0, data)
        eventually(lambda: entries(gateway), what="a new entry")


def test_entries_evicted_under_slow_readers_stay_whole_for_them(start_gateway, folder):
    """The cache holds three of the twelve objects that are read at once, each faster or slower."""
    names = [f"{index}.bin" for index in range(12)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(random_bytes(SIZE, index))
    capacity = 3 * SIZE + 100_000
    gateway = start_gateway({"file://b": folder}, workers=2, settings={"cache.capacity_bytes": capacity})
    for _ in range(3):
        readers = [(name, Reader(gateway.url("file://b", name))) for name in names * 2]
        for name, reader in readers:
            assert reader.finish().whole
            assert reader.body == (folder / name).read_bytes()
    eventually(lambda: bytes_on_disk(gateway) <= capacity, what="a cache within its capacity")


def bytes_on_disk(gateway) -> int:
    return sum(
        path.stat().st_size
        for path in gateway.cache.rglob("*")
        if path.is_file() and path.name not in {"space", "asked"}
    )


def test_an_object_that_is_larger_than_the_cache_is_served_all_the_same(start_gateway, folder):
    data = random_bytes(4 * SIZE)
    (folder / "large.bin").write_bytes(data)
    gateway = start_gateway({"file://b": folder}, settings={"cache.capacity_bytes": 2 * SIZE})
    for _ in range(2):
        answer = curl(gateway.url("file://b", "large.bin"))
        assert (answer.exit, answer.body) == (0, data)
    part = curl(gateway.url("file://b", "large.bin"), "-r", "100-199")
    assert part.body == data[100:200]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 6 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a file system needs privileges: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def first_half(sample):
    sample["bin"] = sample["bin"][: len(sample["bin"]) // 2]
    return sample


def test_a_full_disk_costs_the_cache_not_the_reader(start_gateway, folder, tiny_disk):
    """The cache was told that it may use far more than there is; raw objects and kept results run into the end."""
    for index in range(5):
        (folder / f"{index}.tar").write_bytes(shard(100, seed=index))
    (folder / "large.tar").write_bytes(shard(500, seed=9))
    settings = {"cache.dir": str(tiny_disk / "cache"), "cache.capacity_bytes": 1 << 30}
    gateway = start_gateway({"file://b": folder}, workers=2, settings=settings)
    etl = WDTransform(gateway.client, first_half, "half", "", cache="always")
    for _ in range(2):
        for path in sorted(folder.iterdir()):
            answer = curl(gateway.url("file://b", path.name))
            assert (answer.exit, answer.status) == (0, 200)
            assert answer.body == path.read_bytes()
        result = curl(gateway.url("file://b", "large.tar", transform_id=etl.uuid))
        assert (result.exit, result.status) == (0, 200)
    assert curl(gateway.url("file://b", "large.tar", transform_id=etl.uuid)).body == result.body


def test_a_disk_without_a_free_block_ends_no_process(start_gateway, folder, tiny_disk, monkeypatch):
    """Neither that of the cache, nor that of temporary files, where metrics are counted: memory maps of files without
    blocks would be SIGBUS."""
    (folder / "a.tar").write_bytes(shard(20))
    monkeypatch.setenv("TMPDIR", str(tiny_disk))
    settings = {"cache.dir": str(tiny_disk / "cache"), "cache.capacity_bytes": 1 << 30}
    gateway = start_gateway({"file://b": folder}, workers=2, settings=settings)
    etl = WDTransform(gateway.client, first_half, "half", "", cache="auto")
    with (tiny_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    workers = gateway.workers()
    for seed in range(12):
        url = gateway.url("file://b", "a.tar", transform_id=etl.uuid, seed=seed)
        assert [curl(url).status for _ in range(2)] == [200, 200]
    for path in ("/v1/buckets", "/v1/cache", "/metrics", "/readyz", "/v1/objects/b/nothing", "/v1/transforms"):
        assert curl(gateway.endpoint + path).status in {200, 404}
    assert gateway.workers() == workers


def test_running_out_of_descriptors_refuses_some_and_harms_none(start_gateway, folder):
    data = random_bytes(SIZE)
    (folder / "a.bin").write_bytes(data)
    gateway = start_gateway({"file://b": folder}, limits={"nofile": 100})
    url = gateway.url("file://b", "a.bin")
    assert curl(url).body == data
    idle = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(150)]
    answers = [curl(url, "--max-time", "2") for _ in range(3)]
    for answer in answers:
        assert answer.exit != 0 or answer.status == 503 or answer.body == data
    for connection in idle:
        connection.close()
    eventually(lambda: curl(url, "--max-time", "5").body == data, what="service after the flood")
