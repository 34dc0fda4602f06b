"""prior studies: what is wanted of them, what was fetched, what a peer was asked to send"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import db.types

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = db.types.UtcDateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "prior_requests",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("study_id", _KEY, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("wanted_at", _MOMENT, nullable=False),
        sa.Column("wait_until", _MOMENT, nullable=False),
        sa.Column("next_attempt_at", _MOMENT, nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_prior_requests_study_id_studies")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prior_requests")),
        sa.UniqueConstraint("study_id", "digest", name=op.f("uq_prior_requests_study_id_digest")),
    )
    op.create_index("ix_prior_requests_state_next_attempt_at", "prior_requests", ["state", "next_attempt_at"])
    op.create_table(
        "prior_images",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("request_id", _KEY, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("study_date", sa.String(length=16), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("blake3", sa.String(length=64), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("received_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["prior_requests.id"], name=op.f("fk_prior_images_request_id_prior_requests")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prior_images")),
        sa.UniqueConstraint("request_id", "sop_instance_uid", name=op.f("uq_prior_images_request_id_sop_instance_uid")),
    )
    op.create_index(op.f("ix_prior_images_sop_instance_uid"), "prior_images", ["sop_instance_uid"])
    op.create_table(
        "prior_moves",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("request_id", _KEY, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("closes_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["prior_requests.id"], name=op.f("fk_prior_moves_request_id_prior_requests")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prior_moves")),
        sa.UniqueConstraint(
            "request_id", "study_instance_uid", name=op.f("uq_prior_moves_request_id_study_instance_uid")
        ),
    )
    op.create_index(op.f("ix_prior_moves_study_instance_uid"), "prior_moves", ["study_instance_uid"])


def downgrade() -> None:
    for table in ("prior_moves", "prior_images", "prior_requests"):
        op.drop_table(table)
