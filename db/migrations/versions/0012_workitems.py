"""work items: Unified Procedure Steps, who is told of them, what is to be told"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op

import db.types

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _moment(name: str, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, db.types.UtcDateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length) if length else sa.Text(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "workitems",
        sa.Column("id", _KEY, nullable=False),
        _text("sop_instance_uid", 64),
        _text("state", 20),
        _text("priority", 16),
        _text("study_instance_uid", 64),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        _text("transaction_uid", 64),
        _text("performer", 16),
        _text("created_by", 16),
        _text("reason"),
        _moment("check_at"),
        _moment("expires_at", nullable=True),
        _moment("created_at"),
        _moment("changed_at"),
        _moment("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitems")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_workitems_sop_instance_uid")),
    )
    op.create_index("ix_workitems_state_check_at", "workitems", ["state", "check_at"])
    op.create_index(op.f("ix_workitems_study_instance_uid"), "workitems", ["study_instance_uid"])
    op.create_index(op.f("ix_workitems_ended_at"), "workitems", ["ended_at"])
    op.create_table(
        "workitem_subscriptions",
        sa.Column("workitem_id", _KEY, nullable=False),
        _text("ae_title", 16),
        sa.Column("deletion_lock", sa.Boolean(), nullable=False),
        _moment("since"),
        sa.ForeignKeyConstraint(
            ["workitem_id"], ["workitems.id"], name=op.f("fk_workitem_subscriptions_workitem_id_workitems")
        ),
        sa.PrimaryKeyConstraint("workitem_id", "ae_title", name=op.f("pk_workitem_subscriptions")),
    )
    op.create_index(op.f("ix_workitem_subscriptions_ae_title"), "workitem_subscriptions", ["ae_title"])
    op.create_table(
        "workitem_subscribers",
        _text("ae_title", 16),
        sa.Column("deletion_lock", sa.Boolean(), nullable=False),
        sa.Column("matching", sa.JSON(), nullable=False),
        _moment("since"),
        sa.PrimaryKeyConstraint("ae_title", name=op.f("pk_workitem_subscribers")),
    )
    op.create_table(
        "workitem_tidings",
        sa.Column("id", _KEY, nullable=False),
        _text("ae_title", 16),
        _text("sop_instance_uid", 64),
        sa.Column("event_type", sa.Integer(), nullable=False),
        sa.Column("information", sa.JSON(), nullable=False),
        _text("state", 20),
        _text("reason"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _text("lease_owner", 128),
        _moment("next_attempt_at"),
        _moment("created_at"),
        _moment("changed_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem_tidings")),
    )
    op.create_index("ix_workitem_tidings_state_ae_title_id", "workitem_tidings", ["state", "ae_title", "id"])
    op.create_index(op.f("ix_workitem_tidings_changed_at"), "workitem_tidings", ["changed_at"])


def downgrade() -> None:
    for table in ("workitem_tidings", "workitem_subscribers", "workitem_subscriptions", "workitems"):
        op.drop_table(table)
