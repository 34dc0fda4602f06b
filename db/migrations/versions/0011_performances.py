"""Work items of other systems that this node performs"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op

import db.types

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _moment(name: str, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, db.types.UtcDateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length) if length else sa.Text(), nullable=False)


def _list(name: str) -> sa.Column[list[str]]:
    return sa.Column(name, sa.JSON(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "performances",
        sa.Column("id", _KEY, nullable=False),
        _text("manager", 64),
        _text("workitem_uid", 64),
        _text("transaction_uid", 64),
        _text("state", 20),
        _text("study_instance_uid", 64),
        _list("instances"),
        _text("patient_id"),
        _text("priority", 16),
        _list("workitem_code"),
        _list("station_code"),
        _text("reason"),
        _list("discontinuation"),
        _list("outputs"),
        sa.Column("progress", sa.Integer(), nullable=False),
        _moment("cancel_asked_at", nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _moment("next_attempt_at"),
        _moment("claimed_at"),
        _moment("held_at", nullable=True),
        _moment("decided_at", nullable=True),
        _moment("changed_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_performances")),
        sa.UniqueConstraint("manager", "workitem_uid", name=op.f("uq_performances_manager_workitem_uid")),
    )
    op.create_index(op.f("ix_performances_study_instance_uid"), "performances", ["study_instance_uid"])
    op.create_index(op.f("ix_performances_workitem_uid"), "performances", ["workitem_uid"])
    op.create_index(
        "ix_performances_manager_state_next_attempt_at", "performances", ["manager", "state", "next_attempt_at"]
    )


def downgrade() -> None:
    op.drop_table("performances")
