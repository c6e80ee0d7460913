"""The tar index against Python's own `tarfile`, and against archives made to mislead."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from contextlib import aclosing

import pytest
from cache_lab import MIB, lab_source, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from shardgate_gateway.cache import members as members_module
from shardgate_gateway.cache.layout import OpenFile
from shardgate_gateway.cache.members import (
    MAX_INDEX_BYTES,
    MAX_MEMBERS,
    Member,
    NoIndex,
    index_bytes,
    index_stream,
    memory_of,
    pack,
    unpack,
)
from shardgate_gateway.cache.reader import FileSpan, as_bytes
from shardgate_gateway.errors import BadRequest, LocalStorageError

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=300).filter(
    lambda name: name.strip("/") and not name.endswith("/")
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def archive(members, form=tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "somewhere/" * (len(name) % 20)
            info.mtime = 1.5 if form == tarfile.PAX_FORMAT else 1
            regular = kind in tarfile.REGULAR_TYPES
            info.size = len(data) if regular else 0
            try:
                tar.addfile(info, io.BytesIO(data) if regular else None)
            except ValueError:  # a name that ustar can't hold
                continue
    return out.getvalue()


def by_tarfile(data: bytes) -> tuple[Member, ...]:
    """What tarfile finds, also behind zero blocks."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", ignore_zeros=True) as tar:
        return tuple(Member(info.name, info.offset_data, info.size) for info in tar if info.isreg())


@given(st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=1500)), max_size=6), FORMATS)
def test_it_agrees_with_tarfile_on_every_archive_that_tarfile_writes(members, form):
    data = archive(members, form)
    found = index_bytes(data)
    expected = by_tarfile(data)
    assert [(m.offset, m.size) for m in found] == [(m.offset, m.size) for m in expected]
    assert [m.name.rstrip("/") for m in found] == [m.name for m in expected]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=600)), min_size=1, max_size=4),
    FORMATS,
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=3),
    st.booleans(),
)
def test_what_it_says_of_a_damaged_archive_tarfile_says_too(members, form, changes, mend):
    """It may give up where tarfile goes on, and never the other way round with other places."""
    data = bytearray(archive(members, form))
    for at, value in changes:
        data[at % len(data)] = value
        if mend:  # a hostile header has a good checksum
            start = at % len(data) // 512 * 512
            block = data[start : start + 512]
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    found = index_bytes(bytes(data))
    if isinstance(found, NoIndex):
        return
    if found:
        try:
            expected = by_tarfile(bytes(data))
        except (tarfile.TarError, ValueError, OverflowError):
            return  # tarfile can't even finish
        places = {(m.offset, m.size) for m in expected}
        assert {(m.offset, m.size) for m in found} <= places
    for member in found:
        assert 0 <= member.offset <= member.offset + member.size <= len(data)


@given(st.binary(max_size=2000))
def test_noise_is_no_tar_and_no_accident(data):
    index_bytes(data)


@given(st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=1500)), max_size=5), st.integers(1, 3000))
async def test_a_stream_gives_the_same_index_in_any_chunks(members, step):
    data = archive(members)

    async def chunks():
        for at in range(0, len(data), step):
            yield data[at : at + step]

    assert await index_stream(chunks(), len(data)) == index_bytes(data)


def header(name=b"a.jpg", size=b"00000000005\0", kind=b"0", magic=b"ustar\x0000", checksum=None) -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    return bytes(block)


END = bytes(1024)
BODY = b"hello".ljust(512, b"\0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a tar at all" * 100,
        header(checksum=b"000001\0 ") + BODY + END,
        header(size=b"-0000000005\0") + BODY + END,
        header(size=b"\xff" * 12) + BODY + END,  # base-256, negative
        header(size=b"\x80" + b"\xff" * 11) + BODY + END,  # base-256, enormous
        header(size=b"00000010000\0") + BODY + END,  # beyond the end
        header(size=b"00000000008\0") + BODY + END,  # 8 is no octal digit
        header(kind=b"x", size=b"77777777777\0") + BODY + END,  # a PAX record of 8 GiB
        header(kind=b"x") + b"99 path=b".ljust(512, b"\0") + header() + BODY + END,  # a record longer than the data
        header(kind=b"x", size=b"00000000013\0") + b"11 size=-1\n".ljust(512, b"\0") + header() + BODY + END,
        header(name=b"folder/", kind=b"\0") + BODY + END,
        header() + BODY + header(checksum=b"000001\0 ") + BODY + END,  # the second of two
    ],
)
def test_an_archive_that_cannot_be_trusted_has_no_index(data):
    assert isinstance(index_bytes(data), NoIndex)


