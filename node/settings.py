"""Settings: one frozen object, read once, handed to whoever needs it.

Order of precedence: `RADNODE_…` environment variables, then `radnode.toml`, then the defaults below. Nested values are
reached with two underscores: `RADNODE_LIMITS__MAX_ASSOCIATIONS=50`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from db.errors import ConfigError
from node.broker_url import checked
from node.rules import Route
from node.settings_audit import AuditTrail
from node.settings_checks import require_guarded, require_names
from node.settings_fhir import Fhir
from node.settings_hl7 import Hl7
from node.settings_priors import Priors
from node.settings_retention import Retention
from node.settings_section import Section
from node.settings_ups import Ups
from node.settings_web import Web
from node.settings_worklist import Notices, Worklist

AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f\x7f]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Use = Literal["store", "notify", "commit", "workitems"]

_LEAST_VISIBILITY_S = 3600


class Limits(Section):
    """What one peer may take from the node."""

    max_associations: int = Field(50, ge=1, le=1000, description="Associations at once; more are rejected (transient).")
    max_pdu_bytes: int = Field(131072, ge=4096, le=1048576, description="Largest PDU offered, in bytes.")
    max_dataset_bytes: int = Field(2 * 1024**3, ge=1024, description="Largest data set taken, in bytes.")
    max_inflated_bytes: int = Field(
        512 * 1024**2, ge=1024, description="Largest deflated data set once inflated, in bytes."
    )
    acse_timeout_s: float = Field(
        20.0, gt=0, description="Seconds for a TLS handshake, and for an association request."
    )
    dimse_timeout_s: float = Field(
        20.0, gt=0, description="Seconds to wait for the rest of a DIMSE message; one more for each KiB of it."
    )
    network_timeout_s: float = Field(25.0, gt=0, description="Idle seconds after which an association is aborted.")
    min_free_bytes: int = Field(
        1024**3, ge=0, description="Free disk below which C-STORE is answered 0xA700, in bytes."
    )


class Tls(Section):
    """TLS for the listener and for peers that ask for it (PS3.15 B, BCP 195: TLS 1.2 or later)."""

    certificate: Path | None = Field(None, description="PEM certificate chain; switches TLS on for the listener.")
    private_key: Path | None = Field(None, description="PEM private key of the certificate.")
    ca: Path | None = Field(
        None,
        description="PEM certificates that peers must chain to, and no others. Without it peers that are sent to may "
        "chain to any authority this system trusts.",
    )
    require_client_certificate: bool = Field(True, description="Refuse peers without a certificate of that CA.")

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key come together")
        if self.certificate is not None and self.require_client_certificate and self.ca is None:
            raise ValueError("require_client_certificate needs ca; name the peers' CA or set it to false")
        return self


class Access(Section):
    """Who may talk to the listener."""

    check_called_ae: bool = Field(True, description="Reject associations that call another AE title.")
    known_peers_only: bool = Field(
        False, description="Reject calling AE titles and addresses that no peer entry names."
    )
    allow_plain_beyond_loopback: bool = Field(False, description="Permit an address beyond loopback without TLS.")
    allow_unknown_beyond_loopback: bool = Field(False, description="Permit unknown peers beyond loopback.")


class Peer(Section):
    """A DICOM peer: a PACS, an archive, a workstation."""

    ae_title: AeTitle = Field(description="Its AE title.")
    host: str = Field(description="Where it listens.")
    port: Port = Field(104, description="The port it listens on.")
    addresses: tuple[str, ...] = Field(
        (), description="Addresses or CIDR ranges it calls from; empty means its host only."
    )
    may: tuple[Use, ...] = Field(
        ("store", "notify", "commit", "workitems"),
        description="What it may ask beside C-ECHO: store objects, notify of steps and availability (MPPS, IAN), "
        "commit, as far as [notices] serves it, push and watch workitems, as far as [ups] does. Its reports on what "
        "this node asked of it are always taken.",
    )
    tls: bool = Field(False, description="Send to it over TLS.")
    sr_sop_class: Literal["auto", "comprehensive-3d", "comprehensive", "enhanced"] = Field(
        "auto", description="SR storage class to send; auto takes the best the peer accepts."
    )
    key_objects: bool = Field(
        False,
        description="Send it a Key Object Selection beside the report wherever something was found: images with "
        "findings, their Grad-CAM pictures and the report, under the title Of Interest.",
    )
    proof: Literal["auto", "commitment", "read-back", "none"] = Field(
        "auto", description="How a delivery is confirmed; auto asks for storage commitment, else reads back by C-FIND."
    )
    expected_counts: bool = Field(
        False,
        description="Ask it by C-FIND how many instances a study has before judging it complete; what it keeps and "
        "does not route here makes a study wait for its deadline.",
    )
    silent_after_min: float | None = Field(
        None, gt=0, description="Minutes without a study from it after which the node says so; none never does."
    )

    @field_validator("addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            ipaddress.ip_network(entry, strict=False)
        return value


class Completeness(Section):
    """When a study counts as complete, for routes that do not say otherwise."""

    quiet_period_s: float = Field(60.0, ge=0, description="Seconds without a new image.")
    deadline_s: float = Field(1800.0, gt=0, description="Seconds after the first image at which waiting ends.")
    sweep_interval_s: float = Field(0.05, gt=0, description="Seconds between two looks at the record.")


class Delivery(Section):
    """How results are sent, and when to stop trying."""

    max_attempts: int = Field(
        300, ge=1, description="Attempts before a delivery becomes a dead letter; three days at the least."
    )
    backoff_first_s: float = Field(
        2.0, gt=0, description="Wait after the first failure; doubles each time, with jitter."
    )
    backoff_max_s: float = Field(1800.0, gt=0, description="Longest wait between two attempts.")
    circuit_failures: int = Field(5, ge=1, description="Failures in a row after which a destination is left alone.")
    circuit_open_s: float = Field(60.0, gt=0, description="Seconds it is left alone.")
    commitment_timeout_s: float = Field(
        86400.0, gt=0, description="Seconds to wait for a commitment report before reading back."
    )
    commitment_grace_s: float = Field(
        5.0, ge=0, description="Seconds the sending association stays open for the report."
    )
    association_idle_s: float = Field(
        2.0,
        ge=0,
        description="Seconds an association stays open for the next result; a peer that takes one at a time makes "
        "others wait for so long.",
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a peer to answer a connection.")
    response_timeout_s: float = Field(60.0, gt=0, description="Seconds to wait for a DIMSE response.")


class Work(Section):
    """The workers."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto uses every GPU, and the CPU where there is none."
    )
    infer_processes: int = Field(1, ge=1, description="Inference processes on a machine without a GPU.")
    jobs_at_once: int = Field(
        2,
        ge=1,
        le=16,
        description="Jobs under way in an inference process: one is inferred while others are decoded or written up.",
    )
    deliver_processes: int = Field(2, ge=1, description="Delivery processes.")
    lease_s: float = Field(30.0, gt=1, description="Seconds a worker holds a job between two signs of life.")
    max_attempts: int = Field(3, ge=1, description="Attempts before a job is parked.")
    soft_time_limit_s: int = Field(300, ge=1, description="Seconds after which a job is stopped and handed back.")
    hard_time_limit_s: int = Field(360, ge=1, description="Seconds after which its process is killed.")
    model_dirs: tuple[Path, ...] = Field((), description="More folders with model bundles.")
    models_kept: int = Field(4, ge=1, description="Loaded models an inference process keeps in memory.")
    trusted_keys: str = Field(
        "",
        description="Folder of the public keys whose bundles may be installed; empty means trusted-keys in data_dir.",
    )
    max_decoded_bytes: int = Field(1024**3, ge=1024, description="Largest decoded image, in bytes.")
    max_image_pixels: int = Field(
        32 * 1024**2,
        ge=1024,
        description="Largest image read, in rows x columns; the largest mammograms have 30 million pixels.",
    )
    decode_processes: int = Field(
        2, ge=1, le=64, description="Processes beside each inference process that read and decode images."
    )
    decode_seconds: float = Field(
        10.0, gt=0, description="Seconds for reading one image, and one more for each million pixels."
    )
    decode_memory_bytes: int = Field(
        190 * 1024**2,
        ge=64 * 1024**2,
        description="Memory for reading one image; only an image that plausibly needs more for its size gets more.",
    )

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Work:
        if self.soft_time_limit_s >= self.hard_time_limit_s:
            raise ValueError("soft_time_limit_s must be less than hard_time_limit_s, or no job could be handed back")
        return self

    @property
    def visibility_s(self) -> int:
        """How long a message or a send may be in one worker's hands: twice as long as its process can live."""
        return max(_LEAST_VISIBILITY_S, 2 * self.hard_time_limit_s)


