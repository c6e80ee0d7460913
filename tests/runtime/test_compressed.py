"""Compressed shards: read as they are, or refused with the reason; never cut, never without bounds."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_process import Runtime, members_of, tar_of

from shardgate_runtime import compressed
from shardgate_runtime.compressed import DecompressedInput, open_archive
from shardgate_runtime.failures import JobFailed
from shardgate_runtime.inputs import FileInput
from shardgate_runtime.tar_reader import read_samples

if TYPE_CHECKING:
    from collections.abc import Callable

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": zstandard.ZstdCompressor().compress,
}
SHARD = tar_of([(f"{i:03d}.{ext}", random.Random(i).randbytes(i * 500)) for i in range(30) for ext in ("bin", "raw")])
SMALL = tar_of([("a.txt", b"1")])


def file_input(data: bytes) -> FileInput:
    fd = os.memfd_create("shard")
    os.write(fd, data)
    return FileInput(fd, 0, len(data), 0)


def samples_of(data: bytes, index: int = 0) -> list[tuple[int, int, dict[str, Any]]]:
    source = file_input(data)
    try:
        return [(sample.index, sample.end, sample.fields) for sample in read_samples(source, "x", index)]
    finally:
        source.close()


def fields_of(data: bytes, index: int = 0) -> list[dict[str, Any]]:
    return [fields for _, _, fields in samples_of(data, index)]


def failure_of(data: bytes) -> Any:
    with pytest.raises(JobFailed) as caught:
        samples_of(data)
    assert caught.value.failure.code == "input_invalid"
    return caught.value.failure


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("shard", [SMALL, SHARD, tar_of([])], ids=["small", "large", "empty"])
def test_a_compressed_shard_has_the_samples_of_the_plain_one(kind: str, shard: bytes) -> None:
    data = COMPRESS[kind](shard)
    assert fields_of(data) == fields_of(shard)
    if shard != tar_of([]):
        assert fields_of(data, 1) == fields_of(shard, 1), "a job that continues"


@pytest.mark.parametrize("kind", COMPRESS)
def test_streams_behind_each_other_are_one_shard(kind: str) -> None:
    parts = [SHARD[at : at + 7777] for at in range(0, len(SHARD), 7777)]
    data = b"".join(map(COMPRESS[kind], parts))
    if kind != "lzma":  # which can't tell where it ends
        assert fields_of(data) == fields_of(SHARD)
        assert fields_of(data + bytes(512)) == fields_of(SHARD), "zeros are padding"


def test_a_zstd_file_may_begin_with_a_frame_that_holds_nothing() -> None:
    skippable = b"\x50\x2a\x4d\x18\4\0\0\0abcd"
    assert fields_of(skippable + COMPRESS["zstd"](SHARD)) == fields_of(SHARD)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_a_compressed_shard_that_is_cut_anywhere_never_looks_whole(kind: str) -> None:
    data = zstandard.ZstdCompressor(write_checksum=True).compress(SMALL) if kind == "zstd" else COMPRESS[kind](SMALL)
    for cut in range(1, len(data)):
        failure = failure_of(data[:cut])
        assert failure.message
        assert "tar -tf" not in failure.hint or cut < 10, "it is no advice for a compressed file"


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_garbage_behind_the_compressed_data_is_an_error(kind: str) -> None:
    failure = failure_of(COMPRESS[kind](SHARD) + b"garbage")
    assert f"the {kind} data of the object end before byte" in failure.message
    assert f"`{kind} -t`" in failure.hint


@given(st.sampled_from(["gzip", "bzip2", "xz", "zstd"]), st.integers(0, 1 << 20), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_byte_is_refused_or_does_not_matter(kind: str, at: int, change: int) -> None:
    checked = zstandard.ZstdCompressor(write_checksum=True).compress
    data = bytearray(checked(SMALL) if kind == "zstd" else COMPRESS[kind](SMALL))
    data[at % len(data)] ^= change
    try:
        fields = fields_of(bytes(data))
    except JobFailed:
        assert failure_of(bytes(data)).hint
    else:
        assert fields == fields_of(SMALL)


@pytest.mark.parametrize(
    ("data", "what"), [(b"\x04\x22\x4d\x18" + bytes(100), "lz4"), (b"PK\3\4" + bytes(1000), "zip")]
)
def test_what_is_not_read_is_named(data: bytes, what: str) -> None:
    failure = failure_of(data)
    assert f"a {what} file" in failure.message
    assert "gzip" in failure.hint


def test_a_shard_that_was_compressed_twice_is_named() -> None:
    assert "compressed twice: gzip in xz" in failure_of(lzma.compress(gzip.compress(SMALL))).message


def test_a_tar_whose_first_name_looks_compressed_is_a_tar() -> None:
    shard = tar_of([("BZh91AY&SY.txt", b"1"), ("\x1f\x8b\x08.txt", b"2")])
    assert len(fields_of(shard)) == 2


def bomb(kind: str, size: int) -> bytes:
    """A shard with one member of so many zeros, and no file at any time that holds them."""
    header = bytearray(tar_of([("a.bin", b"")])[:512])
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    makers: dict[str, Callable[[], Any]] = {
        "gzip": lambda: __import__("zlib").compressobj(9, wbits=31),
        "bzip2": bz2.BZ2Compressor,
        "xz": lzma.LZMACompressor,
        "zstd": lambda: zstandard.ZstdCompressor().compressobj(),
    }
    maker = makers[kind]()
    zeros = bytes(1 << 20)
    return b"".join([maker.compress(bytes(header)), *(maker.compress(zeros) for _ in range(size >> 20)), maker.flush()])


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_a_compression_bomb_ends_at_a_multiple_of_its_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "FREE_BYTES", 16 << 20)
    source = file_input(bomb(kind, 128 << 20))
    archive, _ = open_archive(source)
    with pytest.raises(JobFailed, match="make more than 500 times their size"):
        archive.skip_to(128 << 20)
    assert archive.position <= (16 << 20) + 500 * source.size + (64 << 20)
    source.close()


def test_a_shard_is_bounded_whatever_its_ratio_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_BYTES", 100_000)
    assert "make more than the 100000 bytes" in failure_of(gzip.compress(SHARD)).message


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_no_step_takes_much_memory(kind: str) -> None:
    source = file_input(bomb(kind, 64 << 20))
    archive, _ = open_archive(source)
    assert isinstance(archive, DecompressedInput)
    while archive.read(1000):
        assert len(archive._made) <= 32 << 20
    source.close()


def test_a_window_that_no_worker_can_afford_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    maker = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    failure = failure_of(maker.compress(SHARD) + maker.flush())
    assert "can't be decompressed" in failure.message


def keep(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


@pytest.fixture(scope="module")
def runtime(start_shared: Callable[..., Runtime]) -> Runtime:
    return start_shared(keep)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_job_continues_a_compressed_shard_at_every_checkpoint(runtime: Runtime, kind: str) -> None:
    data = COMPRESS[kind](SHARD)
    whole = runtime.run(data)
    assert whole.stats.samples_out == 30
    assert members_of(bytes(whole.output)) == members_of(bytes(runtime.run(SHARD).output))
    for at, place in [each for each in whole.checkpoints if each[1].whole][::7]:
        rest = runtime.run(data, sample=place.next_sample, input=place.next_input, output=at)
        assert rest.failure is None
        assert whole.output[at:] == rest.output


def test_a_job_that_continues_knows_the_keys_before_its_place(runtime: Runtime) -> None:
    shard = tar_of([("0.cls", b"1"), ("1.cls", b"2"), ("2.cls", b"3"), ("0.txt", b"x")])
    rest = runtime.run(shard, sample=2, input=2048, output=2048)
    assert "sample '0' began at byte 0, and '0.txt' at byte 3072 belongs to it" in rest.failure.message


@pytest.mark.parametrize(
    ("shard", "samples", "problem"),
    [
        (tar_of([("a.txt", b"1")]) + tar_of([("b.txt", b"2")]), 2, ""),
        (gzip.compress(SMALL), 1, ""),
        (gzip.compress(SMALL)[:-3], 0, "the gzip data of the object end too early"),
        (tar_of([("0.cls", b"1"), ("1.cls", b"2"), ("0.txt", b"x"), ("1.txt", b"y")]), 0, "sample '0' began at byte 0"),
        (tar_of([("0001", b"x")]), 0, "the shard has no samples"),
    ],
    ids=["two archives", "gzip", "cut gzip", "not sorted", "no keys"],
)
def test_a_worker_gives_all_samples_or_says_why_not(runtime: Runtime, shard: bytes, samples: int, problem: str) -> None:
    answer = runtime.run(shard)
    if problem:
        assert problem in answer.failure.message
        assert answer.failure.hint
    else:
        assert answer.failure is None
        assert answer.stats.samples_out == samples
