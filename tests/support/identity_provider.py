"""A small OpenID provider on a real socket: discovery, authorisation, token endpoint with PKCE, keys.

It lets in `person` without asking, and checks what a client must send, as OpenID Connect Core 1.0 and RFC 7636 say.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from tests.support.processes import eventually, free_port, listens

CLIENT_ID, CLIENT_SECRET = "radnode", "the client's secret"


class IdentityProvider:
    """`changes` are laid over the claims of the next ID token; `key` signs it."""

    def __init__(self, port: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.person: dict[str, Any] = {"sub": "42", "preferred_username": "ada", "groups": ["readers"]}
        self.changes: dict[str, Any] = {}
        self.key = self._new_key()
        self.published = self.key
        self.redirect_uris: set[str] = set()
        self._codes: dict[str, dict[str, str]] = {}
        self.app = FastAPI()
        self.app.get("/.well-known/openid-configuration")(self._describe)
        self.app.get("/authorize")(self._authorize)
        self.app.post("/token")(self._token)
        self.app.get("/keys")(lambda: KeySet([self.published]).as_dict(private=False))

    def change_key(self) -> None:
        """Sign with another key from now on, and publish it."""
        self.key = self.published = self._new_key()

    def sign_with_a_key_of_somebody_else(self) -> None:
        self.key = self._new_key()

    @staticmethod
    def _new_key() -> ECKey:
        return ECKey.generate_key("P-256", {"kid": secrets.token_hex(4), "use": "sig", "alg": "ES256"})

    def _describe(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
        }

    def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if asked.get("client_id") != CLIENT_ID or asked.get("redirect_uri") not in self.redirect_uris:
            return JSONResponse({"error": "invalid_client"}, 400)
        complete = all(asked.get(name) for name in ("state", "nonce", "code_challenge"))
        if not complete or asked["code_challenge_method"] != "S256" or "openid" not in asked["scope"].split():
            return RedirectResponse(f"{asked['redirect_uri']}?error=invalid_request", 303)
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        query = urlencode({"code": code, "state": asked["state"], "iss": self.issuer})
        return RedirectResponse(f"{asked['redirect_uri']}?{query}", 303)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {basic}":
            return JSONResponse({"error": "invalid_client"}, 401)
        asked = self._codes.pop(form.get("code", ""), None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        fits = asked is not None and (
            base64.urlsafe_b64encode(challenge).rstrip(b"=").decode() == asked["code_challenge"]
            and form.get("redirect_uri") == asked["redirect_uri"]
        )
        if asked is None or not fits or form.get("grant_type") != "authorization_code":
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 60, "nonce": asked["nonce"]}
        header = {"alg": "ES256", "kid": self.key.kid}
        token = jwt.encode(header, {**claims, **self.person, **self.changes}, self.key)
        return JSONResponse({"access_token": "unused", "token_type": "Bearer", "id_token": token})


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    port = free_port()
    provider = IdentityProvider(port)
    server = uvicorn.Server(uvicorn.Config(provider.app, host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually("the identity provider listens", lambda: listens(port))
    try:
        yield provider
    finally:
        server.should_exit = True
        thread.join(10)
