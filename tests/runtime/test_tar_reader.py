from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
from contextlib import suppress

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_process import tar_of

from shardgate_runtime.failures import JobFailed
from shardgate_runtime.inputs import FileInput
from shardgate_runtime.tar_reader import MAX_EXTENSION, read_members, read_samples

BLOCK = 512


def file_input(data: bytes, start: int = 0) -> FileInput:
    fd = os.memfd_create("shard")
    os.write(fd, data)
    return FileInput(fd, 0, len(data), start)


def our_members(data: bytes) -> list[tuple[str, bytes]]:
    source = file_input(data)
    try:
        return [(member.name, source.read(member.size)) for member in read_members(source) if member.regular]
    finally:
        source.close()


def our_samples(data: bytes, start: int = 0, index: int = 0) -> list:
    source = file_input(data, start)
    try:
        return list(read_samples(source, "mem://b/shard.tar", index))
    finally:
        source.close()


def problem_of(data: bytes) -> str:
    with pytest.raises(JobFailed) as caught:
        our_samples(data)
    assert caught.value.failure.code == "input_invalid"
    return caught.value.failure.message


def header(name: str = "a.txt", size: int | str = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """One header block, with any field as raw bytes, and a right checksum."""
    block = bytearray(BLOCK)
    values = {
        "name": (0, name.encode()),
        "size": (124, size.encode() if isinstance(size, str) else b"%011o" % size),
        "kind": (156, kind),
        "magic": (257, b"ustar\x0000"),
    } | {"prefix": (345, fields.get("prefix", b""))}
    for at, value in values.values():
        block[at : at + len(value)] = value
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def pax(*records: tuple[str, str], kind: bytes = b"x") -> bytes:
    data = b""
    for keyword, value in records:
        body = f" {keyword}={value}\n".encode()
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        data += str(length).encode() + body
    return header("pax", len(data), kind) + padded(data)


names = st.text(st.sampled_from("abAB01._-/ äß😀"), min_size=1, max_size=130).filter(
    lambda name: name.strip("/") == name and "//" not in name
)
member_lists = st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=8)


@given(member_lists, st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_reads_what_tarfile_writes_in_every_format(members: list[tuple[str, bytes]], tar_format: int) -> None:
    if tar_format == tarfile.USTAR_FORMAT:
        members = [(name, data) for name, data in members if len(name.encode()) <= 100]
    assert our_members(tar_of(members, tar_format)) == members


@given(
    member_lists,
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=12)), max_size=3),
    st.integers(0, 2000),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_damaged_tar_is_refused_or_read_as_tarfile_reads_it(members, tar_format, damage, cut, mend) -> None:
    data = bytearray(tar_of(members, tar_format))
    for where, new in damage:
        at = where % len(data)
        data[at : at + len(new)] = new
        if mend:  # a hostile writer gets the checksum right
            start = at // BLOCK * BLOCK
            block = data[start : start + BLOCK]
            if len(block) == BLOCK and any(block):
                block[148:156] = b"        "
                data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    damaged = bytes(data[: len(data) - cut])
    with suppress(JobFailed):
        ours = our_members(damaged)
        theirs = tarfile_members(damaged)
        assert ours[: len(theirs)] == theirs


def tarfile_members(data: bytes) -> list[tuple[str, bytes]]:
    """What tarfile reads until it gives up, which it also does, often silently, at fields that do not matter to us."""
    members = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members.extend((member.name, archive.extractfile(member).read()) for member in archive if member.isreg())
    except tarfile.ReadError:
        pass
    return members


NAMES = """
    a.jpg a.cls a.JPG b.jpg b.seg.png b.cls d/a.jpg d/a.cls README x.y/file .hidden.jpg
    __meta__ __info__/a.jpg __a.jpg a.__bad__ c.txt c.
"""
group_names = st.sampled_from(NAMES.split())


@given(st.lists(st.tuples(group_names, st.binary(min_size=1, max_size=20)), max_size=12))
@settings(deadline=None)
def test_groups_members_exactly_as_webdataset_does(members: list[tuple[str, bytes]]) -> None:
    data = tar_of(members)
    samples = our_samples(data)
    if any(sample.problem for sample in samples):
        with pytest.raises(ValueError, match="duplicate file name"):
            webdataset_samples(data)
    else:
        assert [sample.fields for sample in samples] == webdataset_samples(data)
    assert [sample.index for sample in samples] == list(range(len(samples)))


def webdataset_samples(data: bytes) -> list[dict]:
    source = [{"url": "mem://b/shard.tar", "stream": io.BytesIO(data)}]
    return list(wds.tariterators.group_by_keys(wds.tariterators.tar_file_expander(source)))