def test_numbers_may_be_base_256_and_names_may_have_a_prefix():
    data = header(size=b"\x80" + bytes(10) + b"\x05") + BODY + END
    assert index_bytes(data) == (Member("a.jpg", 512, 5),)
    block = bytearray(header())
    block[345:349] = b"some"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert index_bytes(bytes(block) + BODY + END) == (Member("some/a.jpg", 512, 5),)


def test_an_archive_without_its_end_marker_is_still_one():
    assert index_bytes(header() + BODY) == (Member("a.jpg", 512, 5),)
    assert index_bytes(END) == ()


@given(st.lists(st.tuples(st.text(), st.integers(0, 1 << 60), st.integers(0, 1 << 60)), max_size=5))
def test_the_index_survives_the_disk(members):
    index = tuple(Member(*member) for member in members)
    assert unpack(pack(index)) == index
    assert unpack(pack(NoIndex("why not"))) == NoIndex("why not")
    assert isinstance(unpack(b""), NoIndex), "as older gateways wrote it"


SHARD = [
    (f"{n:06}.{ext}", tarfile.REGTYPE, noise(size, n)) for n in range(40) for ext, size in (("jpg", 60_000), ("cls", 1))
]


async def members_in(cache, source):
    reading = await cache.open_whole(source)
    try:
        return await cache.members_of(source, reading)
    finally:
        reading.aclose()


@pytest.mark.parametrize("capacity", [1 << 30, MIB])
@pytest.mark.parametrize("count", [1, len(SHARD)])
async def test_members_of_a_cached_or_streamed_object(new_cache, store, capacity, count):
    data = archive(SHARD[:count])
    store.write("a.tar", data)
    cache = await new_cache(capacity_bytes=capacity)
    for _ in range(2):
        assert await members_in(cache, lab_source(store, "a.tar")) == by_tarfile(data)
    again = await new_cache(capacity_bytes=capacity)
    assert await members_in(again, lab_source(store, "a.tar")) == by_tarfile(data)


async def test_a_file_that_became_shorter_is_not_read_as_a_shorter_body(cache, tmp_path):
    path = tmp_path / "body"
    path.write_bytes(bytes(MIB + 100))
    file = OpenFile.reading(str(path))

    async def parts():
        yield FileSpan(file.fd, 0, MIB + 200)

    async with aclosing(as_bytes(cache._node, parts())) as read:
        assert await anext(read) == bytes(MIB)
        with pytest.raises(LocalStorageError, match="100 of 200 bytes"):
            await anext(read)


async def test_something_else_has_no_members_and_says_so(cache, store):
    store.write("a.bin", noise(2 * MIB))
    with pytest.raises(BadRequest, match=r"a\.bin has no members to read: it is not an intact tar"):
        await members_in(cache, lab_source(store, "a.bin"))


SMALL_FILE = header() + BODY


def file_of(name: bytes, kind: bytes = b"0", link: bytes = b"") -> bytes:
    block = bytearray(header(name=name, kind=kind))
    block[157 : 157 + len(link)] = link
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(data: bytes, kind: bytes = b"x") -> bytes:
    return header(kind=kind, size=b"%011o\0" % len(data)) + data + bytes(-len(data) % 512)


def test_members_behind_the_zeros_of_a_joined_archive_are_not_lost():
    joined = SMALL_FILE + bytes(10240) + file_of(b"b.jpg") + BODY + END
    assert index_bytes(joined) == (Member("a.jpg", 512, 5), Member("b.jpg", 11776, 5))


@pytest.mark.parametrize("tail", [b"\n", b"garbage" * 200, b"\1" + bytes(1023)])
def test_garbage_behind_the_end_is_not_passed_over(tail):
    index = index_bytes(SMALL_FILE + END + tail)
    assert isinstance(index, NoIndex)
    assert "the archive ends at byte 1024, and what follows at byte 2048 is no tar" in index.reason


