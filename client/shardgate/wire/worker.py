"""The worker protocol: what gateway and ETL worker say to each other.

Gateway and ETL worker talk over one stream socket (Unix or TCP) per shard, in frames:
one byte type, four bytes little-endian payload length, payload. The gateway sends JOB once and then ACK; the worker
answers HELLO, any number of SPAN or DATA, and exactly one of END and FAIL. A connection that closes without END or
FAIL is a lost worker. So the end of a shard is always said, never inferred.

SPAN points into a shared-memory ring (a memfd that came with HELLO) and DATA carries the bytes themselves; both begin
with a checkpoint: after these bytes, the next sample to run is `next_sample`, its first input byte is `next_input`, and
`whole` tells whether another worker may begin there. It may not inside of a sample, nor behind one with a key that the
function made up, since only this worker knows which keys came; the end-of-archive blocks count as such bytes. What a
reader has after the last whole checkpoint comes again, and the gateway compares and drops it. END says how long the
result is, which the gateway compares with what it got.

The payloads of JOB, HELLO, END and FAIL are records (`shardgate.records`). JOB and HELLO carry `PROTOCOL`, and either
side refuses a version that it does not speak, by FAIL with words.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import NamedTuple

from shardgate.records import RecordError, pack_record, unpack_record
from shardgate.text import safe_line, safe_text
from shardgate.wire.headers import PLACE_HEADER, STAGES_HEADER


class FrameType(IntEnum):
    JOB = 1
    ACK = 2
    HELLO = 3
    SPAN = 4
    DATA = 5
    END = 6
    FAIL = 7


FRAME = struct.Struct("<BI")
"""Type, payload length."""
CHECKPOINT = struct.Struct("<QQ??")
"""next_sample, next_input, whole, gap: the first 18 bytes of every SPAN and DATA payload."""
SPAN = struct.Struct("<QI")
"""Offset into the ring, length: follows the checkpoint in a SPAN."""
ACK = struct.Struct("<Q")
"""Bytes consumed since the start of the connection; the worker may overwrite their place in the ring."""
MAX_FRAME = 4 << 20
"""No frame's payload is larger; a larger one is a protocol error."""


class Checkpoint(NamedTuple):
    """Where another worker could begin. `gap`: a sample of this job was left out before, for a cause that may pass."""

    next_sample: int = 0
    next_input: int = 0
    whole: bool = True
    gap: bool = False


PROTOCOL = 2
"""Version of the worker protocol. Raised when one side could misunderstand the other; a new field alone needs none."""


def protocol_problem(version: int) -> str:
    """Why a peer that speaks this version is refused; "" if it is not."""
    if version == PROTOCOL:
        return ""
    return f"version {version} of the worker protocol is spoken there, and version {PROTOCOL} here"


@dataclass(frozen=True, slots=True)
class Job:
    """One shard, or the rest of one, for one worker.

    Attributes:
        request_id: The GET this is for; names its work in logs and in reports of dead workers.
        transform_id: Must be the one that the worker was started with.
        bucket, key, etag: The object version, for seeds and messages.
        match: The ETag header by which `url` has to answer; "" where any version will do.
        url: Where to read the raw shard, or "" when an open file descriptor comes with the JOB frame (SCM_RIGHTS).
        token: Bearer token for `url`, or "".
        input_offset, input_size: With a file descriptor: where the shard lies in the file, in bytes.
        seed, epoch: Part of the randomness of every sample.
        args: The request's `args`, as the function gets them.
        sample, input: Begin with this sample, whose first tar block is at this byte of the shard.
        output: Bytes of the whole output that come before those of `sample` (the checkpoint's place in the response);
            the padding at the end of a tar depends on it.
        poison: Samples that are not to be run again, index to reason; the error policy treats them.
        careful: Report every sample by itself, so that a dying worker leaves no doubt about the sample.
        ring: The gateway shares memory with the worker and takes SPAN frames.
        once: Reading `url` again need not give the same bytes: it is never continued in the middle.
        stages: How many stages the pipeline has whose earlier ones make what `url` gives; 0 if that is a raw object.
        place: To go along as `PLACE_HEADER` with the GET of such a `url`.
        probe: Nothing is to be done: HELLO alone is wanted.
        version: Of the worker protocol; 1 did not say so.
    """

    request_id: str
    transform_id: str
    bucket: str
    key: str
    etag: str
    url: str = ""
    token: str = ""
    input_offset: int = 0
    input_size: int = 0
    seed: int = 0
    epoch: int = 0
    args: str = ""
    sample: int = 0
    input: int = 0
    output: int = 0
    poison: dict[int, str] = field(default_factory=dict)
    careful: bool = False
    ring: bool = False
    once: bool = False
    stages: int = 0
    place: str = ""
    match: str = ""
    probe: bool = False
    version: int = 1

    def pack(self) -> bytes:
        return pack_record(replace(self, version=PROTOCOL))

    @classmethod
    def unpack(cls, payload: bytes | bytearray) -> Job:
        return unpack_record(cls, payload)


