"""Settings of the web side: `[web]`, `[web.oidc]`, `[web.oidc.roles]`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from string import Formatter
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from node.settings_section import Section

VIEWER_NAMES = frozenset({"study_instance_uid", "accession_number", "patient_id"})


class OidcRoles(Section):
    """Which groups of the identity provider have which role here."""

    viewer: tuple[str, ...] = Field((), description="Groups whose members may look.")
    radiologist: tuple[str, ...] = Field((), description="Groups of the people who read.")
    pacs_admin: tuple[str, ...] = Field((), description="Groups of the people who run the PACS.")
    ml_engineer: tuple[str, ...] = Field((), description="Groups of the people who look after models.")
    auditor: tuple[str, ...] = Field((), description="Groups of the people who look into what was done.")

    def roles_of(self, groups: frozenset[str]) -> tuple[str, ...]:
        """The roles of somebody in these groups, by their names in the permission table."""
        return tuple(
            name.replace("_", "-") for name in type(self).model_fields if groups.intersection(getattr(self, name))
        )


class Oidc(Section):
    """Log-in through a hospital's identity provider (OpenID Connect, code flow with PKCE)."""

    issuer: str = Field("", description="Issuer URL of the identity provider; empty switches this off.")
    client_id: str = Field("radnode", description="This node's client id there.")
    client_secret_file: Path | None = Field(
        None, description="File with the client's secret; none for a public client, which PKCE alone protects."
    )
    ca: Path | None = Field(None, description="PEM certificates that the provider must chain to, and no others.")
    scopes: tuple[str, ...] = Field(("openid", "profile"), description="Scopes asked for.")
    name_claim: str = Field("preferred_username", description="Claim that names the person.")
    groups_claim: str = Field("groups", description="Claim that lists the person's groups.")
    timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for the provider.")
    roles: OidcRoles = OidcRoles()

    @model_validator(mode="after")
    def _usable(self) -> Oidc:
        if self.issuer:
            parts = urlsplit(self.issuer)
            if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1"}):
                raise ValueError("issuer must be an https URL")
            if "openid" not in self.scopes:
                raise ValueError("scopes must hold openid")
        return self


class Web(Section):
    """The web side: who may come in, and what a person sees."""

    certificate: Path | None = Field(None, description="PEM certificate chain; switches HTTPS on.")
    private_key: Path | None = Field(None, description="PEM private key of the certificate.")
    public_url: str = Field(
        "", description="URL by which people reach this node, through a proxy perhaps; empty means web_host, web_port."
    )
    hosts: tuple[str, ...] = Field(
        (), description="Further host names that requests may name; those of public_url and web_host may anyway."
    )
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses or CIDR ranges whose X-Forwarded-For and X-Forwarded-Proto are believed."
    )
    allow_plain_beyond_loopback: bool = Field(
        False, description="Permit an address beyond loopback without HTTPS: behind a proxy that speaks it."
    )
    session_idle_s: float = Field(1800.0, gt=0, description="Seconds without a request after which a session ends.")
    session_lifetime_s: float = Field(43200.0, gt=0, description="Seconds after which a session ends in any case.")
    login_failures: int = Field(5, ge=1, description="Wrong passwords in a row that lock an account.")
    address_failures: int = Field(20, ge=1, description="Failed log-ins of one address that shut it out.")
    lock_s: float = Field(900.0, gt=0, description="Seconds that an account stays locked and an address shut out.")
    requests_per_minute: int = Field(600, ge=10, description="Requests a minute that one address may make.")
    max_request_bytes: int = Field(1024**2, ge=1024, description="Largest request body, in bytes.")
    request_timeout_s: float = Field(30.0, gt=0, description="Seconds in which a request must have arrived whole.")
    mask_patients: bool = Field(False, description="Show no patient until a person asks for the name.")
    ai_after_first_read: bool = Field(
        False, description="Show people what the models say of a study only after somebody has read it without."
    )
    viewer_url: str = Field(
        "",
        description="Address of the PACS viewer for a study, with {study_instance_uid}, {accession_number} or "
        "{patient_id} in it; empty shows no link.",
    )
    target_stat_s: float = Field(600.0, gt=0, description="Seconds in which a STAT study should be read.")
    target_urgent_s: float = Field(1800.0, gt=0, description="Seconds in which an urgent study should be read.")
    target_routine_s: float = Field(7200.0, gt=0, description="Seconds in which any other study should be read.")
    oidc: Oidc = Oidc()

    @field_validator("viewer_url")
    @classmethod
    def _viewer(cls, value: str) -> str:
        if not value:
            return value
        try:
            names = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
        except ValueError as error:
            raise ValueError("viewer_url has a brace that does not belong to a name") from error
        if not names <= VIEWER_NAMES:
            raise ValueError(f"viewer_url may name {', '.join(sorted(VIEWER_NAMES))}")
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc or "{" in parts.netloc:
            raise ValueError("viewer_url must begin with http:// or https:// and a host")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            ipaddress.ip_network(entry, strict=False)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Web:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key come together")
        parts = urlsplit(self.public_url)
        if self.public_url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/")):
            raise ValueError("public_url must be a URL of scheme and host only, such as https://radnode.example.org")
        if self.oidc.issuer and not self.public_url:
            raise ValueError("oidc needs public_url: the identity provider sends people back to it")
        return self

    def url(self, host: str, port: int) -> str:
        """The URL by which people reach this node, without a slash at its end."""
        if self.public_url:
            return self.public_url.rstrip("/")
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self.certificate else 'http'}://{shown}:{port}"

    def allowed_hosts(self, host: str) -> frozenset[str]:
        """Host names, in lower case and without ports, that a request may name."""
        own = {"localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in self.hosts)}
        named = urlsplit(self.public_url).hostname
        return frozenset(own | ({named} if named else set()))

    def target_s(self, priority: str) -> float:
        """In how many seconds a study of that priority should be read."""
        return {"stat": self.target_stat_s, "urgent": self.target_urgent_s}.get(priority, self.target_routine_s)
