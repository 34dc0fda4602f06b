"""Grad-CAM from one forward pass, and its way back onto the source image.

For a network that ends in global average pooling and one linear layer the gradient of a logit with respect to the
feature map is the layer's weight divided by the number of cells, everywhere the same. Grad-CAM (Selvaraju 2017) then
needs no backward pass: relu(sum over channels of weight x feature) / cells, which is also CAM (Zhou 2016).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from models.contracts import Explanation, FloatArray, Placement

METHOD = "Grad-CAM"


def closed_form_maps(features: FloatArray, head: FloatArray) -> FloatArray:
    """features: float32 (h, w, channels). head: float32 (channels, labels). Returns float32 (labels, h, w), >= 0.

    Logit units per cell: without the relu the cells of a map, plus the bias, add up to the logit.
    """
    cells = features.shape[0] * features.shape[1]
    flat = features.reshape(cells, -1)
    # Label by label: for a product of matrices BLAS wakes its threads, and on a busy machine waiting for them takes
    # longer than the whole forward pass.
    maps: FloatArray = np.stack([flat @ weights for weights in np.ascontiguousarray(head.T)])
    maps /= cells
    return _positive(maps.reshape(-1, *features.shape[:2]))


def slice_map(features: FloatArray, weight: float, head: FloatArray) -> FloatArray:
    """The maps of one slice of a series, by the same closed form: :func:`closed_form_maps` times what the slice weighs.

    Comparable between the slices of a series; without the relu all cells of all slices, plus the bias, add up to the
    logit.
    """
    return closed_form_maps(features, head) * np.float32(weight)


def gradient_maps(features: FloatArray, gradients: FloatArray) -> FloatArray:
    """Grad-CAM for heads that are not linear.

    features: float32 (h, w, channels). gradients: float32 (labels, h, w, channels), of each logit (never of the
    probability, whose gradient dies where it saturates) with respect to the features. Returns float32 (labels, h, w),
    >= 0, on the scale of :func:`closed_form_maps`, to which it is equal for a pooled linear head.
    """
    weights = gradients.mean(axis=(1, 2))
    return _positive(np.einsum("hwc,lc->lhw", features, weights, optimize=True))


def _positive(maps: FloatArray) -> FloatArray:
    return np.maximum(maps, np.float32(0), dtype=np.float32)


def explanation(label_key: str, grid: FloatArray, placement: Placement, slice_index: int = 0) -> Explanation:
    """Scale a map to a maximum of 1 and keep what the maximum was."""
    peak = float(grid.max(initial=0.0))
    return Explanation(label_key, METHOD, grid / peak if peak > 0 else grid, peak, placement, slice_index)


def map_to_source(found: Explanation, rows: int, columns: int) -> FloatArray:
    """The map over the whole source image drawn at (rows, columns): float32 in [0, 1], 0 where the model did not look.

    Smooth (bicubic): the coarse grid must not look like a detector's boxes.
    """
    place = found.placement
    top, left, height, width = place.target
    scale_y, scale_x = found.grid.shape[0] / place.input_shape[0], found.grid.shape[1] / place.input_shape[1]
    # Rounding may carry the far edges past the grid, which Pillow refuses.
    right = min((left + width) * scale_x, float(found.grid.shape[1]))
    bottom = min((top + height) * scale_y, float(found.grid.shape[0]))
    box = (left * scale_x, top * scale_y, right, bottom)
    y0, x0, region_rows, region_columns = _scaled(place, rows, columns)
    grid = Image.fromarray(np.ascontiguousarray(found.grid, dtype=np.float32))
    drawn = grid.resize((region_columns, region_rows), Image.Resampling.BICUBIC, box=box)
    canvas = np.zeros((rows, columns), dtype=np.float32)
    canvas[y0 : y0 + region_rows, x0 : x0 + region_columns] = np.clip(np.asarray(drawn), 0, 1)
    return canvas


def _scaled(place: Placement, rows: int, columns: int) -> tuple[int, int, int, int]:
    """The analysed region (top, left, rows, columns) on a drawing of the whole source."""
    top, left, height, width = place.source
    to_y, to_x = rows / place.source_shape[0], columns / place.source_shape[1]
    y0, x0 = round(top * to_y), round(left * to_x)
    y1, x1 = round((top + height) * to_y), round((left + width) * to_x)
    return y0, x0, max(1, min(y1, rows) - y0), max(1, min(x1, columns) - x0)