class _Toml(PydanticBaseSettingsSource):
    """The file that `load` was given; pydantic-settings' own TOML source only takes paths fixed in the class."""

    def __init__(self, settings: type[BaseSettings], path: Path | None) -> None:
        super().__init__(settings)
        self.path = path

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            return tomllib.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"no settings file {self.path}; name one with --config, or go without") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path} is no valid TOML: {error}") from error


class Settings(BaseSettings):
    """Everything a node can be told."""

    model_config = SettingsConfigDict(
        env_prefix="RADNODE_", env_nested_delimiter="__", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    data_dir: Path = Field(Path("radnode-data"), description="Where images, results and the record live.")
    ae_title: AeTitle = Field("RADNODE", description="This node's AE title.")
    dicom_host: str = Field("127.0.0.1", description="Address the DICOM listener binds.")
    dicom_port: Port = Field(11112, description="Port of the DICOM listener.")
    web_host: str = Field("127.0.0.1", description="Address of the web side.")
    web_port: Port = Field(8042, description="Port of the web side.")
    database_url: str = Field("", description="SQLAlchemy URL; empty means SQLite in the data folder.")
    broker_url: str = Field("", description="Redis or Valkey URL; empty starts an embedded Valkey server.")
    allow_weak_broker: bool = Field(
        False, description="Permit a broker beyond loopback in the clear, unchecked or without a password."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto is text on a terminal and JSON elsewhere."
    )
    clinical_mode: bool = Field(False, description="Refuse models whose finding codes no terminologist has verified.")
    route_match: Literal["first", "all"] = Field(
        "first", description="Whether an image takes the first matching route or all."
    )
    read_secondary_captures: bool = Field(
        False, description="Let routes take Secondary Capture images: scans of films, but also screenshots."
    )
    read_for_processing: bool = Field(
        False, description="Let routes take DX images for processing, which lack the vendor's rendering."
    )
    limits: Limits = Limits()
    tls: Tls = Tls()
    access: Access = Access()
    completeness: Completeness = Completeness()
    delivery: Delivery = Delivery()
    work: Work = Work()
    web: Web = Web()
    audit: AuditTrail = AuditTrail()
    worklist: Worklist = Worklist()
    notices: Notices = Notices()
    priors: Priors = Priors()
    retention: Retention = Retention()
    hl7: Hl7 = Hl7()
    fhir: Fhir = Fhir()
    ups: Ups = Ups()
    peers: dict[Name, Peer] = Field(default_factory=dict, description="DICOM peers by name.")
    routes: tuple[Route, ...] = Field(
        default_factory=lambda: (Route.chest_radiographs(),), description="Routing rules."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        require_names(self)
        require_guarded(self)
        return self

    @property
    def told(self) -> frozenset[str]:
        """Destinations that take no objects, but are told of the report."""
        return frozenset({*self.hl7.destinations, *self.fhir.destinations})

    @property
    def record_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'radnode.db').resolve()}"

    @property
    def trusted_keys_dir(self) -> Path:
        return Path(self.work.trusted_keys) if self.work.trusted_keys else self.data_dir / "trusted-keys"

    @property
    def embedded_broker(self) -> bool:
        return not self.broker_url

    @property
    def effective_broker_url(self) -> str:
        """The broker to talk to; in embedded mode a Unix socket below the data folder."""
        return checked(self.broker_url) or f"redis+socket://{broker_socket(self.data_dir)}"

    def peer_by_ae(self, ae_title: str) -> tuple[str, Peer] | None:
        """The first peer entry with that AE title."""
        wanted = ae_title.strip()
        return next(((name, peer) for name, peer in self.peers.items() if peer.ae_title.strip() == wanted), None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load` passes the file's path through the initial values, because this hook is a class method.
        values = dict(init_settings())
        path = values.pop("_file", None)
        return InitSettingsSource(settings_cls, values), env_settings, _Toml(settings_cls, path)


def load(path: Path | None = None) -> Settings:
    """Read the settings once. Raises ConfigError that names each wrong setting, never its value."""
    try:
        return Settings(_file=path)  # type: ignore[call-arg]
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"settings are wrong: {problems}") from error


def broker_socket(data_dir: Path) -> Path:
    """A Unix socket's path may have some 100 characters: a deep data folder gets one in the temporary folder, and where
    that lies deep as well, in /tmp."""
    inside = data_dir.resolve() / "broker" / "valkey.sock"
    short = Path(f"radnode-{hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]}", "valkey.sock")
    # Whoever makes the folder sees to it that it is this user's.
    places = (inside, tempfile.gettempdir() / short, "/tmp" / short)  # noqa: S108
    return next((place for place in places if len(str(place)) < 100), places[-1])


def config_digest(settings: Settings) -> str:
    """SHA-256 of the settings that shape results; part of every result's provenance and UID."""
    shape = {"ae_title": settings.ae_title, "routes": [route.model_dump(mode="json") for route in settings.routes]}
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
