"""Whose request it is: the address and the scheme behind trusted proxies, and no others. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Client:
    """address: as it is counted and recorded. secure: it came over TLS. direct: through no proxy."""

    address: str
    secure: bool
    direct: bool

    @property
    def loopback(self) -> bool:
        """On this machine itself: neither from elsewhere through a proxy nor one that a header claims."""
        found = _address(self.address)
        return self.direct and found is not None and found.is_loopback


def identify(
    peer: str,
    scheme: str,
    forwarded_for: str | None,
    forwarded_proto: str | None,
    trusted: tuple[Network, ...],
) -> Client:
    """The client of a request.

    peer: the address that connected. forwarded_for: X-Forwarded-For, whose entries proxies append; believed from the
    right as far as trusted proxies stand there. An untrusted peer's headers say nothing, except that it is not direct.
    """
    secure = scheme == "https"
    direct = forwarded_for is None and forwarded_proto is None
    if not is_trusted(peer, trusted):
        return Client(_plain(peer), secure, direct)
    if forwarded_proto is not None:
        secure = forwarded_proto.split(",")[-1].strip().lower() == "https"
    address = peer
    for entry in reversed((forwarded_for or "").split(",")):
        if not is_trusted(address, trusted) or _address(entry.strip()) is None:
            break
        address = entry.strip()
    return Client(_plain(address), secure, direct)


def networks(entries: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and CIDR ranges of the settings."""
    return tuple(ipaddress.ip_network(entry, strict=False) for entry in entries)


def is_trusted(address: str, trusted: tuple[Network, ...]) -> bool:
    """Whether an address is a proxy that the settings name."""
    found = _address(address)
    return found is not None and any(found in network for network in trusted)


def _plain(address: str) -> str:
    found = _address(address)
    return _UNKNOWN if found is None else str(found)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else found
