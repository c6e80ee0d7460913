"""The tar index against Python's own `tarfile`, and against archives made to mislead."""

from __future__ import annotations

import io
import tarfile

import pytest
from cache_lab import MIB, lab_source, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from shardgate_gateway.cache.members import Member, index_bytes, index_stream, pack, unpack
from shardgate_gateway.errors import BadRequest

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
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
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
    if found:
        try:
            expected = by_tarfile(bytes(data))
        except (tarfile.TarError, ValueError, OverflowError):
            return  # tarfile can't even finish
        places = {(m.offset, m.size) for m in expected}
        assert {(m.offset, m.size) for m in found} <= places
    for member in found or ():
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
        header(kind=b"S") + BODY + END,  # sparse
        header(kind=b"x", size=b"77777777777\0") + BODY + END,  # a PAX record of 8 GiB
        header(kind=b"x") + b"99 path=b".ljust(512, b"\0") + header() + BODY + END,  # a record longer than the data
        header(kind=b"x", size=b"00000000013\0") + b"11 size=-1\n".ljust(512, b"\0") + header() + BODY + END,
        header(name=b"folder/", kind=b"\0") + BODY + END,
        header() + BODY + header(checksum=b"000001\0 ") + BODY + END,  # the second of two
    ],
)
def test_an_archive_that_cannot_be_trusted_has_no_index(data):
    assert index_bytes(data) is None


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
    assert unpack(pack(None)) is None


SHARD = [
    (f"{n:06}.{ext}", tarfile.REGTYPE, noise(size, n)) for n in range(40) for ext, size in (("jpg", 60_000), ("cls", 1))
]


@pytest.mark.parametrize("capacity", [1 << 30, MIB])
@pytest.mark.parametrize("count", [1, len(SHARD)])
async def test_members_of_a_cached_or_streamed_object(new_cache, store, capacity, count):
    data = archive(SHARD[:count])
    store.write("a.tar", data)
    cache = await new_cache(capacity_bytes=capacity)
    for _ in range(2):
        assert await cache.members(lab_source(store, "a.tar")) == by_tarfile(data)
    again = await new_cache(capacity_bytes=capacity)
    assert await again.members(lab_source(store, "a.tar")) == by_tarfile(data)


async def test_something_else_has_no_members_and_says_so(cache, store):
    store.write("a.bin", noise(2 * MIB))
    with pytest.raises(BadRequest, match=r"a\.bin is not an intact tar"):
        await cache.members(lab_source(store, "a.bin"))
