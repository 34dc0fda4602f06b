"""An index of what was set aside and is still here"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_IS_ASIDE = sa.text("path <> ''")


def upgrade() -> None:
    op.create_index(
        "ix_refusals_aside",
        "refusals",
        ["at", "size_bytes"],
        sqlite_where=_IS_ASIDE,
        postgresql_where=_IS_ASIDE,
    )


def downgrade() -> None:
    op.drop_index("ix_refusals_aside", table_name="refusals")
