"""BLAKE3 of what is received, beside the SHA-256 of what releases before took"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("instances", "refusals"):
        op.add_column(table, sa.Column("blake3", sa.String(length=64), nullable=False, server_default=""))


def downgrade() -> None:
    for table in ("instances", "refusals"):
        op.drop_column(table, "blake3")
