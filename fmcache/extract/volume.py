"""A volume in memory, before it is cut: what the readers of NIfTI, MHA, NumPy and DICOM series hand to `volumes`."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel
import numpy as np

from fmcache.extract.reader import MAX_VOXELS, ReaderOptions, Undecodable


@dataclass(frozen=True)
class Layout:
    """What a header says.

    Attributes
    ----------
    shape : of the values. axis : along which slices are cut; None for one image.
    sides : of a voxel in mm, one an axis; None where the file does not say.
    upright : the axes are right to left, front to back, head to foot (RAS+) and slices are shown as on a light box;
        else they are shown as stored.
    """

    shape: tuple[int, ...]
    axis: int | None
    sides: tuple[float, ...] | None = None
    upright: bool = False

    def slices(self, reader: ReaderOptions) -> int:
        """How many slices are used."""
        if self.axis is None:
            return 1
        n = self.shape[self.axis]
        if reader.spacing is not None and self.sides is not None:
            n = max(1, round(n * self.sides[self.axis] / reader.spacing))
        return reader.count(n)


def checked(layout: Layout, reader: ReaderOptions) -> Layout:
    """The layout, once its size is known to be harmless."""
    if min(layout.shape) == 0:
        raise Undecodable("The array is empty.")
    total = int(np.prod(layout.shape, dtype=object))
    if total > MAX_VOXELS:
        raise Undecodable(f"The header declares {total:,} values; the limit is {MAX_VOXELS:,}.")
    face = total if layout.axis is None else total // layout.shape[layout.axis]
    if face > reader.max_pixels:
        raise Undecodable(f"A slice has {face:,} pixels; the limit is {reader.max_pixels:,}.")
    return layout


def upright_layout(shape: tuple[int, ...], affine: np.ndarray, reader: ReaderOptions) -> Layout:
    """The layout of a stored [i, j, k] array once its axes are turned to RAS+.

    Parameters
    ----------
    affine : [4, 4], index → mm (x to the right, y to the front, z to the head).
    """
    order = _order(affine)
    sides = np.sqrt((affine[:3, :3] ** 2).sum(0))
    turned, mm = [0, 0, 0], [0.0, 0.0, 0.0]
    for stored, canonical in enumerate(order[:, 0]):
        turned[int(canonical)], mm[int(canonical)] = shape[stored], float(sides[stored])
    return Layout(tuple(turned), 2 if reader.axis is None else reader.axis, tuple(mm), upright=True)


def turn_upright(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """[i, j, k] as stored → RAS+; a view."""
    return nibabel.orientations.apply_orientation(values, _order(affine))


def blend_slices(cut: np.ndarray, count: int, labels: bool) -> np.ndarray:
    """`count` slices at the middles of `count` equal stretches of the volume, linear between the two nearest ones."""
    n = len(cut)
    at = np.clip((np.arange(count) + 0.5) * n / count - 0.5, 0, n - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, n - 1), (at - low)[:, None, None]
    if labels:
        return cut[np.where(at - low < 0.5, low, high)]
    return cut[low] * (1 - share) + cut[high] * share


def _order(affine: np.ndarray) -> np.ndarray:
    if not np.isfinite(affine).all():
        raise Undecodable("The orientation in the header holds values that are not numbers.")
    order = nibabel.io_orientation(affine)
    if not np.isfinite(order).all() or sorted(order[:, 0]) != [0, 1, 2]:
        raise Undecodable("The orientation in the header is singular.")
    return order
