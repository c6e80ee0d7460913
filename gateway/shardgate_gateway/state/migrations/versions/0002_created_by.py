"""Who registered a transform. Gateways from before the migrations are told by `schema` to keep away from now on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("transforms", sa.Column("created_by", sa.String(255), server_default="", nullable=False))
    op.execute("UPDATE schema SET version = 2")
