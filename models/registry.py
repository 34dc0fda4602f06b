"""Finding bundles, and proving them whole before use.

A shipped bundle is trusted because `bundles/SHA256SUMS`, which comes with the code, lists its manifest's digest;
``python -m models.registry`` renews that list in a working copy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from models.contracts import ModelIdentity
from models.errors import BundleNotFoundError, DigestError
from models.manifest import MANIFEST, Manifest, digest_of, read_manifest, verify_files

SHIPPED = Path(__file__).parent / "bundles"
SHIPPED_DIGESTS = SHIPPED / "SHA256SUMS"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    folder: Path
    manifest: Manifest
    identity: ModelIdentity

    @property
    def weights(self) -> Path:
        """npz of the network's arrays."""
        return self.folder / self.manifest.file("weights")

    @property
    def golden(self) -> Path:
        """npz of the bundle's own test vectors."""
        return self.folder / self.manifest.file("golden")


def load_bundle(folder: Path) -> Bundle:
    """Check the manifest, then every file's digest. Raises BundleError; opens no weights."""
    manifest, digest = read_manifest(folder)
    verify_files(folder, manifest)
    weights = next(f.sha256 for f in manifest.files if f.path == manifest.file("weights"))
    identity = ModelIdentity(
        id=manifest.id,
        name=manifest.name,
        version=manifest.version,
        manufacturer=manifest.manufacturer,
        bundle_digest=digest,
        weights_digest=weights,
        licence=manifest.licence,
    )
    return Bundle(folder, manifest, identity)


def open_bundle(folder: Path) -> Bundle:
    """Like `load_bundle`; a shipped bundle must moreover be the one that was shipped. Raises BundleError."""
    bundle = load_bundle(folder)
    if folder.parent == SHIPPED and shipped_digests().get(folder.name) != bundle.identity.bundle_digest:
        raise DigestError(
            f"bundle {folder.name} is not the one that came with this release; install radnode again (in a working "
            "copy: python -m models.registry)"
        )
    return bundle


def shipped_digests() -> dict[str, str]:
    """The SHA-256 (hex) of each shipped bundle's manifest, by folder; as `sha256sum` writes them."""
    lines = SHIPPED_DIGESTS.read_text(encoding="ascii").splitlines()
    return {path.partition("/")[0]: digest for digest, _, path in (line.partition("  ") for line in lines)}


def shipped_sums() -> str:
    """What `SHA256SUMS` should hold."""
    found = sorted(SHIPPED.glob(f"*/{MANIFEST}"))
    return "".join(f"{digest_of(path)}  {path.relative_to(SHIPPED).as_posix()}\n" for path in found)


def candidates(extra: Iterable[Path] = ()) -> list[Path]:
    """Every folder that looks like a bundle, shipped ones first; none of them is opened."""
    return [path.parent for root in (SHIPPED, *extra) for path in sorted(root.glob(f"*/{MANIFEST}"))]


def find_folders(extra: Iterable[Path] = ()) -> dict[str, Path]:
    """Bundle folders by id; an extra folder's bundle outweighs a shipped one of the same id.

    Raises ManifestError where a folder that looks like a bundle is none.
    """
    found: dict[str, Path] = {}
    for folder in candidates(extra):
        found[read_manifest(folder)[0].id] = folder
    return found


def load(model_id: str, extra: Iterable[Path] = ()) -> Bundle:
    """The verified bundle with that id. Raises BundleError."""
    folders = find_folders(extra)
    if model_id not in folders:
        raise BundleNotFoundError(f"no model {model_id!r}; there are {', '.join(sorted(folders)) or 'none'}")
    return open_bundle(folders[model_id])


if __name__ == "__main__":
    SHIPPED_DIGESTS.write_text(shipped_sums(), encoding="ascii")
    sys.exit(0)
