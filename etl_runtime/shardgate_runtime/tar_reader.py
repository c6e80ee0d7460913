"""Webdataset samples from sequential bytes, fast and suspicious.

The grammar of tars is `shardgate.tar`. `tarfile` costs 66 µs a member of 100 KB, takes a damaged header in the middle
of an archive for its end, and stops at the first zero block; this reader costs 5 µs, takes only the end of the input
for the end, and makes an error that names its byte of anything that is not a member.

Samples are grouped as webdataset groups them, and nothing that could be a part of one is lost without a word:

- A member that looks like a field and has no bytes here (a link, a device, a sparse file) is a problem of its sample.
- So is a member that is called like what webdataset itself puts into a sample: `__bad__` would make readers leave the
  sample out.
- A key that comes back behind other samples means a shard that is not sorted, whose samples would come in pieces: the
  shard is refused.
- Members whose names have no key or no field are passed over, which the log says; a shard of nothing else is refused.

A sample's bytes are read only once its first member's header has told that the sample before is complete, so there is
one sample in memory at a time. A job that continues a shard reads the headers before its place again, for the sake of
their keys.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardgate.tar import BadTar, Scanner, split_name
from shardgate.tar.errors import NOT_SPARSE, shown
from shardgate.tar.names import is_meta
from shardgate.tar.scanner import FILE, FOLDER, HARD_LINK, LABEL, SPARSE, SYMLINK, truncated
from shardgate_runtime.compressed import DecompressedInput, open_archive
from shardgate_runtime.failures import JobFailed, input_invalid
from shardgate_runtime.remembered_keys import RememberedKeys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate.tar import TarMember
    from shardgate_runtime.inputs import Input

log = logging.getLogger(__name__)

MAX_SAMPLE = 2 << 30
"""Bytes of the largest sample; it has to fit in a worker's memory."""
PASSED_OVER = frozenset((FOLDER, LABEL))
"""Kinds of members that are no field of a sample, whatever their names are."""

BAD = "__bad__"
"""The field by which webdataset's reader knows samples that it leaves out."""
NOT_READ = b"not read"
"""What stands in a sample that is passed over."""
UNSORTED_HINT = "the members of a sample must follow each other; make the shard with `tar --sort=name`"
NAME_HINT = "a member of a sample is called KEY.FIELD, like train/0001.jpg"
LINK_HINT = "make the shard with `tar --dereference --hard-dereference`, which stores files in place of links"
KIND_HINTS = {
    HARD_LINK: LINK_HINT,
    SYMLINK: LINK_HINT,
    SPARSE: NOT_SPARSE,
}


