"""A broker beyond loopback: TLS is checked by both clients, and what is weak is named."""

from __future__ import annotations

from pathlib import Path

import kombu.pools
import pytest

from db import outbox
from db.errors import BrokerUnavailable
from node import broker
from node.broker_url import checked, weaknesses
from node.settings import Settings
from tests.support.certificates import authority
from tests.support.processes import free_port, program, running
from workers.app import Publisher, make_app


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis+socket:///run/valkey.sock", []),
        ("redis://127.0.0.1:6379/0", []),
        ("redis://cache/0", ["clear", "password"]),
        ("redis://:secret@10.0.0.7:6379/0", ["clear"]),
        ("rediss://cache:6379/0", ["password"]),
        ("rediss://:secret@cache:6379/0", []),
        ("rediss://cache:6379/0?ssl_certfile=a.pem&ssl_keyfile=a.key", []),
        ("rediss://:secret@cache:6379/0?ssl_cert_reqs=none", ["not checked"]),
    ],
)
def test_what_is_weak_is_named_without_a_secret(url: str, named: list[str]) -> None:
    found = weaknesses(url)
    assert len(found) == len(named)
    assert all(word in said for word, said in zip(named, found, strict=True))
    assert "secret" not in repr(found)


def test_only_tls_is_added_to_and_what_is_said_stays() -> None:
    assert checked("redis://cache/0") == "redis://cache/0"
    said = "rediss://cache/0?ssl_cert_reqs=none&ssl_check_hostname=false"
    assert checked(said) == said


def test_both_clients_take_the_right_server_only(tmp_path: Path) -> None:
    own, stranger = authority(tmp_path), authority(tmp_path, "stranger")
    certificate, key = own.issue("redis")
    port = free_port()
    options = {"port": 0, "tls-port": port, "bind": "127.0.0.1", "save": "", "dir": tmp_path, "requirepass": "secret"}
    tls = {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": own.ca, "tls-auth-clients": "no"}
    argv = [program("redis-server", "redis-server")]
    for name, value in (options | tls).items():
        argv += [f"--{name}", str(value)]

    def settings(query: str) -> Settings:
        return Settings(broker_url=f"rediss://:secret@127.0.0.1:{port}/0{query}")

    def answers() -> bool:
        try:
            broker.ping(settings(f"?ssl_ca_certs={own.ca}").effective_broker_url)
        except BrokerUnavailable:
            return False
        return True

    with running(argv, answers, log=tmp_path / "redis.log"):
        # Its pool knows connections by host and port alone: the wrong ones go first.
        for query in ("", f"?ssl_ca_certs={stranger.ca}"):
            with pytest.raises(BrokerUnavailable):
                broker.ping(settings(query).effective_broker_url)
            with pytest.raises(BrokerUnavailable):
                Publisher(make_app(settings(query)))(outbox.TOPIC_INFER, "1")
            kombu.pools.reset()  # type: ignore[no-untyped-call]
        right = settings(f"?ssl_ca_certs={own.ca}")
        Publisher(make_app(right))(outbox.TOPIC_INFER, "2")
        with broker.client(right.effective_broker_url) as client:
            assert client.llen(outbox.TOPIC_INFER) == 1
