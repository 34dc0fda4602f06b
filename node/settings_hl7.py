"""Settings of HL7 v2: where results go as messages, and who may send orders and changes of identity."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from node.settings_section import Section, is_loopback

CharacterSet = Literal["UNICODE UTF-8", "8859/1", "8859/2", "8859/5", "8859/7", "8859/9", "8859/15", "ASCII"]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# A namespace id (HD.1) or a code: no delimiter of HL7, and nothing that would have to be escaped.
_Hd = Annotated[str, Field(max_length=20, pattern=r"^[^|^~\\&\x00-\x1f\x7f]*$")]


class Hl7Destination(Section):
    """A system that gets results as ORU^R01; routes name it like a DICOM peer."""

    host: str = Field(description="Where it listens for MLLP.")
    port: Port = Field(2575, description="The port it listens on.")
    tls: bool = Field(False, description="Send over TLS, by the certificates of [tls].")
    allow_plain_beyond_loopback: bool = Field(False, description="Permit sending beyond loopback without TLS.")
    receiving_application: _Hd = Field("", description="MSH-5.")
    receiving_facility: _Hd = Field("", description="MSH-6.")
    character_set: CharacterSet = Field("UNICODE UTF-8", description="MSH-18, and what messages are encoded in.")
    assigning_authority: _Hd = Field(
        "", description="PID-3.4 where neither the images nor the orders name an issuer of the patient's id."
    )
    accession_in_obr18: bool = Field(True, description="Put the accession number into OBR-18, too.")
    not_analysed: bool = Field(True, description="Also tell what could not be analysed, and why.")
    priority_change: Literal["off", "ORM^O01", "OMI^O23"] = Field(
        "off",
        description="Ask, after a result that is urgent, for a higher priority of the order; many systems refuse.",
    )
    response_timeout_s: float = Field(30.0, gt=0, le=240, description="Seconds to wait for an acknowledgement.")
    max_errors: int = Field(
        10, ge=1, description="Times that AE (try again) may be answered to a message before it is a dead letter."
    )

    @model_validator(mode="after")
    def _guarded(self) -> Hl7Destination:
        if not (self.tls or self.allow_plain_beyond_loopback or is_loopback(self.host)):
            raise ValueError(
                "host lies beyond loopback without TLS; set tls = true or allow_plain_beyond_loopback = true"
            )
        return self


class Hl7Listener(Section):
    """Who may send orders (ORM^O01, OMI^O23) and changes of identity (ADT^A08, ADT^A40)."""

    enabled: bool = Field(False, description="Listen for HL7 messages.")
    host: str = Field("127.0.0.1", description="Address to bind.")
    port: Port = Field(2575, description="Port to listen on.")
    tls: bool = Field(False, description="Take connections over TLS only, by the certificates of [tls].")
    allow_plain_beyond_loopback: bool = Field(False, description="Permit an address beyond loopback without TLS.")
    addresses: tuple[str, ...] = Field(
        ("127.0.0.0/8", "::1/128"), description="Addresses or CIDR ranges that may connect; others are turned away."
    )
    sending_applications: tuple[str, ...] = Field(
        (), description="What MSH-3 may name; empty takes any. Others are answered AR."
    )
    assigning_authority: _Hd = Field(
        "", description="Whose patient identifiers count (PID-3.4, MRG-1.4); empty takes the first of each list."
    )
    character_set: CharacterSet = Field(
        "UNICODE UTF-8", description="What messages are in that do not say it in MSH-18."
    )
    max_connections: int = Field(20, ge=1, le=1000, description="Connections at once; more are turned away.")
    max_message_bytes: int = Field(1024**2, ge=1024, le=64 * 1024**2, description="Largest message taken, in bytes.")
    message_timeout_s: float = Field(
        20.0, gt=0, description="Seconds for a TLS handshake, and for a message once begun."
    )
    idle_timeout_s: float = Field(
        600.0, gt=0, description="Seconds without a message after which a connection is closed."
    )
    kept_days: float = Field(
        30.0, gt=0, description="Days for which a message is known again by its control id; it is not applied twice."
    )

    @field_validator("addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            ipaddress.ip_network(entry, strict=False)
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Hl7Listener:
        if self.enabled and not (self.tls or self.allow_plain_beyond_loopback or is_loopback(self.host)):
            raise ValueError(
                "host lies beyond loopback without TLS; set tls = true or allow_plain_beyond_loopback = true"
            )
        return self


class Hl7(Section):
    """HL7 v2.5.1 over MLLP."""

    sending_application: _Hd = Field("RADNODE", min_length=1, description="MSH-3 of what this node sends.")
    sending_facility: _Hd = Field("", description="MSH-4 of what this node sends.")
    listener: Hl7Listener = Hl7Listener()
    destinations: dict[Name, Hl7Destination] = Field(
        default_factory=dict, description="Systems that get results as messages, by name."
    )
