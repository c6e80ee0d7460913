"""From header blocks to members.

The scanner does no I/O. It says which bytes it wants next (`wanted` bytes at `at`, always forwards), and is fed with
them: by `pread` over a file, by a stream as its bytes pass, or by what a worker reads. So index and worker can't
disagree about a tar.

It understands ustar, V7, PAX (path, linkpath, size), GNU long names and base-256 numbers. It is strict: anything that
is neither a member, an extended header nor zeros raises `BadTar`. Zero blocks do not end the scan, only the end of the
bytes does: of archives that were joined with `cat`, or appended to, every member counts, as with `tar -i`.

What it keeps in memory is one extended header of at most a MiB. Work is bounded by the bytes that it is fed.
"""

from __future__ import annotations

from typing import NamedTuple

from shardgate.tar.errors import NOT_SPARSE, BadTar, shown
from shardgate.tar.header import BLOCK, parse_header, text_of
from shardgate.tar.pax import SPARSE as PAX_SPARSE
from shardgate.tar.pax import parse_pax, refuse_global, size_of

ZEROS = bytes(BLOCK)
MAX_EXTENSION = 1 << 20
"""Bytes of the largest PAX or long-name header; real ones have hundreds."""
MAX_EXTENSIONS = 16
"""Extended headers before one member."""
MAX_NAME = 1 << 16
"""Bytes of a member's name. Paths of files have up to 4096, keys that functions make may be longer."""

PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK = frozenset(b"xX"), *b"gLK"
EXTENSIONS = PAX | {PAX_GLOBAL, LONG_NAME, LONG_LINK}
REGULAR = frozenset(b"07")
"""Types that are files whatever their names are; type 0 may be a folder."""
WITHOUT_DATA = frozenset(b"123456")
"""Links, devices, folders and FIFOs: their size field, if any, is not followed by data."""
FILE, HARD_LINK, SYMLINK, FOLDER, SPARSE, LABEL = "file", "hard link", "symbolic link", "folder", "sparse file", "label"
GNU_SPARSE = ord("S")
IS_EXTENDED = 482
"""Byte of a sparse file's header that says that its map goes on where data would be."""
SPARSE_NAME = b"GNU.sparse.name"
LINKS = frozenset(b"12")
KINDS = {
    **dict.fromkeys(b"\x0070", FILE),
    ord("1"): HARD_LINK,
    ord("2"): SYMLINK,
    ord("3"): "character device",
    ord("4"): "block device",
    ord("5"): FOLDER,
    ord("6"): "FIFO",
    ord("D"): FOLDER,
    ord("M"): "piece of a file that began in another volume",
    ord("S"): SPARSE,
    ord("V"): LABEL,
}


_new = tuple.__new__
"""Makes a named tuple in half the time."""


class TarMember(NamedTuple):
    """One member.

    Attributes:
        name: As archived, undecodable bytes as surrogates.
        size: Bytes of its data in the archive; 0 for what has none.
        offset: First byte of its headers.
        start: First byte of its data.
        end: First byte behind the padding of its data.
        kind: FILE, HARD_LINK, SYMLINK, FOLDER, SPARSE, LABEL, or other words for what it is.
        link: Where a link points to.
    """

    name: str
    size: int
    offset: int
    start: int
    end: int
    kind: str
    link: str


class _Extended:
    """What extended headers say of the next member. Of several, the outermost counts, as in `tarfile`."""

    count = 0
    is_of_member = False
    is_sparse = False
    name: str | None = None
    link: str | None = None
    size: int | None = None

    def take(self, records: dict[bytes, bytes], at: int) -> None:
        """Take the records of the PAX header at byte `at`."""
        if self.name is None and (path := records.get(SPARSE_NAME, records.get(b"path"))) is not None:
            self.name = _name(path, at).rstrip("/")
        if self.link is None and b"linkpath" in records:
            self.link = _name(records[b"linkpath"], at)
        if self.size is None and b"size" in records:
            self.size = size_of(records[b"size"], at)
        self.is_sparse |= any(keyword.startswith(PAX_SPARSE) for keyword in records)


