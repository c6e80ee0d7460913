"""What dead processes leave in the folder of fills."""

from __future__ import annotations

import os
import time

import msgpack
import pytest
import xxhash
from cache_lab import MIB, get, lab_source, noise

from shardgate_gateway.cache.control import FORMAT, MAX_RECORD, Control, Record, State
from shardgate_gateway.cache.layout import BODY_OFFSET
from shardgate_gateway.cache.sweep import KEEP_SECONDS
from shardgate_gateway.error_record import error_of, failure_of
from shardgate_gateway.errors import UpstreamUnavailable
from shardgate_gateway.stores.base import ObjectMeta

NAME = "ab" * 32


META = ObjectMeta("k", 1000, "e")


def leave_fill(folder, *, state=State.FILLING, name=NAME, meta=META, **changes) -> None:
    (folder / "fills").mkdir(parents=True, exist_ok=True)
    control = Control.attach(str(folder / "fills" / name))
    control.write(Record(f"{name}.1234", 0.0, state, 100, 5000, meta, **changes))
    control.close()
    (folder / "fills" / f"{name}.1234").write_bytes(bytes(5096))


async def test_a_fill_that_can_be_resumed_is_kept_for_a_while(tmp_path, new_cache, fill_files):
    leave_fill(tmp_path / "cache")
    cache = await new_cache()
    assert len(fill_files()) == 2
    assert (await cache.stat()).used_bytes == 5000, "and its space stays reserved"
    old = time.time() - KEEP_SECONDS - 1
    os.utime(tmp_path / "cache" / "fills" / NAME, (old, old))
    assert (await (await new_cache()).stat()).used_bytes == 0
    assert not fill_files()


async def test_a_fill_that_cannot_be_resumed_is_removed(tmp_path, new_cache, fill_files):
    folder = tmp_path / "cache"
    leave_fill(folder, name="01" * 32, boot="an earlier one")
    leave_fill(folder, name="02" * 32, meta=None)
    leave_fill(folder, name="03" * 32, state=State.FAILED)
    (folder / "fills" / ("04" * 32)).write_bytes(b"")
    (folder / "fills" / ("05" * 32)).write_bytes(b"no record at all")
    (folder / "fills" / (("06" * 32) + ".abcd")).write_bytes(b"a body without control")
    await new_cache()
    assert not fill_files()


async def test_a_fill_whose_filler_lives_is_not_touched(tmp_path, new_cache, fill_files):
    leave_fill(tmp_path / "cache", boot="an earlier one")
    living = Control.attach(str(tmp_path / "cache" / "fills" / NAME))
    await new_cache()
    assert len(fill_files()) == 2
    living.close()
    await new_cache()
    assert not fill_files()


async def test_a_filler_that_died_before_it_knew_anything_is_no_obstacle(tmp_path, new_cache, store):
    cache = await new_cache()
    source = lab_source(store, "a")
    store.write("a", noise(MIB))
    leave_fill(tmp_path / "cache", name=source.entry_name, meta=None)
    assert await get(cache, source) == noise(MIB)
    (tmp_path / "cache" / "fills" / source.entry_name).write_bytes(b"garbage")
    await cache.invalidate(source)
    assert await get(cache, source) == noise(MIB)


async def test_a_filler_that_died_between_its_last_byte_and_publishing_left_work_for_its_heir(
    tmp_path, new_cache, store, entry_files
):
    store.write("a", noise(2 * MIB))
    source = lab_source(store, "a")
    leave_fill(tmp_path / "cache", name=source.entry_name)
    control = Control.attach(str(tmp_path / "cache" / "fills" / source.entry_name))
    body = f"{source.entry_name}.1234"
    meta = await store.head("a")
    control.write(Record(body, time.monotonic(), State.FILLING, 2 * MIB, 0, meta))
    control.close()
    (tmp_path / "cache" / "fills" / body).write_bytes(bytes(BODY_OFFSET) + noise(2 * MIB) + b"half a footer")
    cache = await new_cache()
    await cache.prefetch(source)
    assert len(entry_files()) == 1
    assert await get(await new_cache(), source) == noise(2 * MIB)
    assert store.fetched == 0


def raw_record(fields: object) -> bytes:
    """What another version of the gateway may have written: whole, by its checksum, and of any content."""
    data = msgpack.packb(fields)
    return xxhash.xxh3_64_digest(data) + len(data).to_bytes(4, "little") + data


