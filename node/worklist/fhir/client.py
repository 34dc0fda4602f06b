"""A FHIR server that results are sent to: one transaction, one answer that is judged (R4 3.1.0.11).

What a server says may quote the patient, so nothing of it but its codes is kept. Redirections are not followed, and no
proxy or password of the environment is used: the token goes to the address in the settings and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx2

from db.errors import ConfigError, PeerUnavailable
from node.settings import Tls
from node.settings_fhir import FhirDestination
from node.tls import client_context
from node.worklist.fhir.values import Json

MEDIA_TYPE = "application/fhir+json"
_MOST_BYTES = 16 * 1024**2
_LONGEST_WAIT_S = 86400.0
# A code of the value set FHIRVersion: 4.0.1, 6.0.0-ballot2.
_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}(-[A-Za-z0-9.]{1,20})?")
# R4 4.3.14.383, those that a server answers with.
_ISSUES = frozenset(
    {
        *("invalid", "structure", "required", "value", "invariant", "security", "login", "unknown", "expired"),
        *("forbidden", "suppressed", "processing", "not-supported", "duplicate", "multiple-matches", "not-found"),
        *("deleted", "too-long", "code-invalid", "extension", "too-costly", "business-rule", "conflict", "transient"),
        *("lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"),
    }
)


class NoConnection(PeerUnavailable):
    """Nothing was sent."""


class Verdict(Enum):
    ACCEPTED = "all of it is there"
    BUSY = "the server asks to come back, or is away behind its proxy"
    CLOSED = "the server takes nothing as the settings are: it is no matter of this bundle"
    FAILED = "the server failed at it"
    REFUSED = "the server does not take this bundle, now or later"


@dataclass(frozen=True)
class Answer:
    """said: in words that name no patient. wait_s: what the server asks to wait at least, 0 where it does not."""

    verdict: Verdict
    said: str
    wait_s: float = 0.0


class Server:
    """Opened when first used, closed with the block."""

    def __init__(self, to: FhirDestination, connect_timeout_s: float) -> None:
        self._to = to
        self._connect_timeout_s = connect_timeout_s
        self._client: httpx2.Client | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    def _open(self) -> httpx2.Client:
        if self._client is None:
            try:
                trust = client_context(Tls(ca=self._to.ca))
            except ConfigError as error:
                raise ConfigError("ca cannot be read as PEM; check the file and its permissions") from error
            timeout = httpx2.Timeout(self._to.response_timeout_s, connect=self._connect_timeout_s)
            self._client = httpx2.Client(verify=trust, timeout=timeout, follow_redirects=False, trust_env=False)
        return self._client

    def send(self, bundle: Json) -> Answer:
        """Send a transaction. Raises PeerUnavailable where it is not known whether it arrived, and ConfigError."""
        body = json.dumps(bundle, ensure_ascii=False, allow_nan=False).encode("utf-8")
        headers = {"Content-Type": f"{MEDIA_TYPE}; charset=utf-8", "Prefer": "return=minimal"}
        status, answered, said = self._ask("POST", self._to.url, headers, body)
        return judge(status, _json(said), len(bundle["entry"]), retry_after_s(answered.get("retry-after", "")))

    def capability(self) -> str:
        """The FHIR version that the server says it speaks. Raises PeerUnavailable and ConfigError."""
        status, _, said = self._ask("GET", f"{self._to.url}/metadata", {}, None)
        found = _json(said)
        if status != 200 or found.get("resourceType") != "CapabilityStatement":
            raise PeerUnavailable(f"{self._where} answered {status} with no CapabilityStatement; check url and token")
        version = found.get("fhirVersion")
        return version if isinstance(version, str) and _VERSION.fullmatch(version) else "unknown"

    def _ask(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[int, httpx2.Headers, bytes]:
        client, token = self._open(), token_of(self._to)
        given = {
            "Accept": MEDIA_TYPE,
            # What is counted is what comes over the wire: nothing swells here.
            "Accept-Encoding": "identity",
            "User-Agent": "radnode",
            **headers,
            **({"Authorization": f"Bearer {token}"} if token else {}),
        }
        until_s = time.monotonic() + self._to.response_timeout_s
        try:
            with client.stream(method, url, headers=given, content=body) as answer:
                said = bytearray()
                for part in answer.iter_raw():
                    said += part
                    if len(said) > _MOST_BYTES:
                        raise PeerUnavailable(f"{self._where} answers without an end")
                    if time.monotonic() > until_s:
                        raise PeerUnavailable(f"{self._where} did not answer within {self._to.response_timeout_s:g} s")
                return answer.status_code, answer.headers, bytes(said)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            kind = type(error).__name__
            raise NoConnection(f"no connection to {self._where} ({kind}); check url, ca and the way there") from error
        except httpx2.TimeoutException as error:
            raise PeerUnavailable(f"{self._where} did not answer within {self._to.response_timeout_s:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise PeerUnavailable(f"the connection to {self._where} failed ({type(error).__name__})") from error

    @property
    def _where(self) -> str:
        return urlsplit(self._to.url).netloc


def token_of(to: FhirDestination) -> str:
    """The bearer token as it is now; "" where none is set. Raises ConfigError."""
    if to.token_variable:
        token, where = os.environ.get(to.token_variable, "").strip(), f"the variable {to.token_variable}"
    elif to.token_file is not None:
        where = "token_file"
        try:
            token = to.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"token_file cannot be read ({type(error).__name__}); check the file and its permissions"
            ) from error
    else:
        return ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where} holds no token")
    return token


def judge(status: int, said: Json, sent: int, wait_s: float = 0.0) -> Answer:
    """What an answer means. said: its body, {} where that is no JSON. sent: how many entries the transaction had.

    Only a transaction-response that accounts for every entry is a Yes: a page of a proxy answers 200, too.
    """
    if status in {200, 201}:
        return _accounted(said, sent)
    what = f"answered {status}{_issues(said)}"
    if status in {408, 425, 429, 502, 503, 504}:
        return Answer(Verdict.BUSY, f"{what}: it is busy or away", wait_s)
    if status < 400 or status in {401, 403, 404, 405, 406, 407, 410, 415, 421}:
        hint = "redirections are not followed; set url to where it is" if 300 <= status < 400 else "check url and token"
        return Answer(Verdict.CLOSED, f"{what}: it takes nothing so; {hint}")
    if status >= 500:
        return Answer(Verdict.FAILED, f"{what}: it failed", wait_s)
    return Answer(Verdict.REFUSED, f"{what}: refused; see the server's log, then `radnode retry`")


def _accounted(said: Json, sent: int) -> Answer:
    entries = said.get("entry")
    if said.get("resourceType") != "Bundle" or not isinstance(entries, list) or len(entries) != sent:
        return Answer(Verdict.FAILED, "answered Success, but by no transaction-response that accounts for every entry")
    bad = [one for one in map(_status, entries) if not one.startswith("2")]
    if not bad:
        return Answer(Verdict.ACCEPTED, "accepted")
    shown = bad[0][:3] if bad[0][:3].isdigit() else "no status"
    return Answer(Verdict.REFUSED, f"answered Success, but for {len(bad)} of {sent} entries {shown}; see its log")


def _status(entry: Any) -> str:
    response = entry.get("response") if isinstance(entry, dict) else None
    status = response.get("status") if isinstance(response, dict) else None
    return status if isinstance(status, str) else ""


def _issues(said: Json) -> str:
    """The codes of an OperationOutcome: its texts may quote what was sent."""
    issues = said.get("issue")
    codes = [one.get("code") for one in issues[:20] if isinstance(one, dict)] if isinstance(issues, list) else []
    known = [code for code in dict.fromkeys(map(str, codes)) if code in _ISSUES]
    return f" ({', '.join(known)})" if known else ""


def retry_after_s(value: str, now: datetime | None = None) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110 10.2.3), at most a day; 0 for none and for nonsense."""
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), _LONGEST_WAIT_S)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return min(max(0.0, (at - (now or datetime.now(UTC))).total_seconds()), _LONGEST_WAIT_S)


def _json(said: bytes) -> Json:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
