"""Packing, signing and unpacking a bundle; who is trusted, and that one changed byte anywhere is one too many."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from models import registry
from models.cli import app
from models.errors import ArchiveError, BundleError, DigestError, SignatureError, SigningKeyError
from models.packaging import Unpacked, keys, pack, signature, unpack
from models.registry import load_bundle, open_bundle
from tests.support import bundles

Trusted = Mapping[str, Ed25519PublicKey]


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def trusted(key: Ed25519PrivateKey) -> Trusted:
    return {keys.key_id(key.public_key()): key.public_key()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundles.hollow_bundle(tmp_path / "bundle")


@pytest.fixture
def packed(folder: Path, tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    return pack(folder, tmp_path / "model.zip", key).path


def nothing_is_left(store: Path) -> bool:
    return not store.exists() or list(store.iterdir()) == []


def test_what_was_packed_is_unpacked_under_its_digest(
    folder: Path, packed: Path, tmp_path: Path, trusted: Trusted
) -> None:
    found = unpack(packed, tmp_path / "store", trusted)
    assert found.bundle.identity == load_bundle(folder).identity
    assert found.bundle.folder == tmp_path / "store" / found.bundle.identity.bundle_digest
    assert [found.signed_by] == list(trusted)
    assert found.archive_sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert [path.name for path in (tmp_path / "store").iterdir()] == [found.bundle.identity.bundle_digest]


def test_the_same_bundle_gives_the_same_bytes(folder: Path, packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert pack(copy, tmp_path / "again.zip").path.read_bytes() == packed.read_bytes()


def test_unpacking_twice_is_unpacking_once_and_mends_what_was_damaged(
    packed: Path, tmp_path: Path, trusted: Trusted
) -> None:
    first = unpack(packed, tmp_path / "store", trusted)
    (first.bundle.folder / "weights.npz").write_bytes(b"damaged")
    assert unpack(packed, tmp_path / "store", trusted).bundle.identity == first.bundle.identity
    assert unpack(packed, tmp_path / "store", trusted) == first


@pytest.mark.parametrize("part", ["zip", "signature"])
def test_any_changed_byte_is_refused_before_the_zip_is_opened(
    packed: Path, tmp_path: Path, trusted: Trusted, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        pytest.fail("the zip was opened")

    monkeypatch.setattr("models.packaging.archive.extract", opened)
    target = packed if part == "zip" else signature.path_of(packed)
    whole = target.read_bytes()
    step = max(1, len(whole) // 300)
    for place in range(0, len(whole), step):
        changed = bytearray(whole)
        changed[place] ^= 0x01 if chr(changed[place]) not in "\n " else 0x2A
        target.write_bytes(changed)
        with pytest.raises(SignatureError):
            unpack(packed, tmp_path / "store", trusted, allow_unsigned=True)
    assert nothing_is_left(tmp_path / "store")


def test_white_space_in_a_signature_is_a_change_too(packed: Path, tmp_path: Path, trusted: Trusted) -> None:
    beside = signature.path_of(packed)
    for changed in (beside.read_bytes() + b"\n", json.dumps(json.loads(beside.read_bytes())).encode()):
        beside.write_bytes(changed)
        with pytest.raises(SignatureError, match="was changed"):
            unpack(packed, tmp_path / "store", trusted)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"signature": 3}', b"[" * 4000, b"x" * 10_000])
def test_what_is_no_signature_is_refused(packed: Path, tmp_path: Path, trusted: Trusted, content: bytes) -> None:
    signature.path_of(packed).write_bytes(content)
    with pytest.raises(SignatureError, match="no signature"):
        unpack(packed, tmp_path / "store", trusted, allow_unsigned=True)


def test_an_unknown_key_is_refused_even_where_unsigned_bundles_are_not(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="not trusted here"):
        unpack(packed, tmp_path / "store", {}, allow_unsigned=True)


def test_a_signature_by_another_key_under_a_trusted_id_is_refused(
    packed: Path, tmp_path: Path, trusted: Trusted
) -> None:
    sha256 = hashlib.sha256(packed.read_bytes()).hexdigest()
    forged = signature.sign(sha256, Ed25519PrivateKey.generate())
    (known,) = trusted
    signature.path_of(packed).write_bytes(signature.Signature(known, sha256, forged.value).to_bytes())
    with pytest.raises(SignatureError, match="not made with the key"):
        unpack(packed, tmp_path / "store", trusted)


def test_a_signature_for_something_else_with_the_same_key_means_nothing(
    packed: Path, tmp_path: Path, trusted: Trusted, key: Ed25519PrivateKey
) -> None:
    digest = hashlib.sha256(packed.read_bytes())
    (known,) = trusted
    bare = signature.Signature(known, digest.hexdigest(), key.sign(digest.digest()))
    signature.path_of(packed).write_bytes(bare.to_bytes())
    with pytest.raises(SignatureError):
        unpack(packed, tmp_path / "store", trusted)


def test_unsigned_zips_are_taken_only_on_demand(folder: Path, tmp_path: Path, trusted: Trusted) -> None:
    made = pack(folder, tmp_path / "unsigned.zip")
    assert made.signed_by == ""
    with pytest.raises(SignatureError, match="not signed"):
        unpack(made.path, tmp_path / "store", trusted)
    assert nothing_is_left(tmp_path / "store")
    found: Unpacked = unpack(made.path, tmp_path / "store", trusted, allow_unsigned=True)
    assert found.signed_by == ""


def test_packing_again_without_a_key_leaves_no_old_signature(folder: Path, packed: Path) -> None:
    assert signature.path_of(packed).exists()
    pack(folder, packed)
    assert not signature.path_of(packed).exists()


def test_a_folder_that_is_no_whole_bundle_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / "MODEL_CARD.md").write_text("changed")
    with pytest.raises(BundleError):
        pack(folder, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_a_zip_that_is_not_there_is_said_so(tmp_path: Path, trusted: Trusted) -> None:
    with pytest.raises(ArchiveError, match="no file"):
        unpack(tmp_path / "none.zip", tmp_path / "store", trusted)


def test_keys_are_made_for_their_owner_alone_and_never_replaced(tmp_path: Path) -> None:
    private, public, identity = keys.generate(tmp_path, "site", b"secret")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert list(keys.trusted(tmp_path)) == [identity]
    assert keys.key_id(keys.read_private(private, b"secret").public_key()) == identity
    assert public.suffix == ".pub"
    for passphrase in (None, b"wrong"):
        with pytest.raises(SigningKeyError, match="passphrase"):
            keys.read_private(private, passphrase)
    with pytest.raises(SigningKeyError, match="site"):
        keys.generate(tmp_path, "site")


def test_only_ed25519_keys_are_keys_here(tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1())
    (tmp_path / "other.pub").write_bytes(
        other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "other.key").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for read in (lambda: keys.trusted(tmp_path), lambda: keys.read_private(tmp_path / "other.key")):
        with pytest.raises(SigningKeyError, match="Ed25519"):
            read()
    (tmp_path / "other.pub").write_text("no key")
    with pytest.raises(SigningKeyError, match="no public key"):
        keys.trusted(tmp_path)
    assert keys.trusted(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("loose", ["folder", "file"])
def test_keys_that_anybody_could_replace_are_not_trusted(tmp_path: Path, loose: str) -> None:
    _, public, _ = keys.generate(tmp_path / "keys", "site")
    (public.parent if loose == "folder" else public).chmod(0o777)
    with pytest.raises(SigningKeyError, match="everybody may write"):
        keys.trusted(tmp_path / "keys")


def test_the_commands_make_a_key_and_a_signed_zip(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a passphrase\n")
    secret = ["--passphrase-file", str(tmp_path / "words")]
    made = CliRunner().invoke(app, ["keygen", "--out", str(tmp_path / "keys"), "--name", "site", *secret])
    assert made.exit_code == 0
    out, key = tmp_path / "m.zip", str(tmp_path / "keys" / "site.key")
    done = CliRunner().invoke(app, ["pack", str(folder), "--out", str(out), "--key", key, *secret, "--json"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert unpack(out, tmp_path / "store", keys.trusted(tmp_path / "keys")).signed_by == told["signed_by"]
    locked = CliRunner().invoke(app, ["pack", str(folder), "--out", str(out), "--key", key])
    assert locked.exit_code == 1
    assert "passphrase" in locked.stderr
    unsigned = CliRunner().invoke(app, ["pack", str(folder), "--out", str(out)])
    assert "not signed" in unsigned.stderr
    assert CliRunner().invoke(app, ["keygen", "--out", str(tmp_path), "--name", "../x"]).exit_code == 1


def test_the_list_of_shipped_bundles_is_current() -> None:
    assert registry.SHIPPED_DIGESTS.read_text() == registry.shipped_sums(), "run python -m models.registry"


def test_a_shipped_bundle_that_is_not_the_listed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundles.hollow_bundle(tmp_path / "shipped" / "test-model")
    monkeypatch.setattr(registry, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(registry, "SHIPPED_DIGESTS", tmp_path / "shipped" / "SHA256SUMS")
    registry.SHIPPED_DIGESTS.write_text(registry.shipped_sums())
    assert registry.load("test-model").manifest.version == "1.0.0"
    bundles.write_manifest(folder, bundles.document(folder) | {"version": "1.0.1"})
    with pytest.raises(DigestError, match="not the one that came"):
        registry.load("test-model")
    with pytest.raises(DigestError):
        open_bundle(folder)