KNOWN = ["body.1", 0.0, 1, 0, 0, None, None, "boot"]
FOREIGN = {
    "of the first version": raw_record(KNOWN),
    "longer": raw_record([FORMAT, *KNOWN, "more"]),
    "shorter": raw_record([FORMAT, *KNOWN[:-1]]),
    "of a later version": raw_record([FORMAT + 1, *KNOWN]),
    "a map": raw_record({"version": 9, "body": "body.1"}),
    "a number": raw_record(7),
    "nothing": raw_record(None),
    "an unknown state": raw_record([FORMAT, "body.1", 0.0, 99, 0, 0, None, None, "boot"]),
    "another meta": raw_record([FORMAT, "body.1", 0.0, 1, 0, 0, ["key", 1], None, "boot"]),
    "a date out of range": raw_record([FORMAT, "body.1", 0.0, 1, 0, 0, ["k", 1, "e", False, 1e30, None], None, "boot"]),
    "another failure": raw_record([FORMAT, "body.1", 0.0, 4, 0, 0, None, ["code"], "boot"]),
    "texts for numbers": raw_record([FORMAT, "body.1", "0", 1, "0", "0", None, None, "boot"]),
    "a body elsewhere": raw_record([FORMAT, "../space", 0.0, 1, 0, 0, None, None, "boot"]),
    "a type of its own": raw_record([FORMAT, msgpack.ExtType(5, b"x"), 0.0, 1, 0, 0, None, None, "boot"]),
    "no msgpack": xxhash.xxh3_64_digest(b"\xc1") + (1).to_bytes(4, "little") + b"\xc1",
    "a length beyond its end": raw_record(KNOWN)[:8] + b"\xff\xff\xff\xff" + b"x",
}


@pytest.mark.parametrize("raw", FOREIGN.values(), ids=FOREIGN)
async def test_a_record_of_another_version_keeps_no_gateway_from_starting_and_no_object_from_being_read(
    tmp_path, new_cache, store, raw, fill_files
):
    assert Record.unpack(raw) is None
    source = lab_source(store, "a")
    store.write("a", noise(MIB))
    folder = tmp_path / "cache" / "fills"
    folder.mkdir(parents=True)
    (folder / source.entry_name).write_bytes(raw)
    (folder / f"{source.entry_name}.1234").write_bytes(b"its body")
    cache = await new_cache()
    assert not fill_files()
    (folder / source.entry_name).write_bytes(raw)
    assert await get(cache, source) == noise(MIB)


async def test_a_living_filler_of_another_version_keeps_its_body(tmp_path, new_cache, fill_files):
    leave_fill(tmp_path / "cache")
    living = Control.attach(str(tmp_path / "cache" / "fills" / NAME))
    os.pwrite(living.fd, FOREIGN["of a later version"], 0)
    await new_cache()
    assert len(fill_files()) == 2
    living.close()


async def test_what_cannot_be_removed_keeps_no_gateway_from_starting(tmp_path, new_cache, store):
    folder = tmp_path / "cache" / "fills"
    for name in ("lost+found", "a.folder", "ab" * 32, f"{'cd' * 32}.1234"):
        (folder / name / "with something in it").mkdir(parents=True)
    (tmp_path / "cache" / "entries").mkdir()
    (tmp_path / "cache" / "entries" / "a file").write_bytes(b"")
    store.write("a", noise(MIB))
    assert await get(await new_cache(), lab_source(store, "a")) == noise(MIB)


@pytest.mark.parametrize(
    "text",
    ["x" * 200_000, "\N{PILE OF POO}" * 100_000, "\udce9 is no text", "\ud800", "a\x1b[31m", ""],
    ids=["long", "wide", "undecodable", "half a pair", "terminal", "empty"],
)
def test_a_failure_of_any_text_is_a_record_that_everybody_can_read(text):
    for error in (UpstreamUnavailable(text, hint=text), ValueError(text)):
        record = Record("b.1", 0.0, State.FAILED, meta=META, failure=failure_of(error))
        raw = record.pack()
        assert len(raw) <= MAX_RECORD
        read = Record.unpack(raw)
        assert read == record
        error_of(read.failure).message.encode()


def test_a_description_of_any_text_is_a_record_that_everybody_can_read():
    record = Record("b.1", 0.0, meta=ObjectMeta("k\udce9y", 1, '"\udcff\ud800"', content_type="text/\udcff"))
    assert Record.unpack(record.pack()) == record
