"""HL7 v2: messages as they were sent and taken, changes of identity; the numbers of an order"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op

import db.types

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _moment(name: str, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, db.types.UtcDateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length) if length else sa.Text(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "hl7_messages",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("delivery_id", _KEY, nullable=False),
        _text("kind", 16),
        _text("control_id", 20),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _moment("written_at"),
        _moment("acknowledged_at", nullable=True),
        _text("answer", 2),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name=op.f("fk_hl7_messages_delivery_id_deliveries")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hl7_messages")),
        sa.UniqueConstraint("control_id", name=op.f("uq_hl7_messages_control_id")),
        sa.UniqueConstraint("delivery_id", "kind", name=op.f("uq_hl7_messages_delivery_id_kind")),
    )
    op.create_table(
        "hl7_received",
        sa.Column("id", _KEY, nullable=False),
        _text("sender", 200),
        _text("control_id", 200),
        _text("digest", 64),
        _text("kind", 16),
        _text("peer_address", 64),
        _text("outcome"),
        _moment("received_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hl7_received")),
        sa.UniqueConstraint("sender", "control_id", "digest", name=op.f("uq_hl7_received_sender_control_id_digest")),
    )
    op.create_index(op.f("ix_hl7_received_received_at"), "hl7_received", ["received_at"])
    op.create_table(
        "identity_changes",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("study_id", _KEY, nullable=False),
        _text("kind", 8),
        _text("sender", 200),
        _text("control_id", 200),
        _text("superseded_patient_id"),
        _text("patient_id"),
        _text("issuer"),
        _text("patient_name"),
        _text("birth_date", 8),
        _text("sex", 1),
        sa.Column("finished_results", sa.Integer(), nullable=False),
        sa.Column("applied", sa.Boolean(), nullable=False),
        _moment("at"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_identity_changes_study_id_studies")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_changes")),
    )
    op.create_index(op.f("ix_identity_changes_study_id"), "identity_changes", ["study_id"])
    # The head of a destination's queue is asked for at every message.
    op.create_index("ix_deliveries_destination_state_id", "deliveries", ["destination", "state", "id"])
    op.create_index("ix_studies_patient_id", "studies", ["patient_id"])
    with op.batch_alter_table("orders") as batch:
        batch.add_column(sa.Column("placer_number", sa.String(length=64), nullable=False, server_default=""))
        batch.add_column(sa.Column("filler_number", sa.String(length=64), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("orders") as batch:
        batch.drop_column("filler_number")
        batch.drop_column("placer_number")
    op.drop_index("ix_studies_patient_id", table_name="studies")
    op.drop_index("ix_deliveries_destination_state_id", table_name="deliveries")
    for table in ("identity_changes", "hl7_received", "hl7_messages"):
        op.drop_table(table)
