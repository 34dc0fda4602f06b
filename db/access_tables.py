"""Tables of who may come in: people, their sessions, keys of programs, log-ins under way, attempts counted.

No secret is in any of them: passwords are Argon2 hashes, tokens and keys SHA-256 digests of random values.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.tables import Base

_DIGEST = String(64)
# SQLite counts up by itself only for INTEGER keys.
_KEY = BigInteger().with_variant(Integer, "sqlite")


class User(Base):
    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    # "" for people who come through the identity provider: no password opens their account.
    password_hash: Mapped[str] = mapped_column(Text, default="")
    roles: Mapped[list[Any]]
    # Both None for accounts of this node.
    issuer: Mapped[str | None] = mapped_column(String(255))
    subject: Mapped[str | None] = mapped_column(String(255))
    disabled_at: Mapped[datetime | None]
    # Wrong passwords in a row since the last right one or the last lock.
    failures: Mapped[int] = mapped_column(Integer, default=0)
    locked_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    last_login_at: Mapped[datetime | None]


class WebSession(Base):
    __tablename__ = "web_sessions"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    token_digest: Mapped[str] = mapped_column(_DIGEST, unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    address: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str] = mapped_column(String(32), default="")


class OidcLogin(Base):
    """A browser that was sent to the identity provider and has not come back yet; taken once."""

    __tablename__ = "oidc_logins"

    state_digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    # Of a cookie: the answer counts only in the browser that asked.
    browser_digest: Mapped[str] = mapped_column(_DIGEST)
    nonce: Mapped[str] = mapped_column(String(128))
    code_verifier: Mapped[str] = mapped_column(String(128))
    destination: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class LoginAttempts(Base):
    """How often one address failed to log in since `since`; the address itself is not kept."""

    __tablename__ = "login_attempts"

    source_digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    failures: Mapped[int] = mapped_column(Integer)
    since: Mapped[datetime] = mapped_column(index=True)


class ApiKey(Base):
    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    # The part of the key that lists show, so that a person can tell which one is meant.
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    key_digest: Mapped[str] = mapped_column(_DIGEST, unique=True)
    scopes: Mapped[list[Any]]
    created_by: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
