"""What the sections of the settings ask of each other. Each function raises ValueError that says what to set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.broker_url import weaknesses
from node.settings_section import is_loopback

if TYPE_CHECKING:
    from node.settings import Settings


def require_names(settings: Settings) -> None:
    """What one section names, another has; and no promise of one is broken by another."""
    names = [route.name for route in settings.routes]
    if len(names) != len(set(names)):
        raise ValueError("two routes have the same name; results are counted per route, so names must differ")
    for route in settings.routes:
        known = {"sender", *settings.peers, *settings.told}
        unknown = [d for d in route.destinations if d not in known]
        if unknown:
            raise ValueError(
                f"route {route.name} sends to {', '.join(unknown)}, which no [peers.…], [hl7.destinations.…] or "
                "[fhir.destinations.…] entry names"
            )
    named = [*settings.peers, *settings.hl7.destinations, *settings.fhir.destinations]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: DICOM peers, HL7 and FHIR destinations need different names")
    if settings.hl7.listener.enabled and settings.hl7.listener.tls and settings.tls.certificate is None:
        raise ValueError("hl7.listener.tls needs [tls] certificate and private_key")
    deletes = settings.retention.images_days > 0 or settings.retention.delete_early
    if settings.notices.commitment and deletes and not settings.notices.commitment_although_deleting:
        raise ValueError(
            "notices.commitment promises to keep what [retention] deletes; set retention.images_days = 0 and "
            "delete_early = false, or notices.commitment_although_deleting = true where whoever asks keeps its own"
        )
    for section, peer in (("worklist", settings.worklist.peer), ("priors", settings.priors.peer)):
        if peer and peer not in settings.peers:
            raise ValueError(f"{section}.peer is {peer}, which no [peers.…] entry names")
    for name, manager in settings.ups.managers.items():
        unnamed = {manager.peer, manager.retrieve_from} - {"", *settings.peers}
        if unnamed:
            raise ValueError(f"ups.managers.{name} names {', '.join(sorted(unnamed))}, which no [peers.…] entry does")


def require_guarded(settings: Settings) -> None:
    """Nothing is reached beyond loopback in the clear, or by anybody, unless a setting says so."""
    if not is_loopback(settings.dicom_host):
        if settings.tls.certificate is None and not settings.access.allow_plain_beyond_loopback:
            raise ValueError(
                "dicom_host lies beyond loopback without TLS; set [tls] or access.allow_plain_beyond_loopback = true"
            )
        if not settings.access.known_peers_only and not settings.access.allow_unknown_beyond_loopback:
            raise ValueError(
                "dicom_host lies beyond loopback and any peer may call; set access.known_peers_only = true, "
                "or access.allow_unknown_beyond_loopback = true"
            )
    in_the_clear = settings.web.certificate is None and not settings.web.allow_plain_beyond_loopback
    if not is_loopback(settings.web_host) and in_the_clear:
        raise ValueError(
            "web_host lies beyond loopback without HTTPS; set [web] certificate and private_key, "
            "or web.allow_plain_beyond_loopback = true behind a proxy that speaks it"
        )
    weak = weaknesses(settings.broker_url)
    if weak and not settings.allow_weak_broker:
        raise ValueError(
            f"broker_url lies beyond loopback and {' and '.join(weak)}; use rediss://:PASSWORD@HOST:PORT/0, or "
            "allow_weak_broker = true in a network that nobody else reaches"
        )
