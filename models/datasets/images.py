"""Labelled pictures to arrays, through the very steps a bundle is served with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.contracts import FloatArray, GreyImage
from models.datasets.labels import LabelledImage
from models.errors import DatasetError, ManifestError
from models.preprocess import Channels, Steps, apply, grey_from_uint8


def read_grey(path: Path) -> NDArray[np.uint8]:
    """A JPEG or PNG as uint8 (rows, columns), 0 black. Raises DatasetError for a missing or damaged file."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path.name} is missing from the images' folder") from error
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path.name} is no readable picture") from error


@dataclass(frozen=True)
class Tail:
    """The part of the preprocessing after augmentation: grey plane in [0, 1] to the backbone's own range.

    multiply, add: float32 (channels,). stretch: two more of them, which come before and whose result is clipped to
    [0, 1]; None where every channel is the whole plane.
    """

    multiply: FloatArray
    add: FloatArray
    stretch: tuple[FloatArray, FloatArray] | None = None


def split_steps(steps: Steps) -> tuple[Steps, Tail]:
    """The steps up to the grey plane in [0, 1], and what follows them as one affine map.

    Training augments between the two. The map is measured from the steps themselves, so that it cannot drift from them.

    Raises ManifestError unless the list ends in ``channels, scale``.
    """
    if [step.step for step in steps[-2:]] != ["channels", "scale"]:
        raise ManifestError("training needs preprocessing that ends in 'channels', 'scale'")
    black_and_white = np.repeat([[0.0, 1.0]], 8, axis=0).repeat(4, axis=1).astype(np.float32)
    answer = apply(steps[-2:], GreyImage(black_and_white)).array[0]
    channels = steps[-2]
    stretch = channels.stretch() if isinstance(channels, Channels) else None
    return steps[:-2], Tail(multiply=answer[-1] - answer[0], add=answer[0], stretch=stretch)


def load_planes(rows: Sequence[LabelledImage], folder: Path, plane_steps: Steps) -> NDArray[np.float16]:
    """Grey planes float16 (n, rows, columns) in [0, 1]. Half precision is finer than the 8 bits the files hold."""
    planes = [apply(plane_steps, grey_from_uint8(read_grey(folder / row.file))).array[..., 0] for row in rows]
    if not planes:
        raise DatasetError("no image is left to load")
    return np.stack(planes).astype(np.float16)
