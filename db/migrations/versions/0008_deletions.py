"""deletions: what is being removed, and what was"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import db.types

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_index("ix_studies_state_last_received_at", "studies", ["state", "last_received_at"])
    op.add_column("refusals", sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("results", sa.Column("deleted_at", db.types.UtcDateTime(timezone=True), nullable=True))
    op.create_index("ix_results_deleted_at_created_at", "results", ["deleted_at", "created_at"])
    op.create_table(
        "deletions",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("scope", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("study_id", _KEY, nullable=True),
        sa.Column("study_instance_uid", sa.String(length=128), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("paths", sa.JSON(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("begun_at", db.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("finished_at", db.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=False),
        sa.Column("lease_until", db.types.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_deletions_study_id_studies")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deletions")),
    )
    op.create_index("ix_deletions_state", "deletions", ["state"])
    op.create_index("ix_deletions_study_id", "deletions", ["study_id"])


def downgrade() -> None:
    op.drop_table("deletions")
    op.drop_index("ix_results_deleted_at_created_at", "results")
    op.drop_column("results", "deleted_at")
    op.drop_column("refusals", "size_bytes")
    op.drop_index("ix_studies_state_last_received_at", "studies")
