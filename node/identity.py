"""Who this process is, in leases and logs."""

from __future__ import annotations

import hashlib
import os
import socket

from node.settings import Settings

# Manufacturer (0008,0070) of every result; the listener knows its own results by it when a peer sends them back.
MANUFACTURER = "radnode"

# What is said of every result, wherever it goes.
DISCLAIMER = "AI-generated preliminary result, not verified by a physician. Not for clinical use."


def owner_prefix(settings: Settings) -> str:
    """The same for every process of one node on one machine; never the prefix of another node's.

    After a restart whatever carries it was held by processes that are gone.
    """
    place = f"{socket.gethostname()}:{settings.data_dir.resolve()}"
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16] + ":"


def owner(settings: Settings, role: str) -> str:
    """This process, as it signs its leases."""
    return f"{owner_prefix(settings)}{role}:{os.getpid()}"
