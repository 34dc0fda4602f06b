from __future__ import annotations

from collections.abc import Iterable

import pytest

from node.access import CALLED_AE_NOT_RECOGNISED, CALLING_AE_NOT_RECOGNISED, EVERYTHING, judge, permitted
from node.settings import Access, Peer, Settings

PEERS = {
    "pacs": Peer(ae_title="PACS", host="pacs.example.org"),
    "ward": Peer(ae_title="WARD", host="ward.example.org", addresses=("10.1.0.0/16", "fd00::/8")),
    "fixed": Peer(ae_title="FIXED", host="192.0.2.7"),
}


def resolve(host: str) -> Iterable[str]:
    return {"pacs.example.org": ["192.0.2.1", "2001:db8::1"]}.get(host, [])


def diagnostic(settings: Settings, calling: str, address: str, called: str = "RADNODE") -> int | None:
    found = judge(settings, called_ae=called, calling_ae=calling, address=address, resolve=resolve)
    return None if found is None else found.diagnostic


def test_the_called_title_is_checked_where_configured() -> None:
    assert diagnostic(Settings(), "ANY", "192.0.2.99", called="OTHER") == CALLED_AE_NOT_RECOGNISED
    assert diagnostic(Settings(), "ANY", "192.0.2.99", called="RADNODE ") is None
    assert (
        diagnostic(
            Settings().model_copy(update={"access": Access(check_called_ae=False)}), "ANY", "192.0.2.99", called="OTHER"
        )
        is None
    )


@pytest.mark.parametrize(
    ("calling", "address", "welcome"),
    [
        ("PACS", "192.0.2.1", True),
        ("PACS ", "2001:db8::1", True),
        ("PACS", "192.0.2.2", False),
        ("WARD", "10.1.255.3", True),
        ("WARD", "::ffff:10.1.255.3", True),
        ("WARD", "fd00::1%eth0", True),
        ("WARD", "10.2.0.1", False),
        ("FIXED", "192.0.2.7", True),
        ("FIXED", "192.0.2.1", False),
        ("STRANGER", "192.0.2.1", False),
        ("PACS", "not an address", False),
        ("", "192.0.2.1", False),
    ],
)
def test_known_peers_only_takes_title_and_address_together(calling: str, address: str, welcome: bool) -> None:
    settings = Settings().model_copy(update={"peers": PEERS, "access": Access(known_peers_only=True)})
    assert diagnostic(settings, calling, address) == (None if welcome else CALLING_AE_NOT_RECOGNISED)


@pytest.mark.parametrize(
    ("calling", "address", "may"),
    [
        ("STRANGER", "192.0.2.1", EVERYTHING),
        ("PACS", "192.0.2.1", EVERYTHING),
        ("CT1 ", "203.0.113.9", {"store"}),
        ("SHARED", "10.1.0.1", {"store", "notify"}),
        ("SHARED", "10.2.0.1", {"store", "commit"}),
        ("SHARED", "203.0.113.9", {"store"}),
        ("SINK", "192.0.2.9", set()),
    ],
)
def test_a_peer_may_what_its_entry_says(calling: str, address: str, may: set[str]) -> None:
    peers = PEERS | {
        "ct": Peer(ae_title="CT1", host="192.0.2.8", may=("store",)),
        "sink": Peer(ae_title="SINK", host="192.0.2.9", may=()),
        "one": Peer(ae_title="SHARED", host="10.1.0.1", may=("store", "notify")),
        "two": Peer(ae_title="SHARED", host="10.2.0.1", may=("store", "commit")),
    }
    settings = Settings().model_copy(update={"peers": peers})
    assert permitted(settings, calling_ae=calling, address=address, resolve=resolve) == may
