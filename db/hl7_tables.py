"""Tables of HL7 v2: what was written to be sent, what was taken, and whose identity changed meanwhile.

*hl7_messages* are messages as they went out, so that one sent again is the same to the byte; *hl7_received* are those
that were taken, so that one that comes again is not applied again; *identity_changes* say for each study that was here
what an update or a merge of its patient meant for it. The last two only grow, and are protected health information.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.tables import Base

# SQLite counts up by itself only for INTEGER keys.
_KEY = BigInteger().with_variant(Integer, "sqlite")


class SpooledMessage(Base):
    __tablename__ = "hl7_messages"
    __table_args__ = (UniqueConstraint("delivery_id", "kind"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"))
    # MSH-9.1^MSH-9.2.
    kind: Mapped[str] = mapped_column(String(16))
    control_id: Mapped[str] = mapped_column(String(20), unique=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    # Just before it was sent for the first time; from then on it does not change.
    written_at: Mapped[datetime]
    acknowledged_at: Mapped[datetime | None]
    # MSA-1 of the last answer; "" while there is none.
    answer: Mapped[str] = mapped_column(String(2), default="")


class ReceivedMessage(Base):
    __tablename__ = "hl7_received"
    # Some senders count up from one after a restart: another message under a control id in use is another message.
    __table_args__ = (UniqueConstraint("sender", "control_id", "digest"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    # MSH-3^MSH-4.
    sender: Mapped[str] = mapped_column(String(200))
    control_id: Mapped[str] = mapped_column(String(200))
    # SHA-256 of all segments but MSH.
    digest: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    peer_address: Mapped[str] = mapped_column(String(64))
    # What it did, in words that name no patient.
    outcome: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(index=True)


class IdentityChange(Base):
    __tablename__ = "identity_changes"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    # update (ADT^A08) or merge (ADT^A40).
    kind: Mapped[str] = mapped_column(String(8))
    sender: Mapped[str] = mapped_column(String(200))
    control_id: Mapped[str] = mapped_column(String(200))
    superseded_patient_id: Mapped[str] = mapped_column(Text)
    # What the patient is called from now on; "" where the message leaves it as it was.
    patient_id: Mapped[str] = mapped_column(Text, index=True)
    issuer: Mapped[str] = mapped_column(Text, default="")
    patient_name: Mapped[str] = mapped_column(Text, default="")
    birth_date: Mapped[str] = mapped_column(String(8), default="")
    sex: Mapped[str] = mapped_column(String(1), default="")
    # Results of the study that were finished before, and keep the identity they were made with.
    finished_results: Mapped[int]
    # Whether work on the study was still to be done, which takes the new identity.
    applied: Mapped[bool]
    at: Mapped[datetime]
