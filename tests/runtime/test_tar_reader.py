from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
from contextlib import suppress

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_process import tar_of

from shardgate.tar.scanner import MAX_EXTENSION
from shardgate_runtime.failures import JobFailed
from shardgate_runtime.inputs import FileInput
from shardgate_runtime.tar_reader import read_members, read_samples

BLOCK = 512


def file_input(data: bytes, start: int = 0) -> FileInput:
    fd = os.memfd_create("shard")
    os.write(fd, data)
    return FileInput(fd, 0, len(data), start)


def our_members(data: bytes) -> list[tuple[str, bytes]]:
    source = file_input(data)
    try:
        return [(member.name, source.read(member.size)) for member in read_members(source) if member.kind == "file"]
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
    } | {"prefix": (345, fields.get("prefix", b"")), "link": (157, fields.get("link", b""))}
    values["mode"] = (100, fields.get("mode", b""))
    values["magic"] = (257, fields.get("magic", b"ustar\x0000"))
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
        assert ours == theirs


def tarfile_members(data: bytes) -> list[tuple[str, bytes]]:
    """What tarfile reads until it gives up, which it also does, often silently, at fields that do not matter to us."""
    members = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", ignore_zeros=True) as archive:
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
def test_groups_members_exactly_as_webdataset_does_or_refuses_the_shard(members: list[tuple[str, bytes]]) -> None:
    data = tar_of(members)
    try:
        samples = our_samples(data)
    except JobFailed:
        keys = [sample["__key__"] for sample in webdataset_samples(data, bad=True)]
        assert "in between" in problem_of(data) if len(set(keys)) < len(keys) else not keys
        return
    if any(sample.problem for sample in samples):
        if not any(name.endswith(".__bad__") for name, _ in members):
            with pytest.raises(ValueError, match="duplicate file name"):
                webdataset_samples(data)
    else:
        assert [sample.fields for sample in samples] == webdataset_samples(data)
    assert [sample.index for sample in samples] == list(range(len(samples)))


def webdataset_samples(data: bytes, *, bad: bool = False) -> list[dict]:
    source = [{"url": "mem://b/shard.tar", "stream": io.BytesIO(data)}]
    files = wds.tariterators.tar_file_expander(source)
    if not bad:
        return list(wds.tariterators.group_by_keys(files))
    names = [wds.tariterators.base_plus_ext(file["fname"]) for file in files if "fname" in file]
    keys = [key for key, _ in names if key is not None]
    return [{"__key__": key} for at, key in enumerate(keys) if at == 0 or keys[at - 1] != key]


@given(member_lists)
def test_reading_can_start_anew_behind_every_sample(members: list[tuple[str, bytes]]) -> None:
    data = tar_of(members)
    try:
        samples = our_samples(data)
    except JobFailed:
        return
    for number, sample in enumerate(samples):
        for start in (sample.end, 0):
            rest = our_samples(data, start, sample.index + 1)
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
        ("GNU.sparse.major of every member", pax(("GNU.sparse.major", "1"), kind=b"g") + header()),
        ("impossible mode", header(mode=b"rw-r--r-")),
        ("has a name of 65537 bytes", pax(("path", "n" * 65537)) + header()),
        ("has a prefix", header(prefix=b"folder", magic=b"ustar  \0")),
        ("the folder 'a/' at byte 0 has data", header("a/", 5, b"\0")),
        ("is a zip file", b"PK\3\4" + bytes(1000)),
        ("impossible checksum", bytes(range(1, 255)) * 5),
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


def test_links_folders_and_devices_are_no_files() -> None:
    others = b"".join(header(f"{kind}.txt", 5, str(kind).encode()) for kind in range(1, 7))
    assert our_members(others + header("folder/", 0, b"\0") + header("a.txt", 1) + padded(b"a")) == [("a.txt", b"a")]


def test_a_global_comment_is_fine() -> None:
    assert our_members(pax(("comment", "from git"), kind=b"g") + header("a.txt", 1) + padded(b"a")) == [("a.txt", b"a")]


def test_a_member_twice_in_one_sample_is_a_problem_of_that_sample_alone() -> None:
    samples = our_samples(tar_of([("a.txt", b"1"), ("a.txt", b"2"), ("b.txt", b"3")]))
    assert [bool(sample.problem) for sample in samples] == [True, False]


@pytest.mark.parametrize("name", ["b.__bad__", "b.__BAD__"])
@pytest.mark.parametrize("content", [b"1", b""])
def test_a_member_that_marks_its_sample_as_bad_does_not_make_it_vanish(name: str, content: bytes) -> None:
    data = tar_of([("a.txt", b"a"), (name, content), ("b.txt", b"b"), ("c.txt", b"c")])
    first, marked, last = our_samples(data)
    assert (first.key, marked.key, last.key) == ("a", "b", "c")
    assert not first.problem
    assert not last.problem
    assert marked.problem == f"member '{name}' at byte 1024 marks its sample as one that readers leave out"
    assert [sample.index for sample in our_samples(data, index=2)] == [2]


def test_a_sample_that_would_not_fit_memory_is_refused_before_it_is_read(tmp_path) -> None:
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        file.write(header("a.bin", 3 << 30))
        file.truncate((3 << 30) + 2048)
    source = FileInput(os.open(path, os.O_RDONLY), 0, path.stat().st_size, 0)
    with pytest.raises(JobFailed, match="may have"):
        next(read_samples(source, "", 0))
    source.close()


