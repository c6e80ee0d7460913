"""How transforms run."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from shardgate_gateway.settings.base import MIB, Group, Size


class EtlSettings(Group):
    """Transforms and the processes that run them."""

    runner: Literal["local", "kubernetes"] = Field(
        "local", description="Where workers run: `local` processes on this machine, or pods of a `kubernetes` cluster."
    )
    workers: int = Field(
        0, ge=0, description="Worker processes per transform; 0 takes the CPU quota of this machine or container."
    )
    python: str = Field("", description="Python interpreter of the workers; empty takes the gateway's own.")
    start_timeout: float = Field(
        120, gt=0, description="Seconds a runtime may take to import its package and become ready."
    )
    idle_seconds: float = Field(
        600, gt=0, description="Seconds without a request after which a transform's workers stop."
    )
    superseded_idle_seconds: float = Field(
        30,
        gt=0,
        description="The same for a version whose name means a newer one: it can still be read by its id, and is "
        "started again for that. A notebook makes a version each time a cell runs.",
    )
    ring_bytes: Size = Field(8 * MIB, ge=MIB, description="Bytes of shared memory between one worker and the gateway.")
    memory_bytes: Size = Field(
        0,
        ge=0,
        description="Bytes a worker may allocate beyond what the loaded package needs; "
        "0 takes 80 % of the memory, shared out.",
    )
    attempts: int = Field(4, ge=1, description="Workers that may be lost without progress before a shard is given up.")
    progress_timeout: float = Field(
        300,
        gt=0,
        description="Seconds without a finished sample after which a worker counts as hung. "
        "A transform's `sample_timeout` is the finer tool.",
    )
    release_seconds: float = Field(
        2,
        gt=0,
        description="A reader that takes no byte for so many seconds gives its worker back; "
        "the shard continues when it reads on.",
    )
    max_waiting: int = Field(
        256,
        ge=1,
        description="Requests per transform and process that may wait for a worker; more get 503 with Retry-After.",
    )
    queue_seconds: float = Field(
        120,
        gt=0,
        description="Seconds that a request may wait for its transform to start and for a worker; then 503 with "
        "Retry-After. Our client asks again, and keeps its place. Readers should allow a silence of more than this.",
    )
    args_bytes: Size = Field(4096, ge=0, description="Bytes of the `args` that a request may hand to its transform.")
    package_bytes: Size = Field(512 * MIB, ge=1, description="Bytes of the largest transform package accepted.")
    environment_bytes: Size = Field(
        8192 * MIB, ge=1, description="Bytes of the largest archive of installed requirements accepted."
    )
    small_result_bytes: Size = Field(
        16 * MIB, ge=0, description='Under `cache="auto"`, results up to this many bytes are kept at the first request.'
    )
