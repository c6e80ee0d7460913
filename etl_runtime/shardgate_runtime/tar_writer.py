"""Samples as tar members, byte for byte as `webdataset.TarWriter(mtime=0)` writes them, without its copies.

webdataset's own encoders decide what the bytes of a value are. What is ours: headers are patched into a template
instead of built from forty small pieces (1.5 µs instead of 19), and an array under `npy` is not encoded at all; it
stays an array, with its cached npy header before it, until it is copied once into the memory that the gateway sends
from.
Anything unusual (a long or non-ASCII name, an object array, `.npy.gz`) goes the way that webdataset goes.
"""

from __future__ import annotations

import io
import tarfile
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib import format as npy

from shardgate_runtime.webdataset_parts import default_handlers, encode_based_on_extension1

Piece = bytes | memoryview | np.ndarray[Any, Any]
"""Bytes of the output, or an array whose memory in C order they are (in Fortran order if it is only that)."""

USER = GROUP = "bigdata"
MODE = 0o444
"""Owner and mode of every member, as webdataset writes them."""


def encode_sample(sample: dict[str, Any], pieces: list[Piece]) -> None:
    """Append the members of a sample, in the order of their names; keys that begin with `_` are not written.

    Raises:
        ValueError: A value can't be encoded, with the key in the text.
    """
    key = sample["__key__"]
    for extension in sorted(sample):
        if extension[:1] == "_":
            continue
        value = sample[extension]
        name = f"{key}.{extension}"
        if type(value) is np.ndarray and _is_plain_npy(extension, value):
            _append(pieces, name, npy_header(value.dtype, value.shape, value.flags.fnc), value)
        else:
            _append(pieces, name, b"", _encode(value, extension))


def _encode(value: Any, extension: str) -> bytes | memoryview:
    try:
        data = encode_based_on_extension1(value, extension, default_handlers)
    except Exception as error:
        raise ValueError(f"the value of {extension!r} ({type(value).__name__}) can't be encoded: {error}") from error
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return memoryview(data).cast("B")
    raise ValueError(
        f"the value of {extension!r} ({type(value).__name__}) was encoded to {type(data).__name__}, not bytes"
    )


def _append(pieces: list[Piece], name: str, head: bytes, body: Piece) -> None:
    size = len(head) + (len(body) if isinstance(body, bytes) else body.nbytes)
    pieces.append(member_header(name, size) + head)
    pieces.append(body)
    padding = -size % tarfile.BLOCKSIZE
    if padding:
        pieces.append(bytes(padding))


def _is_plain_npy(extension: str, array: np.ndarray[Any, Any]) -> bool:
    return (
        extension.rpartition(".")[2].lower() == "npy"
        and array.size > 0
        and array.dtype.isbuiltin == 1
        and array.dtype.kind in "biufc"
    )


@lru_cache(maxsize=256)
def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> bytes:
    """What `numpy.save` writes before the data of such an array."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": npy.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape})
    return stream.getvalue()


def _tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.uname, info.gname = size, 0, MODE, USER, GROUP
    return info.tobuf(tarfile.PAX_FORMAT, tarfile.ENCODING, "surrogateescape")


_TEMPLATE = _tarfile_header("", 0)
_MODE_AND_OWNER, _TIME, _REST = _TEMPLATE[100:124], _TEMPLATE[135:148], _TEMPLATE[155:]
_CHECKSUM = sum(_MODE_AND_OWNER) + sum(_TIME) + sum(_REST) + 7 * ord(" ")
"""Of a header without its name and size; the checksum field counts as spaces, of which the eighth is in the rest."""
_MAX_SIZE = 8**11
"""Sizes from here on need more than eleven octal digits."""


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's data, or more where its name or size needs a PAX header."""
    if len(name) > tarfile.LENGTH_NAME or size >= _MAX_SIZE or not name.isascii():
        return _tarfile_header(name, size)
    encoded = name.encode("ascii")
    digits = b"%011o" % size
    checksum = _CHECKSUM + sum(encoded) + sum(digits)
    return b"%b%b%b%b%06o\0%b" % (
        encoded.ljust(tarfile.LENGTH_NAME, b"\0"),
        _MODE_AND_OWNER,
        digits,
        _TIME,
        checksum,
        _REST,
    )


def end_of_archive(written: int) -> bytes:
    """What closes a tar of `written` bytes: two zero blocks, and zeros up to a whole record."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(written + end) % tarfile.RECORDSIZE)
