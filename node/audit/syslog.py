"""An audit message as syslog: RFC 5424, in the frame of RFC 5425 (its length in octets, a space, the message).

PS3.15 A.6: facility 10 (security), MSGID ``DICOM+RFC3881``, the XML as UTF-8 behind a byte order mark.
"""

from __future__ import annotations

from datetime import UTC

from db.audit import Entry
from node.audit.message import DECLARATION, Origin, xml

MESSAGE_ID = "DICOM+RFC3881"
APPLICATION = "radnode"
_SECURITY = 10
_NOTICE, _WARNING = 5, 4
_NIL = "-"
# sequenceId counts from 1 and then begins anew (RFC 5424 7.3.1).
_LARGEST_SEQUENCE = 2**31 - 1


def frame(entry: Entry, origin: Origin, *, version: str, process_id: int) -> bytes:
    """One frame for a stream. The entry needs its place in the chain."""
    message = _message(entry, origin, version, process_id)
    return b"%d %b" % (len(message), message)


def _message(entry: Entry, origin: Origin, version: str, process_id: int) -> bytes:
    priority = _SECURITY * 8 + (_NOTICE if entry.outcome == "success" else _WARNING)
    moment = entry.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    sequence = ((entry.position or 1) - 1) % _LARGEST_SEQUENCE + 1
    data = element("origin", software=APPLICATION, swVersion=version) + element("meta", sequenceId=str(sequence))
    head = f"<{priority}>1 {moment} {name(origin.host, 255)} {APPLICATION} {process_id} {MESSAGE_ID} {data} "
    return head.encode("ascii") + f"\ufeff{DECLARATION}{xml(entry, origin)}".encode()


def name(text: str, longest: int) -> str:
    """A name of the head: printable ASCII without spaces (RFC 5424 6.2); ``-`` where nothing is left of it."""
    return "".join(c if "!" <= c <= "~" else "?" for c in text[:longest]) or _NIL


def element(identifier: str, **parameters: str) -> str:
    """Structured data (RFC 5424 6.3), reduced to printable ASCII."""
    told = "".join(f' {key}="{_escaped(value)}"' for key, value in parameters.items())
    return f"[{identifier}{told}]"


def _escaped(value: str) -> str:
    printable = "".join(c if " " <= c <= "~" else "?" for c in value)
    return printable.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