LINK = header("b.jpg", 0, b"1", link=b"a.jpg")


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (b"1", "is a hard link to 'a.jpg'"),
        (b"2", "is a symbolic link to 'a.jpg'"),
        (b"3", "is a character device"),
        (b"4", "is a block device"),
        (b"6", "is a FIFO"),
        (b"M", "is a piece of a file"),
        (b"S", "is a sparse file"),
        (b"Z", "is a member of the unknown type"),
    ],
)
def test_a_field_that_has_no_bytes_is_not_lost_without_a_word(kind: bytes, what: str) -> None:
    first, second, third = our_samples(
        tar_of([("a.jpg", b"a")])[:1024]
        + header("b.jpg", 0, kind, link=b"a.jpg")
        + tar_of([("b.cls", b"1"), ("c.cls", b"2")])
    )
    assert (first.problem, third.problem) == ("", "")
    assert f"member 'b.jpg' at byte 1024 {what}" in second.problem
    assert "tar -tf" not in second.hint
    assert second.hint


def test_a_sparse_member_of_pax_is_not_read_as_if_it_were_plain() -> None:
    data = pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")) + header("a.bin", 5) + padded(b"1\n0\n1")
    (sample,) = our_samples(data)
    assert "sparse" in sample.problem
    assert "--sparse" in sample.hint


@pytest.mark.parametrize("tar_format", ["gnu", "posix", "--sparse-version=0.0", "--sparse-version=0.1"])
@pytest.mark.parametrize("pieces", [2, 40])
def test_sparse_files_of_gnu_tar_are_a_problem_of_the_sample_or_refused_by_name(tmp_path, tar_format, pieces) -> None:
    with (tmp_path / "a.bin").open("wb") as file:
        for piece in range(pieces):
            file.seek(piece << 20)
            file.write(b"x" * 4096)
    (tmp_path / "a.cls").write_bytes(b"1")
    form = ["--format=posix", tar_format] if tar_format.startswith("--") else [f"--format={tar_format}"]
    command = ["tar", "-S", *form, "-C", str(tmp_path), "-cf", "-", "a.bin", "a.cls"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(data) < pieces << 20, "it is stored as a sparse file"
    if tar_format == "gnu" and pieces > 4:
        assert "the sparse file 'a.bin' at byte 0 has many holes" in problem_of(data)
    else:
        (sample,) = our_samples(data)
        assert (sample.key, sample.fields["cls"]) == ("a", b"1")
        assert "member 'a.bin' at byte 0 is a sparse file" in sample.problem
        assert "--sparse" in sample.hint


def test_archives_that_were_joined_give_all_their_samples() -> None:
    joined = tar_of([("a.txt", b"1")]) + tar_of([("b.txt", b"2")])
    assert [(sample.key, sample.fields["txt"]) for sample in our_samples(joined)] == [("a", b"1"), ("b", b"2")]


@pytest.mark.parametrize("tail", [b"\n", b"garbage" * 200, b"\x1f\x8b\x08" + bytes(600)])
def test_what_lies_behind_the_end_of_the_archive_is_not_passed_over(tail: bytes) -> None:
    problem = problem_of(tar_of([("a.txt", b"1")]) + tail)
    assert "the archive ends at byte 1024, and what follows at byte 10240 is no tar" in problem


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_key_that_comes_back_is_an_error_that_names_both_places(start: int) -> None:
    data = tar_of([("0.cls", b"1"), ("1.cls", b"2"), ("2.cls", b"3"), ("0.txt", b"x")])
    with pytest.raises(JobFailed) as caught:
        our_samples(data, index=start)
    assert "sample '0' began at byte 0, and '0.txt' at byte 3072 belongs to it" in str(caught.value)
    assert "--sort=name" in caught.value.failure.hint


def test_a_continued_shard_that_became_shorter_is_an_error() -> None:
    with pytest.raises(JobFailed, match="has 1 samples, and 2 were read"):
        our_samples(tar_of([("a.txt", b"1")]), index=2)


def test_files_that_macos_adds_to_folders_are_no_samples() -> None:
    names = ["d/._a.jpg", "d/.DS_Store", "__MACOSX/d/._a.jpg", "__MACOSX/d/a.jpg", "d/a.jpg", "d/._a.cls", "d/a.cls"]
    (sample,) = our_samples(tar_of([(name, b"x") for name in names]))
    assert list(sample.fields) == ["__key__", "__url__", "jpg", "cls"]


def test_members_without_a_key_are_told_in_the_log(caplog) -> None:
    assert len(our_samples(tar_of([("README", b"x"), ("LICENSE", b"x"), ("a.txt", b"1")]))) == 1
    assert "passed over 2 members without a key and a field, the first is 'README'" in caplog.text


def test_a_shard_in_which_nothing_is_a_sample_is_not_an_empty_result() -> None:
    assert "no samples, only 2 members" in problem_of(tar_of([("0001", b"x"), ("0002", b"x")]))
    assert our_samples(tar_of([("__meta__", b"x")])) == []


def test_a_name_of_a_mebibyte_of_slashes_takes_no_worker_for_good() -> None:
    """The pattern that was here before took a quarter of an hour for each."""
    assert "has a name of" in problem_of(pax(("path", "/" * 1_000_000)) + header("a.txt", 1) + padded(b"a"))
    assert (
        our_samples(pax(("path", "a/" * 2000 + "b.txt")) + header("a.txt", 1) + padded(b"a"))[0].key
        == "a/" * 2000 + "b"
    )


def test_names_in_messages_are_short_and_printable() -> None:
    data = pax(("path", "\x1b[31m\n" + "n" * 3000 + ".txt")) + header("a.txt", 1) + padded(b"a")
    problem = our_samples(data * 2)[0].problem
    assert len(problem) < 500
    assert problem.isprintable()
