"""What the URL of a broker says of its safety: TLS that is checked, a password, or neither."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from node.settings_section import is_loopback

# Celery's transport checks no certificate unless it is told to; the Redis client always does.
_CHECKED = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}


def checked(url: str) -> str:
    """The same URL; with TLS (rediss://) the server's certificate and host are checked unless it says otherwise."""
    if not url.startswith("rediss://"):
        return url
    said = parse_qs(urlsplit(url).query)
    more = "&".join(f"{name}={value}" for name, value in _CHECKED.items() if name not in said)
    if not more:
        return url
    return f"{url}{'&' if '?' in url else '?'}{more}"


def weaknesses(url: str) -> list[str]:
    """What somebody between this machine and the broker, or anybody who reaches it, could use; empty on loopback."""
    parts = urlsplit(checked(url))
    if parts.scheme not in {"redis", "rediss"} or is_loopback(parts.hostname or "localhost"):
        return []
    said = parse_qs(parts.query)
    found = []
    if parts.scheme == "redis":
        found.append("it is reached in the clear")
    elif said["ssl_cert_reqs"][-1] not in {"required", "CERT_REQUIRED"}:
        found.append("its certificate is not checked")
    if not parts.password and "ssl_certfile" not in said:
        found.append("it wants no password")
    return found
