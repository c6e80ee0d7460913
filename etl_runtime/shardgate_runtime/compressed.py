"""Compressed shards: gzip, bzip2, xz and zstd, told by content, decompressed while they are read.

`DecompressedInput` is an `Input` over another one. Several streams behind each other are one shard, as their tools have
it (`cat a.gz b.gz`, pigz, pzstd); zeros behind a stream are padding. A stream that is cut off, damaged, or followed by
anything else is an error: the end of the shard is believed only behind a stream that was verified to its checksum.

A few bytes can stand for terabytes. No step makes more than some MiB, the windows are bounded, and so is the whole: in
bytes, and in proportion to what was read for it.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from typing import TYPE_CHECKING, Protocol

from shardgate.tar import BadTar
from shardgate.tar.header import BLOCK, parse_header
from shardgate.tar.magic import BZIP2, ENOUGH, GZIP, READABLE, XZ, ZSTD, compression_of
from shardgate_runtime.failures import JobFailed, describe, input_invalid
from shardgate_runtime.inputs import Input

if TYPE_CHECKING:
    from collections.abc import Callable

RAW_BYTES = 64 << 10
"""Compressed bytes that are read at a time."""
ZSTD_BYTES = 1 << 10
"""Compressed bytes per step of zstd, whose steps have no limit of their own: they can make 32 MiB of them."""
STEP_BYTES = 1 << 20
"""Bytes that a step of the other ones makes at most."""
MAX_WINDOW = 128 << 20
"""Bytes of memory that xz and zstd may want: as much as `xz -9` and `zstd --ultra -22` need."""
MAX_BYTES = 256 << 30
"""Bytes of a whole decompressed shard. Shards have up to some GiB, and this takes a worker about ten minutes."""
MAX_RATIO = 500
"""Of decompressed to compressed bytes. Photographs have 1, text 3 to 10, label maps up to 200; gzip at most 1032."""
FREE_BYTES = 256 << 20
"""Decompressed bytes to which the ratio does not apply: a second's work, whatever they are made of."""
PADDING = b"\0"


