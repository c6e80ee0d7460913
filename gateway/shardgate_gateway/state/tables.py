"""The tables of the gateway's database, as the newest migration leaves them.

A new database is made from here at once; an older one gets here by the steps in `migrations/`, and a test shows that
both end the same. A new column needs a default, because gateways of the version before go on writing while the first
of the new version comes up.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 (SQLAlchemy reads the annotations)
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Float, ForeignKey, LargeBinary, String, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

REVISION = "0005"
"""The newest migration."""
SCHEMA_VERSION = 2
"""In `schema`, where gateways from before the migrations look: they know 1, and refuse all others."""

Key = String(1024).with_variant(String(1024, collation="C"), "postgresql")
"""Compared and sorted by bytes, as keys of buckets are."""


class Base(DeclarativeBase):
    """All tables hang here."""


class Revision(Base):
    """The migration that this database is at; alembic's own table."""

    __tablename__ = "alembic_version"

    version_num: Mapped[str] = mapped_column(String(32), primary_key=True)


class Schema(Base):
    __tablename__ = "schema"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class TransformRow(Base):
    """One package under its content-addressed id. `options` change, and what its workers say of themselves."""

    __tablename__ = "transforms"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    package_key: Mapped[str] = mapped_column(String(160))
    package_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_by: Mapped[str] = mapped_column(String(255), server_default="")
    environment: Mapped[dict[str, str]] = mapped_column(JSON, default=dict, server_default="{}")
    is_random: Mapped[bool] = mapped_column(default=False, server_default=false())
    is_unstable: Mapped[bool] = mapped_column(default=False, server_default=false())


class AliasRow(Base):
    """What a name means now."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    transform_id: Mapped[str] = mapped_column(ForeignKey("transforms.id", ondelete="CASCADE"), index=True)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class StatsRow(Base):
    """Sums over all jobs of a transform: the fields of `wire.Stats`, and how its requests and workers ended."""

    __tablename__ = "stats"

    transform_id: Mapped[str] = mapped_column(ForeignKey("transforms.id", ondelete="CASCADE"), primary_key=True)
    samples_in: Mapped[int] = mapped_column(BigInteger, default=0)
    samples_out: Mapped[int] = mapped_column(BigInteger, default=0)
    samples_skipped: Mapped[int] = mapped_column(BigInteger, default=0)
    samples_gaps: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    samples_random: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    samples_unstable: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    bytes_in: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_out: Mapped[int] = mapped_column(BigInteger, default=0)
    fetch_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    decode_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    function_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    encode_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    completed: Mapped[int] = mapped_column(BigInteger, default=0)
    failed: Mapped[int] = mapped_column(BigInteger, default=0)
    abandoned: Mapped[int] = mapped_column(BigInteger, default=0)
    released: Mapped[int] = mapped_column(BigInteger, default=0)
    lost: Mapped[int] = mapped_column(BigInteger, default=0)


class InstallationRow(Base):
    """A name of this database's own, which what is stored outside of it bears."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(32))


class PayloadRow(Base):
    """What is stored under a key; see `payloads.py`."""

    __tablename__ = "payloads"

    key: Mapped[str] = mapped_column(Key, primary_key=True)
    version: Mapped[str] = mapped_column(String(32))
    size: Mapped[int] = mapped_column(BigInteger)
    content_type: Mapped[str | None] = mapped_column(String(255))
    stored_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ChunkRow(Base):
    """A stretch of the bytes of one version."""

    __tablename__ = "payload_chunks"

    version: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    written_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
