"""A sample's file to a grey image: pictures and NumPy archives here, DICOM through a reader of another package."""

from __future__ import annotations

import re
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.contracts import GreyImage
from models.datasets.paths import inside, shown
from models.errors import DatasetError, ModelError
from models.preprocess import grey_from_uint8

PixelReader = Callable[[Path], GreyImage]
"""One DICOM file to its first frame. What it raises is its own affair; here it becomes a DatasetError."""

GROUP = "radnode.pixel_readers"
"""Entry points of pixel readers; this package knows none of those who offer them."""

_ARCHIVED = re.compile(r"(?P<archive>.+\.npz)#(?P<part>train|val|test)/(?P<index>\d{1,9})", re.ASCII)
# ITU-R 601, as Pillow turns colour into grey.
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_MORE_THAN_8_BITS = ("I", "F")


def find_pixel_reader(name: str = "dicom") -> PixelReader:
    """The installed reader of that name. Raises DatasetError when there is none or it cannot be loaded."""
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise DatasetError(f"no pixel reader {name!r} is installed (entry points {GROUP!r}); DICOM files stay closed")
    try:
        reader = next(iter(found)).load()
    except (ImportError, AttributeError) as error:
        raise DatasetError(f"the pixel reader {name!r} cannot be loaded") from error
    if not callable(reader):
        raise DatasetError(f"the pixel reader {name!r} is no function")
    return reader  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Images:
    """The images of a data set, opened one by one.

    folder: the images' folder. reader: for DICOM files; None takes the installed one when the first of them comes.
    """

    folder: Path
    reader: PixelReader | None = None
    # A reader's decoders are not ours to know as safe for threads.
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def content(self, name: str) -> bytes:
        """The bytes that decide what the image is: of the file, or of the image within an archive.

        Raises DatasetError for a file that is missing, unreadable, or outside the folder.
        """
        if match := _ARCHIVED.fullmatch(name):
            array = self._archived(match)
            return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
        path = inside(self.folder, name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{shown(name)} cannot be read") from error

    def identity(self, name: str) -> tuple[int, int]:
        """Size and time of change (ns) of the file, which tell whether it must be read again. Raises DatasetError."""
        match = _ARCHIVED.fullmatch(name)
        status = inside(self.folder, match["archive"] if match else name).stat()
        return status.st_size, status.st_mtime_ns

    def read(self, name: str) -> GreyImage:
        """Decode one image. Raises DatasetError for a file that is missing, damaged, or outside the folder."""
        if match := _ARCHIVED.fullmatch(name):
            return grey_from_uint8(_grey_uint8(self._archived(match), name))
        path = inside(self.folder, name)
        return self._read_dicom(path, name) if _is_dicom(path) else read_picture(path)

    def _read_dicom(self, path: Path, name: str) -> GreyImage:
        with self._lock:
            reader = self.reader or _installed_reader()
            try:
                return reader(path)
            except (ModelError, MemoryError):
                raise
            except Exception as error:
                # Its message may quote the file; its type is enough here, and the cause is kept.
                raise DatasetError(f"{shown(name)} cannot be read as DICOM ({type(error).__name__})") from error

    def _archived(self, match: re.Match[str]) -> NDArray[Any]:
        path = inside(self.folder, match["archive"])
        images = _archive(path, match["part"], path.stat().st_mtime_ns)
        index = int(match["index"])
        if index >= len(images):
            raise DatasetError(f"{path.name} has {len(images)} images in {match['part']}; there is no {index}")
        array: NDArray[Any] = images[index]
        return array


def read_picture(path: Path) -> GreyImage:
    """A PNG, JPEG or TIFF. Eight bits count as windowed already; more are left for the window step to stretch.

    Raises DatasetError for a damaged file, or one of more pixels than Pillow takes for a decompression bomb.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(_MORE_THAN_8_BITS):
                # Turned into eight bits, Pillow would clip everything above 255 to white.
                return GreyImage(np.asarray(picture).astype(np.float32))
            return grey_from_uint8(np.asarray(picture.convert("L")))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{shown(path.name)} is no readable picture") from error
    except Image.DecompressionBombWarning as error:
        raise DatasetError(f"{shown(path.name)} has too many pixels") from error


@lru_cache(maxsize=1)
def _installed_reader() -> PixelReader:
    return find_pixel_reader()


@lru_cache(maxsize=4)
def _archive(path: Path, part: str, _changed_ns: int) -> NDArray[Any]:
    """All images of one part; the time of change makes a changed archive another entry."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            images: NDArray[Any] = stored[f"{part}_images"]
    except KeyError as error:
        raise DatasetError(f"{path.name} has no images of {part}") from error
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path.name} is no readable .npz archive") from error
    images.setflags(write=False)
    return images


def _grey_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise DatasetError(f"{shown(name)} is no 8-bit image, but {array.dtype} {array.shape}")
    grey: NDArray[np.uint8] = array if array.ndim == 2 else np.rint(array @ _LUMINANCE).astype(np.uint8)
    return grey


def _is_dicom(path: Path) -> bool:
    """By PS3.10 7.1's prefix, or by name: older files begin with the data set at once."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError as error:
        raise DatasetError(f"{shown(path.name)} cannot be read") from error
