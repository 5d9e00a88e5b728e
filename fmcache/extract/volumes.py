"""Volumes as 2.5D slices, and the one way by which deep pixels become eight bits.

* NIfTI (.nii, .nii.gz) and MHA: turned to RAS+; cut along `axis` (0 from right to left, 1 from back to front, 2, the
  default, from feet to head). A slice is shown as on a light box: the patient's right on the left, front or head at
  the top.
* NPY and NPZ (never pickled objects): [h, w] is a grey image, [h, w, 3] of 8 bits an RGB one, and [s, h, w] a volume
  cut along `axis` (default 0).
* A folder of DICOM files is one volume; see ``dicom_series``.
* `slices` whole slices, evenly spaced, are used (`slicing = "linear"` resamples instead); voxel sizes count only where
  `spacing` is set.
* Values: the reader's window, if set; else 8-bit arrays stay as they are, booleans become 0 and 255, and otherwise the
  0.5 and 99.5 percentiles of the *whole* volume become 0 and 255, so that its slices keep their relation.
* A NaN or infinite value anywhere makes the volume undecodable.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from threading import Lock

import numpy as np

from fmcache.extract import dicom_series
from fmcache.extract.inputs import SERIES
from fmcache.extract.mha import is_mha, mha_layout, mha_values
from fmcache.extract.nifti import is_nifti, nifti_layout, nifti_values
from fmcache.extract.npy import is_npy, npy_layout, npy_values
from fmcache.extract.reader import ReaderOptions, Undecodable, positions
from fmcache.extract.scaling import PERCENTILES, scaled, windowed
from fmcache.extract.volume import Layout, blend_slices, checked

__all__ = [
    "PERCENTILES",
    "count_slices",
    "decode_slice",
    "decode_stack",
    "is_volume",
    "stored_slices",
    "windowed",
]

# volumes whose chosen slices are kept, since the slices of one file are asked for one after the other
_KEEP = 2

_recent: OrderedDict[tuple[bytes, ReaderOptions], np.ndarray] = OrderedDict()
_last: list[tuple[bytes, ReaderOptions, np.ndarray]] = []  # the very object asked for before needs no digest
_lock = Lock()


def is_volume(data: bytes) -> bool:
    """Whether the content starts like NIfTI (plain or gzipped), MHA, NPY, NPZ or a packed DICOM series."""
    return data.startswith(SERIES) or is_npy(data) or is_nifti(data) or is_mha(data)


def count_slices(data: bytes, reader: ReaderOptions) -> int:
    """How many slices are used, from the header alone."""
    return _layout(data, reader).slices(reader)


def decode_slice(data: bytes, slice: int, reader: ReaderOptions) -> np.ndarray:
    """One slice, uint8 [h, w] or [h, w, 3]; the other slices of the same file are kept for the next call."""
    with _lock:
        stack = next((kept for held, of, kept in _last if held is data and of == reader), None)
    if stack is None:
        stack = _stack_of(data, reader)
        with _lock:
            _last[:] = [(data, reader, stack)]
    if not 0 <= slice < len(stack):
        raise Undecodable(f"There is no slice {slice}; the file has {len(stack)}.")
    return stack[slice]


def _stack_of(data: bytes, reader: ReaderOptions) -> np.ndarray:
    key = (hashlib.sha256(data).digest(), reader)
    with _lock:
        stack = _recent.get(key)
    if stack is None:
        stack = decode_stack(data, reader)
        with _lock:
            _recent[key] = stack
            while len(_recent) > _KEEP:
                _recent.popitem(last=False)
    return stack


def decode_stack(data: bytes, reader: ReaderOptions) -> np.ndarray:
    """All used slices, uint8 [s, h, w], or [1, h, w, 3] for one colour image."""
    layout = _layout(data, reader)
    if data.startswith(SERIES):
        return dicom_series.decode_stack(data, layout, reader)
    values = _values(data, layout, reader)
    low, high = _bounds(values, reader)
    if layout.axis is None:
        return scaled(values, low, high)[None]
    return scaled(_slices(values, layout, reader, labels=False), low, high)


def stored_slices(data: bytes, reader: ReaderOptions) -> np.ndarray:
    """The stored values of the slices that `decode_stack` uses, [s, h, w] or [h, w]: for masks, so nothing is mixed."""
    layout = _layout(data, reader)
    if data.startswith(SERIES):
        values = dicom_series.stored_values(data)
    else:
        values = _values(data, layout, reader)
    return values if layout.axis is None else _slices(values, layout, reader, labels=True)


def _layout(data: bytes, reader: ReaderOptions) -> Layout:
    if data.startswith(SERIES):
        layout = dicom_series.series_layout(data)
    elif is_npy(data):
        layout = npy_layout(data, reader)
    else:
        layout = mha_layout(data, reader) if is_mha(data) else nifti_layout(data, reader)
    return checked(layout, reader)


def _values(data: bytes, layout: Layout, reader: ReaderOptions) -> np.ndarray:
    if is_npy(data):
        values = npy_values(data, reader)
    else:
        values = mha_values(data) if is_mha(data) else nifti_values(data)
    if values.shape != layout.shape:
        raise Undecodable("The data has another shape than the header declares.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Undecodable("Some voxels are not finite numbers.")
    return values


def _slices(values: np.ndarray, layout: Layout, reader: ReaderOptions, *, labels: bool) -> np.ndarray:
    """The used slices [s, h, w]; `labels`: the values are names and must not be mixed."""
    assert layout.axis is not None
    if reader.spacing is not None and layout.sides is not None:
        values = _resampled(values, layout, reader.spacing, labels)
    if layout.upright:
        values = values[::-1, ::-1, ::-1]  # right to the left, front or head to the top; undone along the cut
        cut = np.moveaxis(values, layout.axis, 0)[::-1].swapaxes(1, 2)
    else:
        cut = np.moveaxis(values, layout.axis, 0)
    if reader.slicing == "pick":
        return cut[positions(len(cut), reader.slices)]
    return blend_slices(cut, reader.slices, labels)


def _resampled(values: np.ndarray, layout: Layout, side: float, labels: bool) -> np.ndarray:
    from scipy import ndimage

    assert layout.sides is not None
    zoom = [max(1, round(n * mm / side)) / n for n, mm in zip(values.shape, layout.sides, strict=True)]
    if np.prod(np.array(zoom)) * values.size > 1e9:
        raise Undecodable("Resampled to `spacing`, the volume is larger than the limit.")
    source = values if labels else values.astype(np.float32)
    return ndimage.zoom(source, zoom, order=0 if labels else 1, mode="nearest", grid_mode=True)


def _bounds(values: np.ndarray, reader: ReaderOptions) -> tuple[float, float]:
    if reader.window is not None:
        centre, width = reader.window
        return centre - width / 2, centre + width / 2
    if values.dtype == np.bool_:
        return 0, 1
    if values.dtype == np.uint8:
        return 0, 255
    low, high = np.percentile(values, PERCENTILES)
    return (float(low), float(high)) if high > low else (float(values.min()), float(values.max()))
