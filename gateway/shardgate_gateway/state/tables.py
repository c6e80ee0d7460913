"""The tables of the gateway's database.

Bodies are not here: a transform's package is an object in a store, and its row names that object. `schema` has one row,
the version of this layout; a database that a newer gateway wrote is refused rather than guessed at.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 (SQLAlchemy reads the annotations)
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 1


class Base(DeclarativeBase):
    """All tables hang here."""


class Schema(Base):
    __tablename__ = "schema"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class TransformRow(Base):
    """One package under its content-addressed id. Only `options` ever changes."""

    __tablename__ = "transforms"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    package_key: Mapped[str] = mapped_column(String(160))
    package_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


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
    bytes_in: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_out: Mapped[int] = mapped_column(BigInteger, default=0)
    fetch_seconds: Mapped[float] = mapped_column(default=0.0)
    decode_seconds: Mapped[float] = mapped_column(default=0.0)
    function_seconds: Mapped[float] = mapped_column(default=0.0)
    encode_seconds: Mapped[float] = mapped_column(default=0.0)
    completed: Mapped[int] = mapped_column(BigInteger, default=0)
    failed: Mapped[int] = mapped_column(BigInteger, default=0)
    abandoned: Mapped[int] = mapped_column(BigInteger, default=0)
    released: Mapped[int] = mapped_column(BigInteger, default=0)
    lost: Mapped[int] = mapped_column(BigInteger, default=0)
