"""From the decoder's small logits to the picture's size, with NumPy alone.

Both steps of the official post-processing, to the model's square and then to the picture, are linear and act on rows
and columns separately. So each is one small matrix, and their product is applied once: rows @ logits @ columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np


def upsample(
    logits: np.ndarray, frame: Mapping[str, Any], size: tuple[int, int], form: str = "logits"
) -> np.ndarray:
    """Logits of a picture's size.

    Parameters
    ----------
    logits : [..., h, w], as the cache holds them.
    frame : the entry's ``geometry``: fit and side of the model's square.
    size : height and width of the picture.
    form : "logits" (to the square, then to the picture: SAM and its relatives), or "probabilities" (the sigmoid of the
        logits goes to the picture in one step: MedSAM; the result is the logit of that).

    Returns
    -------
    float32 [..., height, width], within 1e-3 of the official post-processing.
    """
    x: np.ndarray = logits.astype(np.float32)
    if form == "probabilities":
        x = 1 / (1 + np.exp(-x))
        rows, columns = (linear_matrix(old, new) for old, new in zip(x.shape[-2:], size, strict=True))
        with np.errstate(divide="ignore"):
            share = np.clip(rows @ x @ columns.T, 0, 1)
            return np.log(share / (1 - share))
    rows, columns = _matrices(x.shape[-2:], str(frame["fit"]), int(frame["side"]), tuple(size))
    return rows @ x @ columns.T


@lru_cache(maxsize=64)
def _matrices(
    low: tuple[int, int], fit: str, side: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    top, left, height, width = region(fit, side, *size)
    both = []
    for start, inside, small, new in ((top, height, low[0], size[0]), (left, width, low[1], size[1])):
        square = linear_matrix(small, side)[start : start + inside]
        both.append(square if inside == new else linear_matrix(inside, new) @ square)
    return both[0], both[1]


def region(fit: str, side: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Where a picture lies in the model's square: top, left, height, width (the same rule as the extraction's)."""
    if fit == "longest":
        scale = side / max(height, width)
        return 0, 0, int(height * scale + 0.5), int(width * scale + 0.5)
    if fit == "squash-or-pad" and max(height, width) < side:
        return (side - height) // 2, (side - width) // 2, height, width
    return 0, 0, side, side


@lru_cache(maxsize=64)
def linear_matrix(old: int, new: int) -> np.ndarray:
    """float32 [new, old]: linear interpolation between pixel centres, as torch's ``align_corners=False``."""
    where = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.minimum(where.astype(np.int64), old - 1)
    share = where - low
    out = np.zeros((new, old), np.float32)
    rows = np.arange(new)
    out[rows, low] += (1 - share).astype(np.float32)
    out[rows, np.minimum(low + 1, old - 1)] += share.astype(np.float32)
    return out
