"""Who may open an association: a pure decision. AE titles are names, not proof; addresses and TLS do the guarding."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import get_args

from node.settings import Peer, Settings, Use

# Host name -> the addresses it has now.
Resolve = Callable[[str], Iterable[str]]


@dataclass(frozen=True)
class Rejection:
    """The three fields of an A-ASSOCIATE-RJ (PS3.8 9.3.4) and why, for the record."""

    result: int
    source: int
    diagnostic: int
    reason: str


REJECTED_PERMANENT = 1
SERVICE_USER = 1
CALLING_AE_NOT_RECOGNISED = 3
CALLED_AE_NOT_RECOGNISED = 7
EVERYTHING: frozenset[Use] = frozenset(get_args(Use))


def judge(settings: Settings, *, called_ae: str, calling_ae: str, address: str, resolve: Resolve) -> Rejection | None:
    """None where the association may be opened.

    resolve: asked only for peers that name a host and no addresses.
    """
    if settings.access.check_called_ae and called_ae.strip() != settings.ae_title.strip():
        return Rejection(
            REJECTED_PERMANENT, SERVICE_USER, CALLED_AE_NOT_RECOGNISED, "it calls an AE title that is not this node's"
        )
    if not settings.access.known_peers_only:
        return None
    if not any(
        peer.ae_title.strip() == calling_ae.strip() and _calls_from(peer.addresses, peer.host, address, resolve)
        for peer in settings.peers.values()
    ):
        return Rejection(
            REJECTED_PERMANENT,
            SERVICE_USER,
            CALLING_AE_NOT_RECOGNISED,
            "no peer entry names its AE title with its address",
        )
    return None


def permitted(settings: Settings, *, calling_ae: str, address: str, resolve: Resolve) -> frozenset[Use]:
    """What a caller may ask for beside C-ECHO; everything where no peer entry names its AE title.

    Of several entries with that title those count that name its address; where none does, what all of them permit.

    resolve: asked only where such entries differ, for those that name a host and no addresses.
    """
    named = [peer for peer in settings.peers.values() if peer.ae_title.strip() == calling_ae.strip()]
    if not named:
        return EVERYTHING
    each = [frozenset(peer.may) for peer in named]
    if len(set(each)) > 1:
        here = [frozenset(p.may) for p in named if _calls_from(p.addresses, p.host, address, resolve)]
        if here:
            return frozenset[Use]().union(*here)
    return EVERYTHING.intersection(*each)


def is_peer(peer: Peer, calling_ae: str, address: str, resolve: Resolve) -> bool:
    """Whether a caller has the AE title of a peer entry, and calls from where that peer does."""
    same = peer.ae_title.strip() == calling_ae.strip()
    return same and _calls_from(peer.addresses, peer.host, address, resolve)


def _calls_from(networks: tuple[str, ...], host: str, address: str, resolve: Resolve) -> bool:
    caller = plain_address(address)
    if caller is None:
        return False
    if networks:
        return any(caller in ipaddress.ip_network(network, strict=False) for network in networks)
    named = plain_address(host)
    allowed = [named] if named is not None else [plain_address(a) for a in resolve(host)]
    return caller in allowed


def plain_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address; an IPv4 one that came through an IPv6 socket as IPv4. None for a host name."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
