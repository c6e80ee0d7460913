"""A bucket that is a folder on this machine, file by file.

The file system is asked directly, not through obstore, whose local store lists in no order, follows symbolic links out
of the folder, keeps no key like `a#1` or `a:`, and can't say whether a file was changed while it was being read.

- *Version.* The etag is made of inode, modification time, change time (both in ns) and size. Programs set the
  modification time as they like (`tar -x`, `cp -p`, `rsync -t`), and an inode is given out again; only the kernel sets
  the change time. They are compared once more after the last byte was read, so a file that was written to in the
  meantime raises GenerationChanged. A writer that replaces files by rename disturbs nobody.
- *PUT* writes a hidden file beside its target, flushes it, and renames it. A crash leaves at most that hidden file.
- *Links.* Who reads a symbolic link gets what it leads to, as long as that lies within the folder; a link that leads
  out of it is Forbidden, and not listed. A write is to the key that it names, and changes no other one: PUT replaces
  the link, DELETE removes it, and a key below a link to a folder can't be written. The folder itself may be a link.
- *Names.* An object `a` and an object `a/b` exclude each other here, unlike in S3: Conflict. Listed are regular files
  with UTF-8 names, sorted by key like everywhere.

File calls block, so they run in threads, one per MiB.
"""

# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH112, PTH113, PTH116, PTH120
# Descriptors, O_ flags and real paths are what this file is about; pathlib has none of them.

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from shardgate_gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GenerationChanged,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
)
from shardgate_gateway.stores.base import ListPage, ObjectMeta, ObjectStream, Store
from shardgate_gateway.stores.keys import check_key, is_key
from shardgate_gateway.stores.listing import fold
from shardgate_gateway.stores.translate import NAMES, Body, storing, translating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

P = ParamSpec("P")
R = TypeVar("R")

CHUNK = 1 << 20
HIDDEN = ".shardgate-upload-"
"""Files whose name starts so are uploads on their way."""
PUT_ATTEMPTS = 10
"""A DELETE may remove the folder that a PUT just made; the PUT makes it again."""