class Scanner:
    """Takes headers, gives members.

    Args:
        at: Where the first header is expected.
        size: Bytes of the archive, None while unknown.

    Attributes:
        at: Offset of the bytes that are wanted next.
        wanted: How many. Fewer may be fed only where the archive ends.
        is_done: The archive ended as it must; nothing is wanted any more.
    """

    __slots__ = ("_extended", "_extension", "_offset", "_size", "_zeros", "at", "is_done", "wanted")

    def __init__(self, at: int = 0, size: int | None = None) -> None:
        self.at = at
        self.wanted = BLOCK
        self.is_done = False
        self._size = size
        self._offset = at  # of the next member's first header
        self._zeros = -1  # where a row of zero blocks began, if the last block was one
        self._extended: _Extended | None = None
        self._extension: tuple[_Extended, int, int] | None = None  # with type and size of a header whose data is wanted

    def feed(self, data: bytes) -> TarMember | None:
        """Take the bytes that were wanted; the member that they complete, if they do.

        Raises:
            BadTar: They are not what may stand there.
        """
        if self._extension is not None:
            self._extend(data, *self._extension)
            return None
        if data == ZEROS or len(data) < BLOCK:
            self._pass_zeros(data)
            return None
        at = self.at
        try:
            name, size, kind = parse_header(data, at)
        except BadTar as error:
            raise self._explained(error) from None
        self._zeros = -1
        if self._extended is None and kind in REGULAR:
            what, link = FILE, ""
        elif kind in EXTENSIONS:
            self._begin_extension(kind, size)
            return None
        else:
            name, size, what, link = self._resolve(name, size, kind, data)
        offset = self._offset
        start = at + BLOCK
        end = start + (size + BLOCK - 1 & -BLOCK)
        if self._size is not None and end > self._size:
            raise truncated(name, offset)
        self.at = self._offset = end
        return _new(TarMember, (name, size, offset, start, end, what, link))

    def _resolve(self, name: str, size: int, kind: int, header: bytes) -> tuple[str, int, str, str]:
        """Name, size, kind and link of a member that is no file, or has extended headers."""
        extended, self._extended = self._extended, None
        what = KINDS.get(kind) or f"member of the unknown type {chr(kind)!r}"
        link = text_of(header[157:257]) if kind in LINKS else ""
        if extended is not None:
            name = name if extended.name is None else extended.name
            size = size if extended.size is None else extended.size
            link = link if extended.link is None else extended.link
            what = SPARSE if extended.is_sparse and what == FILE else what
        if what == SPARSE and kind == GNU_SPARSE and header[IS_EXTENDED]:
            raise BadTar(f"the sparse file {shown(name)} at byte {self._offset} has many holes", NOT_SPARSE)
        if kind in WITHOUT_DATA:
            size = 0
        elif not kind and name.endswith("/"):  # V7 has no type for folders
            what = FOLDER
            if size:
                raise BadTar(f"the folder {shown(name)} at byte {self._offset} has data")
        return name, size, what, link

    def _begin_extension(self, kind: int, size: int) -> None:
        at = self.at
        if size > MAX_EXTENSION:
            raise BadTar(f"the extended header at byte {at} announces {size} bytes; {MAX_EXTENSION} are allowed")
        extended = self._extended
        if extended is None:
            extended = self._extended = _Extended()
        extended.count += 1
        if extended.count > MAX_EXTENSIONS:
            raise BadTar(f"more than {MAX_EXTENSIONS} extended headers before the member at byte {self._offset}")
        self._extension = (extended, kind, size)
        self.at = at + BLOCK
        self.wanted = size + BLOCK - 1 & -BLOCK
        if not size:
            self._extend(b"", extended, kind, size)

    def _extend(self, data: bytes, extended: _Extended, kind: int, size: int) -> None:
        at = self.at - BLOCK
        if len(data) != self.wanted:
            raise BadTar(f"the tar ends inside the extended header at byte {at}: it is truncated")
        self.at += self.wanted
        self.wanted = BLOCK
        self._extension = None
        if kind in PAX:
            extended.is_of_member = True
            if records := parse_pax(data[:size], at):
                extended.take(records, at)
        elif kind == PAX_GLOBAL:
            refuse_global(parse_pax(data[:size], at), at)
        else:
            extended.is_of_member = True
            name = _name(data[:size], at)
            if kind == LONG_NAME:
                extended.name = name if extended.name is None else extended.name
            else:
                extended.link = name if extended.link is None else extended.link

    def _pass_zeros(self, data: bytes) -> None:
        """A zero block, or the end of the bytes."""
        at = self.at
        if self._extended is not None and self._extended.is_of_member:
            raise BadTar(f"the extended header at byte {self._offset} has no member")
        self._extended = None
        if not data:
            if not at:
                raise BadTar("the object is empty, not even an empty tar", "upload it again")
            self.is_done = True
            self.wanted = 0
            return
        if len(data) < BLOCK and (any(data) or self._zeros < 0):
            error = BadTar(f"the tar ends inside the header at byte {at}: it is truncated")
            raise self._explained(error)
        if self._zeros < 0:
            self._zeros = at
        self.at = self._offset = at + len(data)

    def _explained(self, error: BadTar) -> BadTar:
        """Where it stands behind the end of an archive, that is what matters."""
        if self._zeros < 0:
            return error
        message = f"the archive ends at byte {self._zeros}, and what follows at byte {self.at} is no tar"
        return BadTar(f"{message} ({error})", "cut off what does not belong to the archive, or make it again")


def truncated(name: str, offset: int) -> BadTar:
    return BadTar(f"the tar ends inside member {shown(name)} at byte {offset}: it is truncated")


def _name(data: bytes, at: int) -> str:
    name = data.partition(b"\0")[0]
    if len(name) > MAX_NAME:
        raise BadTar(f"the extended header at byte {at} has a name of {len(name)} bytes; {MAX_NAME} are allowed")
    return name.decode("utf-8", "surrogateescape")
