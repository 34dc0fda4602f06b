"""orders of a worklist, notices that a study is done, commitments asked of this node"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op

import db.types

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _moment(name: str, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, db.types.UtcDateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length) if length else sa.Text(), nullable=False)


def upgrade() -> None:
    for column in ("patient_birth_date", "study_date"):
        op.add_column("studies", sa.Column(column, sa.String(length=16), nullable=False, server_default=""))
    op.create_table(
        "orders",
        sa.Column("id", _KEY, nullable=False),
        _text("source", 64),
        _text("accession_number", 64),
        _text("requested_procedure_id", 64),
        _text("patient_id", 64),
        _text("patient_name"),
        _text("patient_birth_date", 16),
        _text("patient_sex", 16),
        _text("study_instance_uid", 64),
        _text("priority", 16),
        _text("procedure"),
        _text("modality", 16),
        _text("scheduled_date", 8),
        _moment("created_at"),
        _moment("changed_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint(
            "source",
            "accession_number",
            "patient_id",
            "requested_procedure_id",
            name="uq_orders_told_once",
        ),
    )
    op.create_index(op.f("ix_orders_accession_number"), "orders", ["accession_number"])
    op.create_index(op.f("ix_orders_patient_id"), "orders", ["patient_id"])
    op.create_table(
        "study_orders",
        sa.Column("study_id", _KEY, nullable=False, autoincrement=False),
        _text("state", 20),
        sa.Column("order_id", _KEY, nullable=True),
        _text("reason"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _moment("next_attempt_at", nullable=True),
        _moment("wanted_at"),
        _moment("changed_at"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_study_orders_study_id_studies")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_study_orders_order_id_orders")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_study_orders")),
    )
    op.create_index(op.f("ix_study_orders_order_id"), "study_orders", ["order_id"])
    op.create_index(op.f("ix_study_orders_next_attempt_at"), "study_orders", ["next_attempt_at"])
    op.create_table(
        "notices",
        sa.Column("id", _KEY, nullable=False),
        _text("kind", 20),
        _text("uid", 64),
        _text("study_instance_uid", 64),
        _text("state", 20),
        sa.Column("instances", sa.JSON(), nullable=False),
        _text("calling_ae", 16),
        _moment("received_at"),
        _moment("changed_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sa.UniqueConstraint("kind", "uid", "study_instance_uid", name=op.f("uq_notices_kind_uid_study_instance_uid")),
    )
    op.create_index(op.f("ix_notices_study_instance_uid"), "notices", ["study_instance_uid"])
    op.create_index(op.f("ix_notices_changed_at"), "notices", ["changed_at"])
    op.create_table(
        "pledges",
        sa.Column("id", _KEY, nullable=False),
        _text("peer", 64),
        _text("transaction_uid", 64),
        _text("state", 20),
        sa.Column("committed", sa.JSON(), nullable=False),
        sa.Column("failed", sa.JSON(), nullable=False),
        _text("reason"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _moment("next_attempt_at"),
        _moment("asked_at"),
        _moment("changed_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pledges")),
        sa.UniqueConstraint("peer", "transaction_uid", name=op.f("uq_pledges_peer_transaction_uid")),
    )
    op.create_index(op.f("ix_pledges_next_attempt_at"), "pledges", ["next_attempt_at"])


def downgrade() -> None:
    for table in ("pledges", "notices", "study_orders", "orders"):
        op.drop_table(table)
    with op.batch_alter_table("studies") as batch:
        batch.drop_column("study_date")
        batch.drop_column("patient_birth_date")
