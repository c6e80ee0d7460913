"""The records of a PAX header: `length keyword=value` and a newline, where the length counts all of the record."""

from __future__ import annotations

from shardgate.tar.errors import BadTar

MAX_DIGITS = 19
"""Of a decimal number: more can't be a size or a length."""
SPARSE = b"GNU.sparse."
PLAIN = frozenset((b"path", b"linkpath", b"size"))
NEWLINE = ord("\n")


def parse_pax(data: bytes, at: int) -> dict[bytes, bytes]:
    """The records that say where a member is and what it is called; all others are checked and passed over.

    Raises:
        BadTar: The header, which lies at byte `at`, is malformed.
    """
    records: dict[bytes, bytes] = {}
    position = 0
    data = data.rstrip(b"\0")
    total = len(data)
    while position < total:
        space = data.find(b" ", position, position + MAX_DIGITS)
        digits = data[position:space] if space >= 0 else b""
        end = position + (int(digits) if digits.isdigit() else 0)
        equals = data.find(b"=", space, end)
        if not space + 1 < equals < end <= total or data[end - 1] != NEWLINE:
            raise BadTar(f"the PAX header at byte {at} is malformed")
        keyword = data[space + 1 : equals]
        if keyword in PLAIN or keyword.startswith(SPARSE):
            records[keyword] = data[equals + 1 : end - 1]
        position = end
    return records


def size_of(value: bytes, at: int) -> int:
    """The value of a record `size`."""
    if not value.isdigit() or len(value) > MAX_DIGITS:
        raise BadTar(f"the PAX header at byte {at} has an impossible size: {value[:40]!r}")
    return int(value)


def refuse_global(records: dict[bytes, bytes], at: int) -> None:
    """A comment for the whole archive is fine; one name or size for all members is none that an archiver writes."""
    if records:
        names = ", ".join(sorted(keyword.decode("utf-8", "replace") for keyword in records)[:3])
        raise BadTar(f"the global PAX header at byte {at} sets {names[:100]} of every member")
