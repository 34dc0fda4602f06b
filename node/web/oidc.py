"""Log-in through an identity provider: OpenID Connect Core 1.0, code flow with PKCE (RFC 7636), by authlib.

The answer counts once, in the browser that asked, with the nonce that was sent, signed by the provider's present keys.
"""

from __future__ import annotations

import ssl
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from db import sessions, users
from db.errors import ConfigError, PermanentError, RetriableError
from db.sessions import PendingLogin
from db.types import utcnow
from node.settings import Tls
from node.settings_web import Oidc
from node.tls import client_context
from node.web import tokens
from node.web.access import Open
from node.web.context import context_of
from node.web.destinations import safe_destination
from node.web.identity import clear_cookie, cookie_name, set_cookie
from node.web.login import refuse_login, start_session
from node.web.problems import Problem

log = structlog.get_logger(__name__)

CALLBACK = "/login/oidc/callback"
_COOKIE = "radnode-oidc"
# As long as a person may take at the provider, a second factor included.
_PENDING_S = 600.0
_KNOWN_FOR_S = 3600.0
_LEEWAY_S = 60
# OpenID Connect Core 1.0 section 2. Cut short, two people could become one.
_LONGEST_SUBJECT = 255
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class ProviderUnavailable(RetriableError):
    """The identity provider does not answer."""


class ProviderRefused(PermanentError):
    """The identity provider's answer cannot be used."""


@dataclass(frozen=True)
class Vouched:
    """Somebody the provider vouches for, with their groups there."""

    subject: str
    name: str
    groups: frozenset[str]


