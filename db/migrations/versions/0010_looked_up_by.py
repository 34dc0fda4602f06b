"""studies by accession number, changes of identity by identifier: what every HL7 message looks for"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_studies_accession_number", "studies", ["accession_number"])
    op.create_index("ix_identity_changes_patient_id", "identity_changes", ["patient_id"])


def downgrade() -> None:
    op.drop_index("ix_identity_changes_patient_id", table_name="identity_changes")
    op.drop_index("ix_studies_accession_number", table_name="studies")
