"""The picture people see: the source in grey, the map over it, and what it means in bands beside the anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from db.errors import ConfigError
from models.contracts import Explanation
from models.explain import map_to_source
from workers.drawn_size import WIDTH, drawn_size
from workers.results.colours import COLOURS, OPACITY
from workers.results.texts import fold

_BAND = 104
_MARGIN = 24
_BACKGROUND, _TEXT, _FAINT, _WARNING = (16, 16, 20), (240, 240, 240), (178, 182, 190), (255, 186, 66)
_BAR = (232, 20)
WARNING = "AI \u2013 unverified \u2013 not for clinical use"
MEANING = "Grad-CAM: where the model looked, not a lesion outline"

Box = tuple[int, int, int, int]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Caption:
    """What stands beside the picture. Never anything of a patient."""

    label: str
    score: str
    model: str


def draw_overlay(picture: NDArray[np.uint8], found: Explanation, caption: Caption) -> NDArray[np.uint8]:
    """Draw one map.

    picture: uint8 (rows, columns), 0 is black. Returns uint8 RGB (height, 1024, 3) of even height; the work is done at
    that size, whatever the size of the picture.

    Raises:
        ConfigError: Pillow was built without FreeType, so nothing could be said in the picture.
    """
    rows, columns = picture.shape
    width, height = drawn_size(rows, columns)
    anatomy = _with_map(picture, found, width, height)
    canvas = Image.new("RGB", (WIDTH, 2 * _BAND + height + height % 2), _BACKGROUND)
    canvas.paste(anatomy, ((WIDTH - width) // 2, _BAND))
    _write(canvas, caption)
    return np.asarray(canvas)


def _with_map(picture: NDArray[np.uint8], found: Explanation, width: int, height: int) -> Image.Image:
    grey = Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BICUBIC)
    strength = Image.fromarray(np.round(map_to_source(found, height, width) * 255).astype(np.uint8))
    colour = Image.merge("RGB", [strength.point(COLOURS[:, channel].tolist()) for channel in range(3)])
    return Image.composite(colour, Image.merge("RGB", [grey, grey, grey]), strength.point(OPACITY.tolist()))


def _write(canvas: Image.Image, caption: Caption) -> None:
    draw = ImageDraw.Draw(canvas)
    room = WIDTH - 2 * _MARGIN
    warned = _warn(draw)
    _line(draw, _MARGIN, 36, caption.label, size=36, room=room - warned - _MARGIN)
    _line(draw, _MARGIN, 78, caption.score, size=24, room=room)
    below = canvas.height - _BAND
    left = WIDTH - _MARGIN - _BAR[0]
    _line(draw, _MARGIN, below + 34, caption.model, size=24, room=left - 2 * _MARGIN)
    _line(draw, _MARGIN, below + 74, MEANING, size=22, room=left - 2 * _MARGIN, colour=_FAINT)
    _bar(canvas, draw, (left, below + 24, left + _BAR[0], below + 24 + _BAR[1]))


def _bar(canvas: Image.Image, draw: ImageDraw.ImageDraw, box: Box) -> None:
    """The colours as they look over the background's grey, with ticks at both ends and in the middle."""
    left, top, right, bottom = box
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, right - left).round().astype(np.uint8), (bottom - top, 1)))
    canvas.paste(Image.merge("RGB", [ramp.point(COLOURS[:, channel].tolist()) for channel in range(3)]), (left, top))
    draw.rectangle((left - 1, top - 1, right, bottom), outline=_FAINT)
    for x, name, anchor in ((left, "low", "la"), ((left + right) // 2, "", "ma"), (right - 1, "high", "ra")):
        draw.line((x, bottom, x, bottom + 8), fill=_FAINT, width=2)
        draw.text((x, bottom + 14), name, _FAINT, _font(20), anchor=anchor)


def _warn(draw: ImageDraw.ImageDraw) -> float:
    """The warning at the right edge; returns its width. Dashes are drawn: the font that Pillow brings has none."""
    words = WARNING.split("\u2013")
    dash, font = 26, _font(26)
    total = sum(draw.textlength(word, font=font) for word in words) + dash * (len(words) - 1)
    x = WIDTH - _MARGIN - total
    for number, word in enumerate(words):
        if number:
            draw.line((x + 6, 38, x + dash - 6, 38), fill=_WARNING, width=3)
            x += dash
        draw.text((x, 36), word, _WARNING, font, anchor="lm")
        x += draw.textlength(word, font=font)
    return total


def _line(
    draw: ImageDraw.ImageDraw, x: int, y: int, text: str, *, size: int, room: float, colour: Colour = _TEXT
) -> None:
    """One line, smaller where it is long, cut where it is longer still."""
    # The font that Pillow brings has no letters beyond ASCII.
    text = fold(text, 128, unicode=False)
    while size > 18 and draw.textlength(text, font=_font(size)) > room:
        size -= 2
    font = _font(size)
    if draw.textlength(text, font=font) > room:
        while draw.textlength(text + "...", font=font) > room:
            text = text[:-1]
        text += "..."
    draw.text((x, y), text, colour, font, anchor="lm")


@cache
def _font(size: int) -> FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, FreeTypeFont):
        raise ConfigError("Pillow was built without FreeType; install a Pillow wheel")
    return font