class Provider:
    """The identity provider. redirect_uri: where it sends people back to. Raises ConfigError."""

    def __init__(self, settings: Oidc, redirect_uri: str) -> None:
        self.settings = settings
        self.redirect_uri = redirect_uri
        self._secret = _secret(settings)
        self._verify = _trust(settings)
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._known_until = 0.0
        self._keys: KeySet | None = None

    def authorization_url(self, state: str, nonce: str, code_verifier: str) -> str:
        """Where to send a browser. Raises ProviderUnavailable, ProviderRefused."""
        endpoint = self._endpoint("authorization_endpoint")
        with self._client() as client:
            url, _ = client.create_authorization_url(endpoint, state=state, nonce=nonce, code_verifier=code_verifier)
        return str(url)

    def vouch(self, code: str, nonce: str, code_verifier: str) -> Vouched:
        """Exchange the code and read the ID token. Raises ProviderUnavailable, ProviderRefused."""
        endpoint = self._endpoint("token_endpoint")
        try:
            with self._client() as client:
                answer = client.fetch_token(
                    endpoint, grant_type="authorization_code", code=code, code_verifier=code_verifier
                )
        except httpx2.HTTPError as error:
            raise ProviderUnavailable("the identity provider's token endpoint does not answer") from error
        except (AuthlibBaseError, ValueError) as error:
            raise ProviderRefused("the identity provider refused the code") from error
        claims = self._claims(str(answer.get("id_token", "")), nonce)
        subject = str(claims["sub"])
        if not subject.isprintable() or len(subject) > _LONGEST_SUBJECT:
            raise ProviderRefused("the identity provider's subject is no printable text of 255 characters")
        name = claims.get(self.settings.name_claim) or subject
        groups = claims.get(self.settings.groups_claim) or []
        listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        return Vouched(subject, _plain(str(name)), frozenset(str(group) for group in listed))

    def _claims(self, id_token: str, nonce: str) -> dict[str, Any]:
        rules = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self._described()["issuer"]},
            aud={"essential": True, "value": self.settings.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            try:
                token = jwt.decode(id_token, self._key_set(), algorithms=_ALGORITHMS)
            except (JoseError, ValueError):
                # The provider may have changed its keys since they were fetched.
                token = jwt.decode(id_token, self._key_set(fresh=True), algorithms=_ALGORITHMS)
            rules.validate(token.claims)
        except (JoseError, ValueError) as error:
            raise ProviderRefused(f"the identity provider's ID token does not hold ({type(error).__name__})") from error
        if token.claims.get("azp", self.settings.client_id) != self.settings.client_id:
            raise ProviderRefused("the identity provider's ID token was made for another client")
        return dict(token.claims)

    def _endpoint(self, name: str) -> str:
        found = self._described().get(name)
        if not isinstance(found, str):
            raise ProviderRefused(f"the identity provider names no {name}")
        return found

    def _described(self) -> dict[str, Any]:
        """The provider's description of itself (OpenID Connect Discovery 1.0), read once an hour."""
        with self._lock:
            if time.monotonic() < self._known_until:
                return self._metadata
            found = self._get(f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self.settings.issuer:
                raise ProviderRefused("the identity provider calls itself by another issuer than web.oidc.issuer")
            self._metadata, self._known_until = found, time.monotonic() + _KNOWN_FOR_S
            return found

    def _key_set(self, *, fresh: bool = False) -> KeySet:
        if self._keys is None or fresh:
            self._keys = KeySet.import_key_set(self._get(self._endpoint("jwks_uri")))  # type: ignore[arg-type]
        return self._keys

    def _get(self, url: str) -> dict[str, Any]:
        try:
            with httpx2.Client(verify=self._verify, timeout=self.settings.timeout_s) as client:
                answer = client.get(url).raise_for_status().json()
        except (httpx2.HTTPError, ValueError) as error:
            raise ProviderUnavailable("the identity provider does not answer, or not as one") from error
        if not isinstance(answer, dict):
            raise ProviderUnavailable("the identity provider does not answer as one")
        return answer

    def _client(self) -> OAuth2Client:
        return OAuth2Client(
            client_id=self.settings.client_id,
            client_secret=self._secret,
            scope=" ".join(self.settings.scopes),
            redirect_uri=self.redirect_uri,
            code_challenge_method="S256",
            verify=self._verify,
            timeout=self.settings.timeout_s,
        )


def add_routes(app: FastAPI) -> None:
    app.get("/login/oidc", include_in_schema=False, dependencies=[Depends(Open())])(go_to_provider)
    app.get(CALLBACK, include_in_schema=False, dependencies=[Depends(Open())])(come_back)


def go_to_provider(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the link
    """Send the browser to the identity provider."""
    context, provider = context_of(request), _provider(request)
    state, nonce, verifier, browser = (tokens.new_token() for _ in range(4))
    url = provider.authorization_url(state, nonce, verifier)
    pending = PendingLogin(tokens.digest(browser), nonce, verifier, safe_destination(next))
    now = utcnow()
    with context.record.write() as session:
        sessions.purge(session, window_s=context.settings.web.lock_s, now=now)
        sessions.begin_login(session, tokens.digest(state), pending, expires_at=now + timedelta(seconds=_PENDING_S))
    response = RedirectResponse(url, 303)
    set_cookie(request, response, browser, _COOKIE)
    return response


def come_back(request: Request, state: str = "", code: str = "", iss: str = "") -> Response:
    """The browser is back from the identity provider."""
    context, provider = context_of(request), _provider(request)
    with context.record.write() as session:
        pending = sessions.take_login(session, tokens.digest(state), now=utcnow())
    browser = request.cookies.get(cookie_name(request, _COOKIE), "")
    if pending is None or not tokens.same(tokens.digest(browser), pending.browser_digest):
        raise refuse_login(request, "this log-in is over, or was begun in another browser; begin again")
    if not code or (iss and iss != provider.settings.issuer):
        raise refuse_login(request, "the identity provider let nobody in; begin again")
    try:
        person = provider.vouch(code, pending.nonce, pending.code_verifier)
    except ProviderRefused as error:
        log.warning("oidc_refused", reason=str(error))
        raise refuse_login(request, "the identity provider's answer does not hold; begin again") from error
    roles = provider.settings.roles.roles_of(person.groups)
    with context.record.write() as session:
        user = users.vouched(session, provider.settings.issuer, person.subject, person.name, roles)
    if user.disabled:
        raise refuse_login(request, "this account is disabled", actor=user.name)
    if not roles:
        raise refuse_login(request, "none of your groups has a role on this node", actor=user.name)
    response = start_session(request, user, pending.destination, "oidc")
    clear_cookie(request, response, _COOKIE)
    return response


def _provider(request: Request) -> Provider:
    found = context_of(request).provider
    if found is None:
        raise Problem(404, "no identity provider is configured")
    return found


def _plain(name: str) -> str:
    """A name fit for lists and logs, whatever the provider sends."""
    return "".join(c for c in name if c.isprintable())[:64].strip() or "unnamed"


def _secret(settings: Oidc) -> str | None:
    if settings.client_secret_file is None:
        return None
    try:
        return settings.client_secret_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"web.oidc.client_secret_file cannot be read ({type(error).__name__}); check the file and its permissions"
        ) from error


def _trust(settings: Oidc) -> ssl.SSLContext:
    try:
        return client_context(Tls(ca=settings.ca))
    except ConfigError as error:
        raise ConfigError("web.oidc.ca cannot be read as PEM; check the file and its permissions") from error
