"""what readers say of findings, saved views, and indexes for pages that must not grow with the archive"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import db.types

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_REFUSED = "what readers said is append-only"


def _text(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=False)


def upgrade() -> None:
    op.create_table(
        "readings",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("at", db.types.UtcDateTime(timezone=True), nullable=False),
        _text("study_instance_uid", 64),
        _text("job_id", 36),
        _text("model", 64),
        _text("model_version", 64),
        _text("sop_instance_uid", 64),
        _text("label", 64),
        _text("presence", 16),
        _text("verdict", 16),
        _text("reason", 32),
        _text("laterality", 16),
        sa.Column("comment", sa.Text(), nullable=False),
        _text("reader", 128),
        sa.Column("undoes_id", _KEY, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_readings")),
        sa.UniqueConstraint("undoes_id", name=op.f("uq_readings_undoes_id")),
    )
    op.create_index(op.f("ix_readings_study_instance_uid"), "readings", ["study_instance_uid"])
    op.create_index("ix_readings_model_model_version_id", "readings", ["model", "model_version", "id"])
    op.create_table(
        "saved_views",
        sa.Column("id", _KEY, nullable=False),
        _text("owner", 128),
        _text("name", 40),
        _text("query", 1000),
        sa.Column("created_at", db.types.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_views")),
        sa.UniqueConstraint("owner", "name", name=op.f("uq_saved_views_owner_name")),
    )
    op.create_index("ix_audit_subject_id", "audit", ["subject", "id"])
    op.create_index("ix_audit_event_id", "audit", ["event", "id"])
    op.create_index(op.f("ix_jobs_finished_at"), "jobs", ["finished_at"])
    op.create_index("ix_studies_calling_ae_last_received_at", "studies", ["calling_ae", "last_received_at"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION readings_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION '{_REFUSED}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        op.execute(
            "CREATE TRIGGER readings_append_only BEFORE UPDATE OR DELETE ON readings "
            "FOR EACH ROW EXECUTE FUNCTION readings_refuse()"
        )
    else:
        for change in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER readings_no_{change} BEFORE {change.upper()} ON readings "
                f"BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
            )


def downgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.drop_index("ix_studies_calling_ae_last_received_at", "studies")
    op.drop_index(op.f("ix_jobs_finished_at"), "jobs")
    op.drop_index("ix_audit_event_id", "audit")
    op.drop_index("ix_audit_subject_id", "audit")
    op.drop_table("saved_views")
    op.drop_table("readings")
    if postgresql:
        op.execute("DROP FUNCTION readings_refuse()")
