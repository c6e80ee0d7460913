"""What a transform's workers say of their environment, and counts of samples that another run may make differently."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("transforms", sa.Column("environment", sa.JSON(), server_default="{}", nullable=False))
    for name in ("is_random", "is_unstable"):
        op.add_column("transforms", sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False))
    for name in ("samples_gaps", "samples_random", "samples_unstable"):
        op.add_column("stats", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
