"""Settings of FHIR R4: what is served under /fhir/R4, and the servers that results are sent to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from node.settings_hl7 import Name
from node.settings_section import Section, is_loopback

# FHIR's uri, without what would have to be quoted (R4 2.24.0.1).
_URI = r"^([A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+)?$"
_Uri = Annotated[str, Field(max_length=200, pattern=_URI)]


class FhirDestination(Section):
    """A FHIR R4 server that gets results as transactions; routes name it like a DICOM peer."""

    url: str = Field(description="Its base address, https beyond loopback: https://fhir.example.org/R4.")
    token_file: Path | None = Field(
        None, description="File with the bearer token, read at each sending: a renewed one counts at once."
    )
    token_variable: str = Field(
        "", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$", description="Environment variable that holds the token instead."
    )
    ca: Path | None = Field(None, description="PEM certificates that the server must chain to, and no others.")
    imaging_study: bool = Field(
        True,
        description="Keep an ImagingStudy there, too; false refers to the archive's own by its UID, and to no other.",
    )
    not_analysed: bool = Field(True, description="Also tell what could not be analysed, and why.")
    response_timeout_s: float = Field(30.0, gt=0, le=240, description="Seconds to wait for an answer.")
    max_errors: int = Field(
        10, ge=1, description="Times that the server may fail at the same bundle (500) before it is a dead letter."
    )

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError("url is no address") from error
        if not value.isascii() or not value.isprintable() or " " in value or not host:
            raise ValueError("url must be an https address with a host")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("url must have no user, query or fragment; give the token by token_file")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
            raise ValueError("url must be https beyond loopback")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _one_token(self) -> FhirDestination:
        if self.token_file is not None and self.token_variable:
            raise ValueError("token_file or token_variable, not both")
        return self


class Fhir(Section):
    """FHIR R4."""

    serve: bool = Field(
        False, description="Serve results read-only under /fhir/R4 of the web side, to keys with patients:read."
    )
    patient_id_system: _Uri = Field(
        "", description="Identifier.system of patient ids: the URI of whoever assigns them, urn:oid:1.2.3 or https."
    )
    accession_system: _Uri = Field("", description="Identifier.system of accession numbers.")
    wado_url: _Uri = Field(
        "",
        description="Base address of the archive's WADO-RS, as endpoint of each ImagingStudy; empty tells none.",
    )
    destinations: dict[Name, FhirDestination] = Field(
        default_factory=dict, description="Servers that results are sent to, by name."
    )
