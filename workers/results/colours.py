"""The colours of the maps: lightness rises evenly with the value, so that the eye reads strength and sees no bands.

A path through OKLCh (Ottosson 2020, "A perceptual color space for image processing") from dark violet over red to pale
yellow; it stays readable for the colour-blind and in a grey print.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Start, middle, end. Hues are degrees and run on past 360.
_LIGHTNESS = (0.32, 0.62, 0.92)
_CHROMA = (0.14, 0.21, 0.15)
_HUE = (300.0, 385.0, 455.0)

_LMS_FROM_LAB = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_RGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def _table() -> NDArray[np.uint8]:
    steps, knots = np.linspace(0, 1, 256), (0.0, 0.5, 1.0)
    light, chroma, hue = (np.interp(steps, knots, part) for part in (_LIGHTNESS, _CHROMA, _HUE))
    angle = np.deg2rad(hue)
    lab = np.stack([light, chroma * np.cos(angle), chroma * np.sin(angle)])
    linear = np.clip(_RGB_FROM_LMS @ (_LMS_FROM_LAB @ lab) ** 3, 0, 1)
    # The sRGB transfer function (IEC 61966-2-1).
    coded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(coded.T * 255), np.uint8)


# uint8 (256, 3): RGB by map value.
COLOURS = _table()

# uint8 (256,): how much of the colour covers the picture. Nothing below an eighth of the maximum, so that the anatomy
# stays untouched where the model did not look; never so much that the anatomy disappears.
_VALUE = np.clip((np.linspace(0, 1, 256) - 0.125) / 0.625, 0, 1)
OPACITY: NDArray[np.uint8] = np.asarray(np.round(_VALUE * _VALUE * (3 - 2 * _VALUE) * 0.55 * 255), np.uint8)
