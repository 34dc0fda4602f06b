"""Alembic's entry: runs on the connection that `db.schema` hands over."""

from __future__ import annotations

from alembic import context

import db.access_tables
import db.audit_tables
import db.hl7_tables
import db.house_tables
import db.order_tables
import db.performance_tables
import db.prior_tables
import db.reader_tables
import db.workitem_tables  # noqa: F401 - the tables of all of them belong to the metadata
from db.tables import Base

connection = context.config.attributes["connection"]
# SQLite changes a column by copying its table (batch mode).
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=connection.dialect.name == "sqlite"
)
with context.begin_transaction():
    context.run_migrations()