class LocalFolder(Store):
    """One folder. `label` is `provider://name`, for messages; what a `private` one holds its owner alone may read."""

    def __init__(self, folder: Path, *, label: str, private: bool = False) -> None:
        self._folder = folder
        self._file_mode, self._folder_mode = (0o600, 0o700) if private else (0o644, 0o777)
        self._label = label

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str | None = None
    ) -> ObjectStream:
        self._check(key)
        name = self._name(key)
        if end is not None and end <= start:
            raise BadRequest(f"the range {start}-{end} of {name} is empty")
        with _reading(name):
            fd = await _acquire(os.close, self._open, key)
        chunks = _Chunks(fd, key, name)
        meta, size = chunks.meta, chunks.size
        if if_match not in {None, meta.etag}:
            await chunks.aclose()
            raise PreconditionFailed(f"{name} has the etag {meta.etag} now, not {if_match}")
        if start >= size and (start or end is not None):
            await chunks.aclose()
            raise RangeNotSatisfiable(f"{name} has no byte {start}", size=size)
        chunks.offset, chunks.end = start, size if end is None else min(end, size)
        return ObjectStream(meta, chunks.offset, chunks.end, chunks)

    async def head(self, key: str) -> ObjectMeta:
        self._check(key)
        with _reading(self._name(key)):
            fd = await _acquire(os.close, self._open, key)
        try:
            return _meta(key, os.fstat(fd))
        finally:
            os.close(fd)

    async def put(
        self,
        key: str,
        body: AsyncIterator[bytes],
        *,
        size: int | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> ObjectMeta:
        self._check(key)
        source = Body(body)
        with storing(source, self._name(key)):
            upload = await _acquire(_discard, self._begin, key)
            try:
                async for chunk in source:
                    await _in_thread(_write_all, upload.fd, chunk)
                return _meta(key, await _in_thread(_publish, upload))
            finally:
                await _in_thread(_discard, upload)

    async def delete(self, key: str) -> None:
        self._check(key)
        with _reading(self._name(key)):
            await _in_thread(self._remove, key)

    async def list(
        self, prefix: str = "", *, token: str | None = None, limit: int = 1000, delimiter: bool = False
    ) -> ListPage:
        def read() -> list[Found]:
            root = self._root()
            self._check_root(root)
            return [*islice(_walk(Wanted(root, prefix, token or "", delimiter), root, "", (root,)), limit + 1)]

        with translating(f"{self._label}/{prefix}"):
            found = await _in_thread(read)
        return ListPage(
            objects=tuple(_meta(item.key, item.status) for item in found[:limit] if item.status),
            prefixes=tuple(item.key for item in found[:limit] if not item.status),
            token=found[limit - 1].key if len(found) > limit else None,
        )

    def _name(self, key: str) -> str:
        return f"{self._label}/{key}"

    def _check(self, key: str) -> None:
        check_key(key)
        if any(part.startswith(HIDDEN) for part in key.split("/")):
            raise BadRequest(f"{key!r} can't name an object in a folder", hint=f"{HIDDEN}... are unfinished uploads")

    def _root(self) -> str:
        return os.path.realpath(self._folder)

    def _check_root(self, root: str) -> None:
        """A folder that is not there is empty, and the first PUT makes it; a file in its place is a wrong setting."""
        if not os.path.isdir(root) and os.path.lexists(root):
            raise NotFound(f"{self._label}: its location is no folder", hint="set the bucket's `where` to a folder")

    def _path(self, key: str) -> str:
        """Where the key really is."""
        root = self._root()
        path = os.path.realpath(f"{root}/{key}")
        if not path.startswith(root.rstrip("/") + "/"):
            raise Forbidden(
                f"{self._name(key)} is a symbolic link that leads out of the bucket's folder",
                hint="put the bucket's folder where the link leads, or configure that place as a bucket of its own",
            )
        return path

    def _own_path(self, key: str) -> str:
        """Where the key itself stands, which may be a link; only its folder must be what it seems."""
        self._path(key)
        path = f"{self._root()}/{key}"
        if os.path.realpath(folder := os.path.dirname(path)) != folder:
            raise Forbidden(
                f"{self._name(key)} lies behind a symbolic link to another folder of the bucket",
                hint="use the key that the link leads to",
            )
        return path

    def _open(self, key: str) -> int:
        path = self._path(key)
        self._check_regular(key, os.stat(path, follow_symlinks=False))  # opening a device may do something to it
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            self._check_regular(key, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_regular(self, key: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise NotFound(f"{self._name(key)} is no file")

    def _begin(self, key: str) -> Upload:
        self._check_root(self._root())
        target = self._own_path(key)
        if os.path.isdir(target):
            raise Conflict(f"{self._name(key)} is a folder", hint=NAMES)
        folder = os.path.dirname(target)
        for _ in range(PUT_ATTEMPTS):
            hidden = f"{folder}/{HIDDEN}{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):  # who removes the last object beside it removes the folder, too
                _make_folders(folder, self._folder_mode)
                return Upload(
                    os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._file_mode),
                    hidden,
                    target,
                )
        raise Conflict(f"{self._name(key)}: its folder is removed again and again")

    def _remove(self, key: str) -> None:
        """Also the folders that this leaves empty: they are no objects, and would exclude an object of their name."""
        root, path = self._root(), self._own_path(key)
        self._check_regular(key, os.stat(path))
        os.unlink(path)
        with suppress(OSError):
            while (path := os.path.dirname(path)) != root:
                os.rmdir(path)


def _make_folders(folder: str, mode: int) -> None:
    """Make it and those above it; `os.makedirs` would give its mode to the last one alone."""
    if not os.path.isdir(folder):
        _make_folders(os.path.dirname(folder), mode)
        try:
            os.mkdir(folder, mode)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise


class Upload(NamedTuple):
    fd: int
    hidden: str
    target: str


class Wanted(NamedTuple):
    """What a listing is about."""

    root: str
    prefix: str
    after: str
    delimiter: bool


class Found(NamedTuple):
    """An object, or (without `status`) a folded folder."""

    key: str
    status: os.stat_result | None


class _Chunks:
    """The bytes of one open file, and a last look at whether it is still the same version."""

    def __init__(self, fd: int, key: str, name: str) -> None:
        self._fd = fd
        self._status = os.fstat(fd)
        self.meta = _meta(key, self._status)
        self.size = self._status.st_size
        self.offset = self.end = 0
        self._name = name

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        if self._fd < 0 or self.offset >= self.end:
            raise StopAsyncIteration
        with translating(self._name):
            chunk = await _in_thread(os.pread, self._fd, min(CHUNK, self.end - self.offset), self.offset)
        self.offset += len(chunk)
        if not chunk or (self.offset == self.end and _was_written(self._status, os.fstat(self._fd))):
            raise GenerationChanged(
                f"{self._name} was written to while it was being read", hint="replace files by rename, never in place"
            )
        return chunk

    async def aclose(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _walk(wanted: Wanted, folder: str, base: str, chain: tuple[str, ...]) -> Iterator[Found]:
    """Objects below a folder in order of their keys, without reading subfolders that can't hold any that is wanted.

    `base` is the folder's key, `chain` the real folders from the root to here, in which a link would be a circle.
    """
    for name, path in _children(folder, wanted.root, chain):
        key = base + name
        if name.endswith("/"):
            related = key.startswith(wanted.prefix) or wanted.prefix.startswith(key)
            behind = key > wanted.after or wanted.after.startswith(key)
            if not related or not behind or not is_key(key[:-1]):
                continue
            below = _walk(wanted, path, key, (*chain, path))
            if wanted.delimiter and fold(key, wanted.prefix):
                if key > wanted.after and next(below, None):
                    yield Found(key, None)
            else:
                yield from below
        elif key.startswith(wanted.prefix) and key > wanted.after and is_key(key):
            with suppress(FileNotFoundError):
                yield Found(key, os.stat(path))


def _children(folder: str, root: str, chain: tuple[str, ...]) -> list[tuple[str, str]]:
    """Names and real paths in a folder, sorted as their keys are: a folder sorts with its slash."""
    children = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            linked = entry.is_symlink()
            path = os.path.realpath(entry.path) if linked else entry.path
            if entry.name.startswith(HIDDEN) or path in chain or not path.startswith(root.rstrip("/") + "/"):
                continue
            if os.path.isdir(path) if linked else entry.is_dir():
                children.append((entry.name + "/", path))
            elif os.path.isfile(path) if linked else entry.is_file():
                children.append((entry.name, path))
    return sorted(children)


def _meta(key: str, status: os.stat_result) -> ObjectMeta:
    return ObjectMeta(
        key=key,
        size=status.st_size,
        etag=f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}",
        last_modified=datetime.fromtimestamp(status.st_mtime, UTC),
    )


def _was_written(before: os.stat_result, now: os.stat_result) -> bool:
    """Whether an open file may hold other bytes now; a name that it got or lost moves its change time, too."""
    if (before.st_mtime_ns, before.st_size) != (now.st_mtime_ns, now.st_size):
        return True
    return before.st_nlink == now.st_nlink and before.st_ctime_ns != now.st_ctime_ns


def _write_all(fd: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _publish(upload: Upload) -> os.stat_result:
    """The file and then its name reach the disk, so that a PUT that was answered survives a power cut."""
    os.fsync(upload.fd)
    os.rename(upload.hidden, upload.target)
    folder = os.open(os.path.dirname(upload.target), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return os.fstat(upload.fd)


def _discard(upload: Upload) -> None:
    os.close(upload.fd)
    with suppress(FileNotFoundError):
        os.unlink(upload.hidden)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Where nothing is written, a name that is a folder, or lies below a file, is simply not there."""
    try:
        with translating(name):
            yield
    except Conflict:
        raise NotFound(f"{name} is no file") from None


async def _in_thread(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a file call in a thread, to its end even when we are cancelled: nobody may close its descriptor under it."""
    task = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    await _ended(task)
    return task.result()


async def _acquire(release: Callable[[R], object], call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`_in_thread` for a call whose result has to be released: when we are cancelled, nobody else could do so."""
    task = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        await _ended(task)
    except asyncio.CancelledError:
        if not task.cancelled() and task.exception() is None:
            release(task.result())
        raise
    return task.result()


async def _ended(task: asyncio.Future[R]) -> None:
    """Wait until a task has ended, and only then be cancelled."""
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