@dataclass(frozen=True, slots=True)
class Death:
    """How the worker that had a request before died.

    Attributes:
        sample: Index of the sample that it was at, None where nobody knows. key: its name.
        reason: "killed by SIGSEGV", "sample timeout after 5 s", ...
        deterministic: The sample is the cause for certain.
    """

    sample: int | None = None
    key: str = ""
    reason: str = ""
    deterministic: bool = False

    def safe(self) -> Death:
        return replace(self, key=safe_line(self.key, MAX_KEY), reason=safe_line(self.reason, MAX_HINT))


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker took the job.

    Attributes:
        worker: Name of the worker (pod and number) for messages.
        ring_size: Bytes of the memfd that came along, 0 without one.
        content_type: Of what follows.
        death: How the worker that had this request before died, where its parent knows.
        environment: What the bytes of a result depend on beside the package and the request: versions of Python, of
            the package's requirements as they are installed, and of this runtime's result format.
        reproducible: A sample that was run twice gave the same bytes.
        version: Of the worker protocol; 1 did not say so.
    """

    worker: str = ""
    ring_size: int = 0
    content_type: str = "application/x-tar"
    death: Death | None = None
    environment: dict[str, str] = field(default_factory=dict)
    reproducible: bool = True
    version: int = 1

    def pack(self) -> bytes:
        return pack_record(replace(self, death=self.death.safe() if self.death else None, version=PROTOCOL))

    @classmethod
    def unpack(cls, payload: bytes | bytearray) -> Hello:
        hello = unpack_record(cls, payload)
        if len(hello.environment) > MAX_ENVIRONMENT:
            raise RecordError(
                f"Hello.environment: it has {len(hello.environment)} entries, more than {MAX_ENVIRONMENT}"
            )
        return replace(
            hello,
            worker=safe_line(hello.worker, 200),
            death=hello.death.safe() if hello.death else None,
            environment={
                safe_line(name, MAX_FACT): safe_line(value, MAX_FACT) for name, value in hello.environment.items()
            },
        )


@dataclass(slots=True)
class Stats:
    """What a worker did for one job; sums over jobs make a transform's stats. Times are seconds of wall clock.

    On a failed or abandoned job the counts tell what was done until then.

    Attributes:
        samples_skipped: Samples of which nothing came.
        samples_gaps: Those among them that were left out for a cause that may pass: time, memory, a dead worker. Those
            that the stage before left out count, too.
        samples_random: Samples that drew random numbers, of those that were looked at.
        samples_unstable: Samples that were run twice and gave other bytes the second time.
    """

    samples_in: int = 0
    samples_out: int = 0
    samples_skipped: int = 0
    samples_gaps: int = 0
    samples_random: int = 0
    samples_unstable: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    fetch_seconds: float = 0.0
    decode_seconds: float = 0.0
    function_seconds: float = 0.0
    encode_seconds: float = 0.0

    def add(self, other: Stats) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def safe(self) -> Stats:
        """With 0 for times that can't be: user code may replace the clocks of its process."""
        safe = replace(self)
        for f in fields(self):
            if f.name.endswith("_seconds") and not 0 <= getattr(self, f.name) < math.inf:
                setattr(safe, f.name, 0.0)
        return safe


