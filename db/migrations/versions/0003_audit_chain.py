"""the audit trail as a chain, append-only by triggers

Whoever changes a column of these tables on SQLite copies the table, and must make its triggers anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import db.types

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# For each table: what of a row that is being deleted must hold, or nothing may be.
_DELETABLE = {
    "audit": "EXISTS (SELECT 1 FROM audit_chain c JOIN audit_bases b ON c.position <= b.position "
    "WHERE c.audit_id = OLD.id)",
    "audit_chain": "EXISTS (SELECT 1 FROM audit_bases b WHERE OLD.position <= b.position)",
    "audit_unsealed": "EXISTS (SELECT 1 FROM audit_chain c WHERE c.audit_id = OLD.audit_id)",
    "audit_bases": "FALSE",
}


def upgrade() -> None:
    op.create_table(
        "audit_chain",
        sa.Column("position", _NUMBER, nullable=False, autoincrement=False),
        sa.Column("audit_id", _NUMBER, nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_audit_chain")),
        sa.UniqueConstraint("audit_id", name=op.f("uq_audit_chain_audit_id")),
    )
    op.create_table(
        "audit_unsealed",
        sa.Column("audit_id", _NUMBER, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit_unsealed")),
    )
    op.create_table(
        "audit_bases",
        sa.Column("position", _NUMBER, nullable=False, autoincrement=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("at", db.types.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_audit_bases")),
    )
    op.create_table(
        "audit_cursors",
        sa.Column("collector", sa.String(length=300), nullable=False),
        sa.Column("position", _NUMBER, nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=False),
        sa.Column("lease_until", db.types.UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("collector", name=op.f("pk_audit_cursors")),
    )
    # What earlier releases wrote gets its places at the next seal.
    op.execute("INSERT INTO audit_unsealed (audit_id) SELECT id FROM audit")
    if op.get_bind().dialect.name == "postgresql":
        _protect_postgresql()
    else:
        _protect_sqlite()


def _protect_sqlite() -> None:
    refuse = "SELECT RAISE(ABORT, 'the audit is append-only')"
    for table, deletable in _DELETABLE.items():
        op.execute(f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN {refuse}; END")
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN NOT ({deletable}) BEGIN {refuse}; END"
        )
    op.execute(
        "CREATE TRIGGER audit_queue AFTER INSERT ON audit "
        "BEGIN INSERT INTO audit_unsealed (audit_id) VALUES (NEW.id); END"
    )


def _protect_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'the audit is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    op.execute(
        "CREATE FUNCTION audit_queue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO audit_unsealed (audit_id) VALUES (NEW.id); RETURN NULL; END $$"
    )
    for table, deletable in _DELETABLE.items():
        op.execute(
            f"CREATE FUNCTION {table}_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF NOT ({deletable}) THEN "
            "RAISE EXCEPTION 'the audit is append-only' USING ERRCODE = 'integrity_constraint_violation'; "
            "END IF; RETURN OLD; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION audit_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_delete()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()"
        )
    op.execute("CREATE TRIGGER audit_queue AFTER INSERT ON audit FOR EACH ROW EXECUTE FUNCTION audit_queue()")


def downgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    on = " ON {}" if postgresql else ""
    op.execute("DROP TRIGGER audit_queue" + on.format("audit"))
    for table in _DELETABLE:
        for what in ("no_update", "no_delete", *(("no_truncate",) if postgresql else ())):
            op.execute(f"DROP TRIGGER {table}_{what}" + on.format(table))
        if postgresql:
            op.execute(f"DROP FUNCTION {table}_delete()")
    if postgresql:
        op.execute("DROP FUNCTION audit_queue()")
        op.execute("DROP FUNCTION audit_refuse()")
    for table in ("audit_cursors", "audit_bases", "audit_unsealed", "audit_chain"):
        op.drop_table(table)
