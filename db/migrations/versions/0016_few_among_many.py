"""Indexes of what lies in quarantine, of what waits, and of what took a revision's place"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_revisions_supersedes_id", "revisions", ["supersedes_id"])
    for name, table, column, state in (
        ("ix_instances_quarantined", "instances", "size_bytes", "QUARANTINED"),
        ("ix_jobs_queued", "jobs", "available_at", "QUEUED"),
    ):
        condition = sa.text(f"state = '{state}'")
        op.create_index(name, table, [column], sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    op.drop_index("ix_jobs_queued", table_name="jobs")
    op.drop_index("ix_instances_quarantined", table_name="instances")
    op.drop_index("ix_revisions_supersedes_id", table_name="revisions")
