"""Identifiers that a rerun finds again: UUIDv5 under DICOM's 2.25 root (PS3.5 B.2)."""

from __future__ import annotations

import json
import uuid

_NAMESPACE = uuid.UUID("8c6f5b0e-52c1-4a3e-9b57-2f0d6a4a9d11")


def derive(*parts: str) -> str:
    """The same parts always give the same UID; parts that only join to the same text do not."""
    name = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


IMPLEMENTATION_CLASS_UID = derive("radnode", "implementation class")
