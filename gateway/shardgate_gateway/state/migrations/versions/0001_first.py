"""The tables of the first version, as it made them without alembic."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

COUNTS = ("samples_in", "samples_out", "samples_skipped", "bytes_in", "bytes_out")
SECONDS = ("fetch_seconds", "decode_seconds", "function_seconds", "encode_seconds")
OUTCOMES = ("completed", "failed", "abandoned", "released", "lost")


def upgrade() -> None:
    schema = op.create_table(
        "schema", sa.Column("id", sa.Integer, primary_key=True), sa.Column("version", sa.Integer, nullable=False)
    )
    op.bulk_insert(schema, [{"id": 1, "version": 1}])
    op.create_table(
        "transforms",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, index=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.JSON, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("package_key", sa.String(160), nullable=False),
        sa.Column("package_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column(
            "transform_id",
            sa.String(80),
            sa.ForeignKey("transforms.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "stats",
        sa.Column("transform_id", sa.String(80), sa.ForeignKey("transforms.id", ondelete="CASCADE"), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTS),
        *(sa.Column(name, sa.Float, nullable=False) for name in SECONDS),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in OUTCOMES),
    )