@given(member_lists)
def test_reading_can_start_anew_behind_every_sample(members: list[tuple[str, bytes]]) -> None:
    data = tar_of(members)
    samples = our_samples(data)
    for number, sample in enumerate(samples):
        rest = our_samples(data, sample.end, sample.index + 1)
        assert [(s.index, s.fields, s.offset) for s in rest] == [
            (s.index, s.fields, s.offset) for s in samples[number + 1 :]
        ]


def test_an_archive_without_members_has_no_samples() -> None:
    assert our_samples(tar_of([])) == []


def test_an_empty_object_is_not_a_tar() -> None:
    assert "empty" in problem_of(b"")


def test_an_archive_may_end_without_zero_blocks_behind_a_whole_member() -> None:
    data = header("a.txt", 3) + padded(b"abc")
    assert our_members(data) == [("a.txt", b"abc")]


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 900, 1023])
def test_a_tar_that_ends_inside_a_member_is_truncated(cut: int) -> None:
    data = header("a.txt", 600) + padded(b"x" * 600)
    assert "ends inside" in problem_of(header("0.txt", 1) + padded(b"1") + data[: len(data) - cut])


def test_a_damaged_header_in_the_middle_is_an_error_and_not_the_end() -> None:
    data = bytearray(tar_of([("a.txt", b"a"), ("b.txt", b"b")]))
    data[1024 + 3] ^= 1
    assert "byte 1024 has a wrong checksum" in problem_of(bytes(data))


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("impossible size", header(size="-0000000005")),
        ("impossible size", header(size="99999999999")),
        ("impossible size", header(size="\x7f\x7f")),
        ("ends inside member", header(size=8**11 - 1)),
        ("malformed", pax(("path", "x")).replace(b"path=", b"path ") + header()),
        ("malformed", header("pax", 9, b"x") + padded(b"999 a=b\n ") + header()),
        ("malformed", header("pax", 9, b"x") + padded(b"-1 a=bcd\n") + header()),
        ("impossible size", pax(("size", "-1")) + header()),
        ("impossible size", pax(("size", "1" * 30)) + header()),
        ("ends inside member", pax(("size", "1" * 12)) + header()),
        ("announces", header("pax", MAX_EXTENSION + 1, b"x") + bytes(MAX_EXTENSION + 1024)),
        ("ends inside the extended header", header("pax", 4000, b"x")),
        ("has no member", pax(("path", "x")) + bytes(1024)),
        ("has no member", header("long", 5, b"L") + padded(b"name\0")),
        ("more than 16 extended headers", pax(("path", "x")) * 17 + header()),
        ("every member", pax(("path", "x"), kind=b"g") + header()),
        ("sparse", pax(("GNU.sparse.major", "1")) + header()),
        ("sparse", header(kind=b"S")),
        ("impossible checksum", bytes(range(1, 255)) * 5),
        ("compressed", gzip.compress(bytes(10000), 0)),
    ],
)
def test_hostile_headers_are_refused_with_the_reason(what: str, data: bytes) -> None:
    assert what in problem_of(data)


def test_a_negative_base_256_size_is_refused() -> None:
    block = bytearray(header())
    block[124:136] = b"\xff" * 12
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    assert "impossible size" in problem_of(bytes(block))


def test_a_base_256_size_is_read() -> None:
    block = bytearray(header())
    block[124:136] = b"\x80" + struct.pack(">11s", (3).to_bytes(11, "big"))
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    assert our_members(bytes(block) + padded(b"abc")) == [("a.txt", b"abc")]


def test_checksums_of_signed_bytes_are_accepted() -> None:
    block = bytearray(header("\xe4.txt"))
    block[148:156] = b"        "
    total = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    assert our_members(bytes(block)) == [("ä.txt", b"")]


def test_links_folders_and_devices_are_passed_over() -> None:
    others = b"".join(header(f"{kind}.txt", 5, str(kind).encode()) for kind in range(1, 7))
    assert our_members(others + header("folder/", 0, b"\0") + header("a.txt", 1) + padded(b"a")) == [("a.txt", b"a")]


def test_a_global_comment_is_fine() -> None:
    assert our_members(pax(("comment", "from git"), kind=b"g") + header("a.txt", 1) + padded(b"a")) == [("a.txt", b"a")]


def test_a_member_twice_in_one_sample_is_a_problem_of_that_sample_alone() -> None:
    samples = our_samples(tar_of([("a.txt", b"1"), ("a.txt", b"2"), ("b.txt", b"3")]))
    assert [bool(sample.problem) for sample in samples] == [True, False]


def test_a_sample_that_would_not_fit_memory_is_refused_before_it_is_read(tmp_path) -> None:
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        file.write(header("a.bin", 3 << 30))
        file.truncate((3 << 30) + 2048)
    source = FileInput(os.open(path, os.O_RDONLY), 0, path.stat().st_size, 0)
    with pytest.raises(JobFailed, match="may have"):
        next(read_samples(source, "", 0))
    source.close()
