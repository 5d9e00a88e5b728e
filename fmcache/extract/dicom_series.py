"""A folder of DICOM files as one volume.

The files of the largest series (SeriesInstanceUID) are put in order from feet to head: by ImagePositionPatient along
the normal of ImageOrientationPatient, else by SliceLocation, else by InstanceNumber, else by the numbers in their
names; never by the names as text. Two slices in one place, or slices of different sizes, are refused. Pixels are
modality values (Hounsfield units for CT); the window is the reader's, else that of the middle slice, else the 0.5 and
99.5 percentiles of the volume.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pydicom

from fmcache.extract.dicom import lacks_preamble, modality_values, stored_frame
from fmcache.extract.inputs import unpack_series
from fmcache.extract.reader import ReaderOptions, Undecodable, positions
from fmcache.extract.scaling import PERCENTILES, scaled
from fmcache.extract.volume import Layout, blend_slices

_TAGS = ["SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "InstanceNumber",
         "Rows", "Columns", "WindowCenter", "WindowWidth", "NumberOfFrames"]  # fmt: skip
_ONE = ReaderOptions()


@dataclass(frozen=True)
class _Slice:
    """One file and what orders it."""

    data: bytes
    header: pydicom.Dataset


def series_layout(data: bytes) -> Layout:
    """[slices, rows, columns] of the largest series, from the headers."""
    chosen = _ordered(data)
    head = chosen[0].header
    return Layout((len(chosen), int(head.Rows), int(head.Columns)), 0)


def decode_stack(data: bytes, layout: Layout, reader: ReaderOptions) -> np.ndarray:
    """The used slices, uint8 [s, h, w]; only those are decompressed where the window is known beforehand."""
    chosen = _ordered(data)
    window = reader.window or _window(chosen[len(chosen) // 2].header)
    whole = window is None or reader.slicing != "pick"
    wanted = range(len(chosen)) if whole else positions(len(chosen), reader.slices)
    values = np.stack([modality_values(chosen[i].data, reader) for i in wanted])
    if window is not None:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    else:
        low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    if reader.slicing == "linear":
        values = blend_slices(values, reader.slices, labels=False)
    elif whole:
        values = values[positions(len(values), reader.slices)]
    return scaled(values, low, high)


def stored_values(data: bytes) -> np.ndarray:
    """All slices as their numbers are stored, [s, h, w]."""
    return np.stack([stored_frame(one.data, _ONE) for one in _ordered(data)])


def _ordered(data: bytes) -> list[_Slice]:
    series = _largest([_Slice(bytes(file), _header(bytes(file))) for file in unpack_series(data)])
    sizes = {(one.header.get("Rows"), one.header.get("Columns")) for one in series}
    if len(sizes) != 1 or None in next(iter(sizes)):
        raise Undecodable("The slices of the series have different sizes, or none.")
    if any(int(one.header.get("NumberOfFrames") or 1) != 1 for one in series):
        raise Undecodable("A file of the series holds several frames.")
    for place in (_position, _location, _number):
        places = [place(one.header) for one in series]
        if None not in places:
            if len(set(places)) != len(places):
                raise Undecodable("Two slices of the series lie in the same place.")
            return [series[i] for i in np.argsort(np.array(places, float))]
    return series  # in the order of the numbers in their names


def _header(file: bytes) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(
            BytesIO(file), stop_before_pixels=True, specific_tags=_TAGS, force=lacks_preamble(file)
        )


def _largest(files: list[_Slice]) -> list[_Slice]:
    counts = Counter(str(one.header.get("SeriesInstanceUID", "")) for one in files)
    most = counts.most_common(1)[0][0]
    return [one for one in files if str(one.header.get("SeriesInstanceUID", "")) == most]


def _position(header: pydicom.Dataset) -> float | None:
    """Distance along the normal of the slices, in mm, rounded to a hundredth; towards the head for axial slices."""
    place, axes = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if place is None or axes is None or len(place) != 3 or len(axes) != 6:
        return None
    row, column = np.array(axes[:3], float), np.array(axes[3:], float)
    normal = np.cross(row, column)
    if not np.isfinite(normal).all() or np.linalg.norm(normal) < 0.5:
        return None
    normal *= np.sign(
        normal[np.abs(normal).argmax()]
    )  # towards head, back or left, whichever way the rows run
    return round(float(normal @ np.array(place, float)), 2)


def _location(header: pydicom.Dataset) -> float | None:
    value = header.get("SliceLocation")
    return None if value in (None, "") else float(value)


def _number(header: pydicom.Dataset) -> float | None:
    value = header.get("InstanceNumber")
    return None if value in (None, "") else float(value)


def _window(header: pydicom.Dataset) -> tuple[float, float] | None:
    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    if centre in (None, "") or width in (None, ""):
        return None
    pair = [
        float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
        for value in (centre, width)
    ]
    return (pair[0], pair[1]) if np.isfinite(pair).all() and pair[1] > 0 else None
