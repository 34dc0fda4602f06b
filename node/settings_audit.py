"""Settings of the audit trail: `[audit]`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from node.settings_section import Section, is_loopback


class AuditTrail(Section):
    """The audit trail: its chain, and the collector it is sent to."""

    collector_host: str = Field("", description="Host of the syslog collector; empty sends to none.")
    collector_port: int = Field(6514, ge=1, le=65535, description="Its port.")
    transport: Literal["tls", "tcp"] = Field(
        "tls", description="tls is RFC 5425; tcp is in the clear, to a collector on this machine only."
    )
    ca: Path | None = Field(
        None, description="PEM certificates that the collector must chain to, and no others. None: this system's."
    )
    certificate: Path | None = Field(None, description="PEM certificate chain shown to the collector.")
    private_key: Path | None = Field(None, description="PEM private key of the certificate.")
    source_id: str = Field("", max_length=64, description="AuditSourceID of messages; empty means the AE title.")
    site: str = Field("", max_length=64, description="AuditEnterpriseSiteID of messages.")
    send_timeout_s: float = Field(15.0, gt=0, description="Seconds to wait for the collector, for each step.")
    backoff_max_s: float = Field(60.0, gt=0, description="Longest wait before the collector is tried again.")
    batch: int = Field(200, ge=1, le=1000, description="Messages on one connection.")
    seal_interval_s: float = Field(1.0, gt=0, description="Seconds between two looks for rows without a place.")
    anchor_file: Path | None = Field(
        None,
        description="File that keeps the chain's last digest outside of the database, best on a medium that is only "
        "added to; none means audit-anchors.jsonl in data_dir.",
    )
    anchor_interval_s: float = Field(300.0, gt=0, description="Seconds between two lines in it.")

    @model_validator(mode="after")
    def _consistent(self) -> AuditTrail:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key come together")
        if self.transport == "tcp" and self.collector_host and not is_loopback(self.collector_host):
            raise ValueError("tcp sends in the clear: it reaches a collector on loopback only; use tls")
        return self

    @property
    def collector(self) -> str:
        """Its name in the record; "" where there is none."""
        return f"{self.collector_host}:{self.collector_port}" if self.collector_host else ""