@dataclass(slots=True)
class RawSample:
    """Members that share a key, as webdataset groups them.

    Attributes:
        index: Position in the shard.
        offset: First byte of its first header.
        end: From where a job may continue behind it: the first byte of the next sample's first header, or of the end of
            the archive. 0 in compressed shards, which are read from the start again.
        fields: `__key__`, `__url__` and the raw bytes by lower-case extension.
        names: The extension as it is in the shard, of fields where it has capitals.
        problem: Why it can't be used, or "".
        hint: What helps against that.
    """

    index: int
    offset: int
    key: str
    end: int = 0
    fields: dict[str, str | bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    hint: str = ""

    def refuse(self, problem: str, hint: str) -> None:
        """Of several problems the first one is told."""
        if not self.problem:
            self.problem, self.hint = problem, hint


def read_samples(source: Input, url: str, index: int) -> Iterator[RawSample]:  # noqa: C901, PLR0912 (calls cost)
    """Yield the samples from number `index` on.

    A source that begins at the shard's first byte is read from there, and `index` samples are passed over. One that
    begins elsewhere begins with sample `index`, and what was before it is not known.

    Raises:
        JobFailed: The input is not a well-formed shard.
    """
    shard = _Shard(source, url, index)
    archive, sample, number, end = shard.archive, None, shard.first, 0
    remember, read = RememberedKeys().add, archive.read
    fields: dict[str, str | bytes] = {}
    for member in read_members(archive, shard.head):
        name, size, offset, _, end, kind, _ = member
        if kind is not FILE and kind in PASSED_OVER:
            continue
        split = split_name(name)
        if split is None or ("__" in name and is_meta(name)):
            shard.pass_over(name)
            continue
        key, extension = split
        if sample is None or key != sample.key:
            if sample is not None:
                number += 1
                if number > index:
                    sample.end = shard.place(offset)
                    yield sample
            before = remember(key, offset)
            if before is not None:
                raise _unsorted(key, before, name, offset)
            fields = {"__key__": key, "__url__": url}
            sample = RawSample(number, offset, key, fields=fields)
            total = 0
        total += size
        suffix = extension.lower()
        if extension != suffix:
            sample.names[suffix] = extension
        if kind is not FILE or suffix in fields or suffix == BAD or total > MAX_SAMPLE:
            _refuse(sample, member, suffix, total)
        elif number < index:
            fields[suffix] = NOT_READ
        else:
            fields[suffix] = data = read(size)
            if len(data) != size:
                raise _refused(truncated(name, offset))
            del data
    if sample is not None:
        number += 1
        if number > index:
            sample.end = shard.place(end)
            yield sample
    shard.finish(number, is_empty=sample is None)


class _Shard:
    """What is known of a shard beside the sample that is being read.

    Attributes:
        archive: The tar, decompressed; `head` was read of it already.
        first: Number of the first sample that will be met.
    """

    def __init__(self, source: Input, url: str, index: int) -> None:
        self._is_whole = source.position == 0
        self.first = 0 if self._is_whole else index
        self.archive, self.head = open_archive(source)
        self._is_compressed = isinstance(self.archive, DecompressedInput)
        self._url = url
        self._index = index
        self._nameless = 0
        self._first_nameless = ""

    def place(self, offset: int) -> int:
        """From where a job may continue."""
        return 0 if self._is_compressed else offset

    def pass_over(self, name: str) -> None:
        if not is_meta(name):
            self._nameless += 1
            self._first_nameless = self._first_nameless or shown(name)

    def finish(self, number: int, *, is_empty: bool) -> None:
        """Look at what a shard of so many samples was; `is_empty` if no member was of a sample."""
        if number < self._index:
            message = f"the shard has {number} samples, and {self._index} were read of it before"
            raise input_invalid(message, "it was overwritten; read it again")
        if self._nameless:
            names = f"{self._nameless} members without a key and a field, the first is {self._first_nameless}"
            if self._is_whole and is_empty:
                raise input_invalid(f"the shard has no samples, only {names}", NAME_HINT)
            log.warning("%s: passed over %s; %s", self._url, names, NAME_HINT)


def _unsorted(key: str, before: int, name: str, offset: int) -> JobFailed:
    message = f"sample {shown(key)} began at byte {before}, and {shown(name)} at byte {offset} belongs to it"
    return input_invalid(f"{message}, with other samples in between", UNSORTED_HINT)


def _refuse(sample: RawSample, member: TarMember, suffix: str, total: int) -> None:
    """Say why this member can't be a field of its sample. Raises JobFailed if no memory could hold it."""
    if total > MAX_SAMPLE:
        message = f"sample {sample.index} ({shown(sample.key)}) has more than the {MAX_SAMPLE} bytes that it may have"
        raise input_invalid(message, "make smaller samples")
    if member.kind != FILE:
        sample.refuse(_not_a_file(member), KIND_HINTS.get(member.kind, "store it as a file, or leave it out"))
        return
    if suffix == BAD:
        message = f"member {shown(member.name)} at byte {member.offset} marks its sample as one that readers leave out"
        sample.refuse(message, "leave the whole sample out of the shard, or this member")
        return
    problem = f"two members of the sample are named {shown(suffix)}, the second is {shown(member.name)}"
    sample.refuse(f"{problem} at byte {member.offset}", "names of fields are the same in upper and lower case")


def _not_a_file(member: TarMember) -> str:
    target = f" to {shown(member.link)}" if member.link and member.kind in KIND_HINTS else ""
    return f"member {shown(member.name)} at byte {member.offset} is a {member.kind}{target}, and not a file"


def read_members(source: Input, head: bytes = b"") -> Iterator[TarMember]:
    """Yield the members from the source's position on; their data may be read, or is skipped, before the next.

    Args:
        source: The tar.
        head: What was read of it already.

    Raises:
        JobFailed: The input is not a well-formed tar.
    """
    scanner = Scanner(source.position - len(head), source.size)
    feed, read = scanner.feed, source.read
    data = head or read(scanner.wanted)
    try:
        while not scanner.is_done:
            found = feed(data)
            if found is not None:
                yield found
                at = scanner.at
                if source.position != at and not source.skip_to(at):
                    raise truncated(found.name, found.offset)
            data = read(scanner.wanted)
    except BadTar as error:
        raise _refused(error) from None


def _refused(error: BadTar) -> JobFailed:
    return input_invalid(error.message, error.hint)