class Codec(Protocol):
    """What the standard library's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class DecompressedInput(Input):
    """A shard whose bytes come out of a compressed one. Positions are those of the decompressed bytes.

    Args:
        source: The compressed shard; stays the caller's.
        head: What was read of it already.
        kind: Which compression it has.
    """

    def __init__(self, source: Input, head: bytes, kind: str) -> None:
        self._source = source
        self._raw = head
        self._kind = kind
        self._codec: Codec | None = _CODECS[kind]()
        self._made = b""
        self._made_at = 0
        self._total = 0
        self.size: int | None = None
        self.position = 0

    def read(self, count: int) -> bytes:
        data = self._made[self._made_at : self._made_at + count]
        self._made_at += len(data)
        self.position += len(data)
        if len(data) == count:
            return data
        parts = [data]
        missing = count - len(data)
        while missing and self._make():
            data = self._made[:missing]
            self._made_at = len(data)
            parts.append(data)
            missing -= len(data)
        self.position += count - missing - len(parts[0])
        return b"".join(parts)

    def skip_to(self, position: int) -> bool:
        while self.position < position:
            if self._made_at == len(self._made) and not self._make():
                return False
            step = min(position - self.position, len(self._made) - self._made_at)
            self._made_at += step
            self.position += step
        return True

    def close(self) -> None:
        self._made = self._raw = b""

    def _make(self) -> bool:
        """Decompress the next piece. False at the verified end."""
        self._made, self._made_at = b"", 0
        while not self._made:
            if self._codec is None and not self._begin_stream():
                return False
            assert self._codec is not None
            is_hungry = self._codec.needs_input
            data = self._take() if is_hungry else b""
            self._made = self._step(self._codec, data)
            if self._codec.eof:
                self._raw = self._codec.unused_data + self._raw
                self._codec = None
            elif is_hungry and not data and not self._made:
                raise self._invalid("end too early: the object is truncated")
        self._total += len(self._made)
        self._check_total()
        return True

    def _step(self, codec: Codec, data: bytes) -> bytes:
        try:
            return codec.decompress(data, STEP_BYTES)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (each library has errors of its own)
            raise self._invalid(f"can't be decompressed before byte {self._consumed}: {describe(error)}") from None

    def _begin_stream(self) -> bool:
        """Go to the next stream behind one that ended. False if there is none."""
        while True:
            self._raw = self._raw.lstrip(PADDING)
            if len(self._raw) >= ENOUGH or not (more := self._source.read(RAW_BYTES)):
                break
            self._raw += more
        if not self._raw:
            return False
        if compression_of(self._raw) != self._kind:
            raise self._invalid(f"end before byte {self._consumed}, and something else follows them")
        self._codec = _CODECS[self._kind]()
        return True

    def _take(self) -> bytes:
        """Compressed bytes for one step; none at their end."""
        if not self._raw:
            self._raw = self._source.read(RAW_BYTES)
        count = ZSTD_BYTES if self._kind == ZSTD else RAW_BYTES
        data, self._raw = self._raw[:count], self._raw[count:]
        return data

    @property
    def _consumed(self) -> int:
        return self._source.position - len(self._raw)

    def _check_total(self) -> None:
        if self._total > MAX_BYTES:
            problem = f"make more than the {MAX_BYTES} bytes that a shard may have"
        elif self._total > FREE_BYTES and self._total > MAX_RATIO * self._consumed:
            problem = f"make more than {MAX_RATIO} times their size: {self._total} bytes of {self._consumed}"
        else:
            return
        raise self._invalid(problem, "no shard of samples is like that; store it as a plain tar if it really is")

    def _invalid(self, problem: str, hint: str = "") -> JobFailed:
        hint = hint or f"check it with `{_TOOLS[self._kind]} -t`, and make it or upload it again"
        return input_invalid(f"the {self._kind} data of the object {problem}", hint)


def open_archive(source: Input) -> tuple[Input, bytes]:
    """The shard's tar, decompressed if need be, and what was read of its beginning already.

    Raises:
        JobFailed: It is compressed in a way that is not read here.
    """
    if source.position:
        return source, b""
    head = source.read(BLOCK)
    kind = _compression_of(head)
    if not kind:
        return source, head
    if kind not in READABLE:
        raise input_invalid(f"the object is a {kind} file", f"make it a tar: plain, or with {', '.join(READABLE)}")
    archive = DecompressedInput(source, head, kind)
    head = archive.read(BLOCK)
    if again := _compression_of(head):
        raise input_invalid(f"the object is compressed twice: {again} in {kind}", "decompress it once")
    return archive, head


def _compression_of(head: bytes) -> str:
    """A header of a tar that happens to begin like a compressed file is a header."""
    kind = compression_of(head)
    if kind and len(head) == BLOCK:
        try:
            parse_header(head, 0)
        except BadTar:
            return kind
        return ""
    return kind


class _Gzip:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._tail = b""
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._is_full

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        made = self._inner.decompress(self._tail + data, max_length)
        self._tail = self._inner.unconsumed_tail
        self._is_full = len(made) == max_length  # then there may be more of it
        return made


class _Zstd:
    """One frame; the caller gives few bytes at a time, so that few MiB come out."""

    needs_input = True

    def __init__(self) -> None:
        try:
            zstandard = importlib.import_module("zstandard")
        except ImportError:
            hint = "add `zstandard` to the transform's requirements"
            raise input_invalid("the object is compressed by zstd, and zstandard is not installed", hint) from None
        self._inner = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, _max_length: int) -> bytes:
        return bytes(self._inner.decompress(data))


_CODECS: dict[str, Callable[[], Codec]] = {
    GZIP: _Gzip,
    BZIP2: bz2.BZ2Decompressor,
    XZ: lambda: lzma.LZMADecompressor(memlimit=MAX_WINDOW),
    ZSTD: _Zstd,
}
_TOOLS = {GZIP: "gzip", BZIP2: "bzip2", XZ: "xz", ZSTD: "zstd"}
