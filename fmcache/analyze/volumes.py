"""From a 3-D decoder's small logits to the volume's size, with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmcache.analyze.masks import linear_matrix

OUTSIDE = -100.0  # the logit of a voxel that the model never saw


def upsample_volume(logits: np.ndarray, frame: Mapping[str, Any], truth: np.ndarray) -> np.ndarray:
    """Logits of a volume's size, float32 [s, h, w].

    Parameters
    ----------
    logits : [a, b, c], as the cache holds them. frame : the entry's ``geometry``: fit and size.
    truth : bool [s, h, w], the object: "crop" puts the model's cube around the middle of its box.
    """
    x = logits.astype(np.float32)
    for axis, new in enumerate(frame["size"]):
        x = np.moveaxis(np.tensordot(linear_matrix(x.shape[axis], int(new)), x, (1, axis)), 0, axis)
    slices, height, width = truth.shape
    if frame["fit"] == "resize":  # [z, y, x], and from there by nearest voxels
        for axis, new in enumerate((slices, height, width)):
            x = x.take(np.minimum(np.arange(new) * x.shape[axis] // new, x.shape[axis] - 1), axis)
        return np.ascontiguousarray(x[:, ::-1, ::-1])
    ras = truth.transpose(2, 1, 0)[::-1, ::-1]
    places = np.argwhere(ras)
    start = (places.min(0) + places.max(0) + 1) // 2 - np.array(frame["size"]) // 2
    out = np.full(ras.shape, OUTSIDE, np.float32)
    ours, theirs = [], []
    for first, length, limit in zip(start.tolist(), x.shape, ras.shape, strict=True):
        low, high = max(0, first), min(limit, first + length)
        ours.append(slice(low - first, high - first))
        theirs.append(slice(low, high))
    out[tuple(theirs)] = x[tuple(ours)]
    return np.ascontiguousarray(out[::-1, ::-1].transpose(2, 1, 0))
