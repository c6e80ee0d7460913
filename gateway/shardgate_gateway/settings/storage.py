"""The cache, the stores behind it, the buckets, and what survives a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from shardgate_gateway.settings.base import MIB, Folder, Group, Size


class CacheSettings(Group):
    """The disk cache in front of the buckets."""

    dir: Folder = Field(
        Path("~/.cache/shardgate/objects"), description="Folder of this node's cache; one disk, one gateway."
    )
    capacity_bytes: Size = Field(
        0, ge=0, description="Bytes the cache may use; 0 takes 80 % of the disk's free space at start."
    )
    high_watermark: float = Field(0.95, gt=0, le=1, description="Share of the capacity at which eviction begins.")
    low_watermark: float = Field(0.85, gt=0, le=1, description="Share of the capacity at which eviction stops.")
    memory_bytes: Size = Field(
        64 * MIB,
        ge=0,
        description="Bytes of small objects and tar indexes that each worker process keeps in memory; each of them "
        "counts a KiB more.",
    )
    memory_object_bytes: Size = Field(256 << 10, ge=0, description="Bytes of the largest object kept in memory.")
    verify: Literal["first", "always", "never"] = Field(
        "first",
        description="When cached blocks are checked against their checksums: at the first read by each process and "
        "after any change of the file, at every read, or only by the scrubber.",
    )
    scrub_bytes_per_second: Size = Field(
        8 * MIB, ge=0, description="Bytes per second that the background scrubber re-verifies; 0 turns it off."
    )
    fsync: bool = Field(
        default=False,
        description="Flush each entry to the disk before it is published. Without it a power cut costs entries, "
        "never correctness: an entry that does not match its checksums is fetched again.",
    )
    part_bytes: Size = Field(8 * MIB, ge=64 << 10, description="Bytes per parallel range request of a large object.")
    parallel_parts: int = Field(4, ge=1, le=64, description="Range requests in flight for one large object.")
    parallel_from_bytes: Size = Field(
        64 * MIB, ge=0, description="Objects of at least this many bytes are fetched by parallel ranges."
    )

    @model_validator(mode="after")
    def _watermarks_in_order(self) -> CacheSettings:
        if self.low_watermark > self.high_watermark:
            raise ValueError("cache.low_watermark must not be above cache.high_watermark")
        return self


class UpstreamSettings(Group):
    """How remote stores are spoken to."""

    connect_timeout: float = Field(5, gt=0, description="Seconds to establish a connection.")
    progress_timeout: float = Field(
        30,
        gt=0,
        description="Seconds without a single byte after which a transfer counts as stalled. "
        "No limit covers a whole body.",
    )
    attempts: int = Field(5, ge=1, description="Tries per fetch, each resuming where the last one stopped.")
    backoff_seconds: float = Field(
        0.2, ge=0, description="Seconds before the second try; doubles, with jitter, up to 10."
    )


class StateSettings(Group):
    """What survives a restart."""

    dir: Folder = Field(
        Path("~/.local/share/shardgate"), description="Folder of the registry, the packages and the workers' logs."
    )
    database: str = Field(
        "",
        description="SQLAlchemy URL of the registry, like `postgresql://user:password@host/name`, which several "
        "gateways can share; empty is SQLite in `dir`.",
    )
    packages: str = Field(
        "",
        description="Bucket location (as in `buckets`) with the packages; empty is a folder in `dir` with SQLite, "
        "and rows of the database with PostgreSQL.",
    )


class BucketSettings(Group):
    """One bucket: `--bucket PROVIDER://NAME=WHERE`."""

    where: str = Field(
        description="Location: a folder, `s3://bucket?endpoint=...`, `gs://...`, `az://...`, `http://...`, `mem://`."
    )
    freshness: Literal["immutable", "revalidate", "always"] = Field(
        "revalidate",
        description="`immutable`: a cached object is never asked for again; `revalidate`: asked again after "
        "`revalidate_seconds`; `always`: asked at every read.",
    )
    revalidate_seconds: float = Field(
        60, ge=0, description="Seconds a cached object is served without asking the store."
    )
    read_only: bool = Field(default=False, description="Refuse PUT and DELETE.")
    allow_redirect_hosts: tuple[str, ...] = Field((), description="Other hosts an HTTP origin may redirect to.")