def test_a_hard_link_has_the_bytes_of_the_file_before_it():
    data = SMALL_FILE + file_of(b"b.jpg", b"1", b"a.jpg") + file_of(b"c.jpg", b"1", b"b.jpg") + END
    assert [(m.name, m.offset, m.size) for m in index_bytes(data)] == [(n, 512, 5) for n in ("a.jpg", "b.jpg", "c.jpg")]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"S", b"V"])
def test_what_has_no_bytes_of_its_own_does_not_hide_the_others(kind):
    size = b"00000000000\0"
    data = header(name=b"other", kind=kind, size=size) + SMALL_FILE + END
    assert index_bytes(data) == (Member("a.jpg", 1024, 5),)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_has_no_index_and_says_why(compress):
    for data in (compress(END), compress(SMALL_FILE + END + noise(5000))):
        index = index_bytes(data)
        assert isinstance(index, NoIndex)
        assert "compressed" in index.reason


def test_a_name_of_any_length_costs_no_memory():
    name = b"x" * 70_000
    long = pax(b"70012 path=" + name[:70_000] + b"\n")
    for archive in (long, header(kind=b"L", size=b"%011o\0" % 70_000) + name + bytes(-70_000 % 512)):
        index = index_bytes(archive + SMALL_FILE + END)
        assert isinstance(index, NoIndex)
        assert "has a name of 70000 bytes" in index.reason


def test_keywords_of_global_headers_cost_nothing_at_each_member():
    many = b"".join(b"%d k%06d=\n" % (len(b"12 k000000=\n"), n) for n in range(80_000))
    assert len(many) < 1 << 20
    reads = []
    data = pax(many, b"g") + file_of(b"a.jpg", b"5") * 5000
    assert members_module.index(lambda at, n: reads.append(n) or data[at : at + n], len(data)) == ()
    scanner = members_module._Builder(None).scanner
    scanner.feed(pax(many, b"g")[:512])
    scanner.feed(pax(many, b"g")[512:])
    assert not scanner._extended.is_of_member


@pytest.mark.parametrize("record", [b"12 path=a.b\n", b"10 size=4\n", b"22 GNU.sparse.major=1\n"])
def test_a_global_header_that_names_every_member_is_refused(record):
    assert isinstance(index_bytes(pax(record, b"g") + SMALL_FILE + END), NoIndex)


class Repeated:
    """An archive of one piece again and again, which is in no memory."""

    def __init__(self, piece: bytes, times: int) -> None:
        self.piece, self.size, self.read = piece, len(piece) * times, 0

    def __call__(self, offset: int, length: int) -> bytes:
        self.read += length
        at = offset % len(self.piece)
        return (self.piece + self.piece)[at : at + length] if length <= len(self.piece) else b""


@pytest.mark.parametrize(
    ("piece", "times"),
    [
        (header(size=b"00000000000\0"), MAX_MEMBERS + 1),
        (pax(b"4013 path=" + b"n" * 4002 + b"\n") + header(size=b"00000000000\0"), 5000),
        (pax(b"9 comm=x\n" * 100_000) + header(size=b"00000000000\0"), 100),
        (header(kind=b"5", size=b"00000000000\0"), 1 << 22),
        (bytes(512), 1 << 22),
    ],
    ids=["members", "long names", "extended headers", "folders", "zeros"],
)
def test_an_index_that_would_cost_too_much_is_given_up(piece, times):
    archive = Repeated(piece, times)
    index = members_module.index(archive, archive.size)
    assert isinstance(index, NoIndex)
    assert archive.read <= members_module.MAX_HEADER_BYTES + 512
    assert "more than" in index.reason or "too large" in index.reason


def test_the_largest_index_is_as_large_as_it_says():
    names = ["é" * 16 + f"{n:06}" for n in range(MAX_MEMBERS)]
    index = tuple(Member(name, 1 << 60, 1 << 60) for name in names)
    assert len(pack(index)) <= MAX_INDEX_BYTES
    assert memory_of(index) > sum(len(name) for name in names)


async def test_an_object_whose_index_is_void_is_served_as_ever_and_says_why(cache, store):
    store.write("a.tgz", gzip.compress(SMALL_FILE + END))
    with pytest.raises(BadRequest, match=r"it is compressed \(gzip\)"):
        await members_in(cache, lab_source(store, "a.tgz"))
