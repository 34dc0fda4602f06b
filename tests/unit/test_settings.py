from __future__ import annotations

import os
from pathlib import Path

import pytest

from db.errors import ConfigError
from node.settings import Peer, Settings, broker_socket, config_digest, load
from node.settings_section import is_loopback
from workers.app import make_app


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("RADNODE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str) -> Path:
    path = folder / "radnode.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_node_without_settings_listens_on_loopback_and_sends_nowhere_else() -> None:
    settings = load()
    assert (settings.ae_title, settings.dicom_host, settings.dicom_port) == ("RADNODE", "127.0.0.1", 11112)
    assert (settings.web_host, settings.web_port) == ("127.0.0.1", 8042)
    assert settings.peers == {}
    assert [route.destinations for route in settings.routes] == [("sender",)]
    assert settings.record_url == f"sqlite:///{Path.cwd() / 'radnode-data' / 'radnode.db'}"
    assert settings.embedded_broker
    assert settings.effective_broker_url == f"redis+socket://{broker_socket(Path.cwd() / 'radnode-data')}"


def test_the_environment_outweighs_the_file_and_the_file_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(
        tmp_path, 'ae_title = "FILE"\nweb_port = 81\n[limits]\nmax_associations = 7\nmax_pdu_bytes = 16384\n'
    )
    monkeypatch.setenv("RADNODE_AE_TITLE", "ENVIRONMENT")
    monkeypatch.setenv("RADNODE_LIMITS__MAX_ASSOCIATIONS", "9")
    settings = load(path)
    assert (settings.ae_title, settings.web_port, settings.dicom_port) == ("ENVIRONMENT", 81, 11112)
    assert (settings.limits.max_associations, settings.limits.max_pdu_bytes) == (9, 16384)


def test_services_of_ones_own_are_used_as_named() -> None:
    own = Settings(database_url="postgresql://db/radnode", broker_url="redis://127.0.0.1/3")
    assert own.record_url == "postgresql://db/radnode"
    assert not own.embedded_broker
    assert own.effective_broker_url == "redis://127.0.0.1/3"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().ae_title = "OTHER"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dicom_prot = 104", "dicom_prot"),
        ("dicom_port = 0", "dicom_port"),
        ('ae_title = "LONGER THAN SIXTEEN"', "ae_title"),
        ("[limits]\nmax_pdu_bytes = 1", "limits.max_pdu_bytes"),
        ('[[routes]]\nname = "a"\nmodels = ["m"]\ndestinations = ["nowhere"]', "nowhere"),
        ('[[routes]]\nname = "a"\nmodels = ["m"]\n[[routes]]\nname = "a"\nmodels = ["m"]', "same name"),
        ('[[routes]]\nname = "a"\nmodels = ["m"]\n[routes.match]\nstudy_description = "("', "regular expression"),
        ('[tls]\ncertificate = "a.pem"', "come together"),
        ('[tls]\ncertificate = "a.pem"\nprivate_key = "b.pem"', "needs ca"),
        ('dicom_host = "0.0.0.0"', "without TLS"),
        ('dicom_host = "0.0.0.0"\n[access]\nallow_plain_beyond_loopback = true', "known_peers_only"),
        ('broker_url = "redis://:secret@cache/0"', "reached in the clear"),
        ('broker_url = "rediss://cache/0"', "wants no password"),
        ('[peers.pacs]\nae_title = "PACS"\nhost = "pacs"\naddresses = ["10.0.0.0/99"]', "peers.pacs.addresses"),
        ('[peers."no spaces"]\nae_title = "PACS"\nhost = "pacs"', "peers"),
        ("ae_title = ", "no valid TOML"),
        ("[work]\nsoft_time_limit_s = 400", "hard_time_limit_s"),
        ("[work]\nsoft_time_limit_s = 60\nhard_time_limit_s = 60", "hard_time_limit_s"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert named in str(caught.value)


def test_a_weak_broker_is_taken_where_the_settings_say_so(tmp_path: Path) -> None:
    url = "redis://:secret@cache/0"
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, f'broker_url = "{url}"'))
    assert "secret" not in str(caught.value)
    assert load(written(tmp_path, f'broker_url = "{url}"\nallow_weak_broker = true')).broker_url == url
    assert load(written(tmp_path, 'broker_url = "rediss://:secret@cache/0"')).broker_url


def test_a_wrong_value_is_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_WEB_PORT", "s3cret")
    monkeypatch.setenv("RADNODE_LOG_FORMAT", "pa55word")
    with pytest.raises(ConfigError, match=r"web_port.*log_format|log_format.*web_port") as caught:
        load()
    assert "s3cret" not in str(caught.value)
    assert "pa55word" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no settings file"):
        load(tmp_path / "gone.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no valid TOML"):
        load(binary)


def test_nothing_is_promised_for_good_that_is_deleted_in_time(tmp_path: Path) -> None:
    file = tmp_path / "radnode.toml"
    for text, promised in (
        ("[notices]\ncommitment = true\n", False),
        ("[notices]\ncommitment = true\n[retention]\nimages_days = 0\n", True),
        ("[notices]\ncommitment = true\n[retention]\nimages_days = 0\ndelete_early = true\n", False),
        ("[notices]\ncommitment = true\ncommitment_although_deleting = true\n", True),
    ):
        file.write_text(text)
        if promised:
            assert load(file).notices.commitment
        else:
            with pytest.raises(ConfigError, match=r"promises to keep what \[retention\] deletes"):
                load(file)


def test_beyond_loopback_is_possible_when_said(tmp_path: Path) -> None:
    text = 'dicom_host = "0.0.0.0"\n[access]\nallow_plain_beyond_loopback = true\nknown_peers_only = true\n'
    assert load(written(tmp_path, text)).dicom_host == "0.0.0.0"
    tls = (
        'dicom_host = "::"\n[tls]\ncertificate = "a"\nprivate_key = "b"\nca = "c"\n[access]\nknown_peers_only = true\n'
    )
    assert load(written(tmp_path, tls)).tls.certificate == Path("a")


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("pacs.example", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


def test_a_peer_is_found_by_its_ae_title() -> None:
    pacs, other = Peer(ae_title="PACS", host="a"), Peer(ae_title="PACS ", host="b")
    settings = Settings(peers={"first": pacs, "second": other})
    assert settings.peer_by_ae(" PACS ") == ("first", pacs)
    assert settings.peer_by_ae("pacs") is None


def test_a_message_stays_out_of_other_hands_longer_than_its_worker_lives() -> None:
    long = Settings.model_validate({"work": {"hard_time_limit_s": 7200}})
    assert (Settings().work.visibility_s, long.work.visibility_s) == (3600, 14400)
    for settings in (Settings(), long):
        told = make_app(settings).conf.broker_transport_options["visibility_timeout"]
        assert told == settings.work.visibility_s


def test_a_deep_data_folder_gets_a_short_socket(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["folder"] * 20)
    assert len(str(broker_socket(deep))) < 100
    assert broker_socket(deep) == broker_socket(deep)
    assert broker_socket(deep) != broker_socket(deep / "other")
    assert broker_socket(Path("/srv/radnode")) == Path("/srv/radnode/broker/valkey.sock")


def test_the_digest_follows_what_shapes_results_only() -> None:
    base = Settings()
    assert config_digest(base) == config_digest(Settings(web_port=9))
    assert config_digest(base) != config_digest(Settings(ae_title="OTHER"))
    assert config_digest(base) != config_digest(Settings(routes=()))