@dataclass(frozen=True, slots=True)
class End:
    """The payload of END: the result is complete.

    Attributes:
        total: Bytes of the whole result, with those before the job's `sample`.
        stats: Of the job.
    """

    total: int
    stats: Stats = field(default_factory=Stats)

    def pack(self) -> bytes:
        return pack_record(replace(self, stats=self.stats.safe()))

    @classmethod
    def unpack(cls, payload: bytes | bytearray) -> End:
        return unpack_record(cls, payload)


MAX_ENVIRONMENT = 128
"""Entries of HELLO's environment, which the gateway keeps in its database."""
MAX_FACT = 200
"""Characters of each name and value there."""
MAX_HINT = 1024
MAX_KEY = 1024
MAX_TRACEBACK = 16 << 10
"""Characters of texts in FAIL and HELLO."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The payload of FAIL: why the shard can't be finished. Its texts are made safe and short on either side.

    Attributes:
        code: `sample_failed` (user code), `input_invalid` (the raw shard is no good tar), `input_unavailable` (it could
            not be read; another try may help), `stage_failed` (an earlier stage of the pipeline failed, and would
            again), `stage_busy` (an earlier stage has no worker free), `internal`.
        message: Names shard, sample and cause.
        hint: What to do.
        sample: Index in the shard, where one is to blame. key: its name.
        traceback: Of the user's function.
        stats: Of the job.
    """

    code: str
    message: str
    hint: str = ""
    sample: int | None = None
    key: str = ""
    traceback: str = ""
    stats: Stats = field(default_factory=Stats)

    def safe(self) -> Failure:
        return replace(
            self,
            code=safe_line(self.code, 40),
            message=safe_text(self.message),
            hint=safe_text(self.hint, MAX_HINT),
            key=safe_line(self.key, MAX_KEY),
            traceback=safe_text(self.traceback[-MAX_TRACEBACK:], MAX_TRACEBACK),
            stats=self.stats.safe(),
        )

    def pack(self) -> bytes:
        return pack_record(self.safe())

    @classmethod
    def unpack(cls, payload: bytes | bytearray) -> Failure:
        return unpack_record(cls, payload).safe()


def stage_headers(job: Job) -> dict[str, str]:
    """What the GET of a job's `url` says if that is the result of an earlier stage."""
    if not job.stages:
        return {}
    place = {PLACE_HEADER: job.place} if job.place else {}
    return {STAGES_HEADER: f"{job.stages} {job.transform_id}", **place}


_REPEATED = ("sample_failed", "transform_failed", "transform_start_failed", "bad_request", "not_found")
"""Problems of an earlier stage that another try would only repeat."""


def refused_input(url: str, stages: int, status: int, body: bytes) -> Failure:
    """What it means for a job that the GET of its `url` was answered with this status and (the beginning of a) body."""
    try:
        problem = json.loads(body)
        code, message, hint = problem["code"], problem["message"], problem.get("hint", "")
    except (ValueError, TypeError, KeyError):  # another server's may be anything
        code, message, hint = "", body.decode(errors="replace"), ""
    if stages and code in _REPEATED:
        return Failure("stage_failed", message, hint)
    if stages and code == "busy":
        return Failure("stage_busy", message, hint)
    return Failure("input_unavailable", f"{url} answered {status}: {message}", "reading it again may help")


def pack_frame(kind: FrameType, payload: bytes = b"") -> bytes:
    return FRAME.pack(kind, len(payload)) + payload
