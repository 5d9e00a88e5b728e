"""Distances between the surfaces of two masks: HD95 and normalised surface Dice, by SciPy's distance transform.

The surface of a mask is its pixels (voxels) that touch the outside by an edge (face). Distances are in the units of
`spacing`. Two empty masks have nothing to compare: NaN. If only one is empty, the object was missed or invented:
NSD is 0 and HD95 is the diagonal of the picture, the largest distance there can be. Leaving such pictures out
would hide the worst failures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def surface(mask: Mask) -> Mask:
    """The pixels of the mask with a neighbour (by an edge or face) outside; the border of the picture is outside.

    >>> surface(np.ones((3, 3), bool)).astype(int).tolist()
    [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    """
    return mask & ~binary_erosion(mask)


def surface_distances(predicted: Mask, true: Mask, spacing: Sequence[float]) -> tuple[Floats, Floats]:
    """From every surface pixel of each mask to the nearest of the other: (predicted → true, true → predicted).

    Parameters
    ----------
    predicted, true : bool, one shape, 2-D or 3-D, neither empty. spacing : the size of a pixel along each axis.
    """
    box = _box(predicted | true)
    mine, theirs = surface(np.pad(predicted[box], 1)), surface(np.pad(true[box], 1))
    to_true = distance_transform_edt(~theirs, sampling=spacing)
    to_mine = distance_transform_edt(~mine, sampling=spacing)
    return to_true[mine], to_mine[theirs]


def hd95(predicted: Mask, true: Mask, spacing: Sequence[float] | None = None) -> float:
    """The larger of the two directed 95th percentiles of the surface distances; ≥ 0, 0 = the same surface.

    Source: Huttenlocher et al. 1993, with the 95th percentile of each direction as in MONAI.

    >>> a = np.zeros((9, 9), bool); a[2:5, 2:5] = True
    >>> hd95(a, np.roll(a, 2, axis=1)), hd95(a, a)
    (2.0, 0.0)
    """
    spacing = [1.0] * true.ndim if spacing is None else list(spacing)
    if not predicted.any() or not true.any():
        return _one_is_empty(predicted, true, _diagonal(true.shape, spacing))
    there, back = surface_distances(predicted, true, spacing)
    return float(max(np.quantile(there, 0.95), np.quantile(back, 0.95)))


def nsd(predicted: Mask, true: Mask, tolerance: float, spacing: Sequence[float] | None = None) -> float:
    """The share of both surfaces that lies within `tolerance` of the other; in [0, 1], 1 = all.

    Source: Nikolov et al. 2021, on surface pixels as in MONAI's compute_surface_dice.

    >>> a = np.zeros((9, 9), bool); a[2:5, 2:5] = True
    >>> nsd(a, np.roll(a, 1, axis=1), 1.0), nsd(a, a & False, 1.0)
    (1.0, 0.0)
    """
    spacing = [1.0] * true.ndim if spacing is None else list(spacing)
    if not predicted.any() or not true.any():
        return _one_is_empty(predicted, true, 0.0)
    there, back = surface_distances(predicted, true, spacing)
    close = int((there <= tolerance).sum()) + int((back <= tolerance).sum())
    return close / (len(there) + len(back))


def slice_distances(predicted: Mask, true: Mask, side: float = 1.0) -> tuple[Floats, Floats]:
    """`surface_distances`, also where a mask is empty: every surface pixel of the other one is then as far away as the
    diagonal of the picture. For slices of a volume, whose distances are put together by `pooled`.

    side : of a pixel; 1 = distances are in pixels.
    """
    spacing = [side] * true.ndim
    if predicted.any() and true.any():
        return surface_distances(predicted, true, spacing)
    far = _diagonal(true.shape, spacing)
    return tuple(np.full(int(surface(mask).sum()) if mask.any() else 0, far) for mask in (predicted, true))  # type: ignore[return-value]


def pooled(distances: Sequence[tuple[Floats, Floats]], tolerance: float) -> tuple[float, float]:
    """HD95 and NSD of several slices together; NaN, NaN without a surface."""
    there, back = (np.concatenate([one[side] for one in distances]) for side in (0, 1))
    if not len(there) and not len(back):
        return math.nan, math.nan
    worst = max(float(np.quantile(side, 0.95)) for side in (there, back) if len(side))
    close = int((there <= tolerance).sum()) + int((back <= tolerance).sum())
    return worst, close / (len(there) + len(back))


def _one_is_empty(predicted: Mask, true: Mask, worst: float) -> float:
    return worst if predicted.any() or true.any() else math.nan


def _diagonal(shape: tuple[int, ...], spacing: Sequence[float]) -> float:
    return math.sqrt(sum((n * size) ** 2 for n, size in zip(shape, spacing, strict=True)))


def _box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box around the mask: outside of it there is no surface, so distances need not be known there."""
    found = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(k for k in range(mask.ndim) if k != axis)))
        found.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(found)
