"""NIfTI and NumPy volumes as 2.5D slices, and the one way by which deep pixels become eight bits.

* NIfTI (.nii, .nii.gz, one file): turned to RAS+; cut along `axis` (default 2, from feet to head). A slice is shown
  as on a light box: the patient's right on the left, front or head at the top. Voxel spacing is not used.
* NPY and NPZ (never pickled objects): [h, w] is a grey image, [h, w, 3] of 8 bits an RGB one, and [s, h, w] a volume
  cut along `axis` (default 0).
* Values: the reader's window, if set; else 8-bit arrays stay as they are, booleans become 0 and 255, and otherwise the
  0.5 and 99.5 percentiles of the *whole* volume become 0 and 255, so that its slices keep their relation.
* A NaN or infinite value anywhere makes the volume undecodable.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from threading import Lock

import nibabel
import numpy as np

from fmcache.extract.reader import MAX_VOXELS, ReaderOptions, Undecodable, positions

PERCENTILES = (0.5, 99.5)
_LARGEST = 8 * MAX_VOXELS  # bytes after decompression
_HEADER = 4096
_KEEP = (
    2  # volumes whose chosen slices are kept, since the slices of one file are asked for one after the other
)
_NPY, _ZIP, _GZIP = b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b"

_recent: OrderedDict[tuple[bytes, ReaderOptions], np.ndarray] = OrderedDict()
_lock = Lock()


@dataclass(frozen=True)
class _Layout:
    """What a header says: the shape as stored, and the axis of it along which slices are cut (None: one image)."""

    shape: tuple[int, ...]
    axis: int | None

    def slices(self, reader: ReaderOptions) -> int:
        return 1 if self.axis is None else min(self.shape[self.axis], reader.slices)


def is_volume(data: bytes) -> bool:
    """Whether the content starts like NIfTI (plain or gzipped), NPY or NPZ."""
    return data.startswith((_NPY, _ZIP, _GZIP)) or _is_nifti(data)


def count_slices(data: bytes, reader: ReaderOptions) -> int:
    """How many slices are used, from the header alone."""
    return _layout(data, reader).slices(reader)


def decode_slice(data: bytes, slice: int, reader: ReaderOptions) -> np.ndarray:
    """One slice, uint8 [h, w] or [h, w, 3]; the other slices of the same file are kept for the next call."""
    key = (hashlib.sha256(data).digest(), reader)
    with _lock:
        stack = _recent.get(key)
    if stack is None:
        stack = decode_stack(data, reader)
        with _lock:
            _recent[key] = stack
            while len(_recent) > _KEEP:
                _recent.popitem(last=False)
    if not 0 <= slice < len(stack):
        raise Undecodable(f"There is no slice {slice}; the file has {len(stack)}.")
    return stack[slice]


def decode_stack(data: bytes, reader: ReaderOptions) -> np.ndarray:
    """All used slices, uint8 [s, h, w], or [1, h, w, 3] for one colour image."""
    layout = _layout(data, reader)
    values = _nifti_values(data) if _holds_nifti(data) else _numpy_values(data, reader)
    if values.shape != layout.shape:
        raise Undecodable("The data has another shape than the header declares.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Undecodable("Some voxels are not finite numbers.")
    low, high = _bounds(values, reader)
    if layout.axis is None:
        return _scaled(values, low, high)[None]
    if _holds_nifti(data):
        values = values[::-1, ::-1, ::-1]  # right to the left, front or head to the top; undone along the cut
        cut = np.moveaxis(values, layout.axis, 0)[::-1].swapaxes(1, 2)
    else:
        cut = np.moveaxis(values, layout.axis, 0)
    return _scaled(cut[positions(len(cut), reader.slices)], low, high)


def windowed(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """centre ± width / 2 → 0…255, rounded; what lies outside is clipped. uint8, the shape of `values`."""
    return _scaled(values, centre - width / 2, centre + width / 2)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    if high <= low:
        return np.zeros(values.shape, np.uint8)  # a constant image
    unit = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


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


# ------------------------------------------------------------------------------------------------------------ layout


def _layout(data: bytes, reader: ReaderOptions) -> _Layout:
    if _holds_nifti(data):
        shape, axis = _nifti_shape(data), 2 if reader.axis is None else reader.axis
        layout = _Layout(shape, axis)
    else:
        shape, dtype = _numpy_header(data, reader)
        if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3 and dtype == np.uint8):
            layout = _Layout(shape, None)
        elif len(shape) == 3:
            layout = _Layout(shape, reader.axis or 0)
        else:
            raise Undecodable(f"An array of {len(shape)} axes is neither an image nor a volume.")
    if min(shape) == 0:
        raise Undecodable("The array is empty.")
    total = int(np.prod(shape, dtype=object))
    if total > MAX_VOXELS:
        raise Undecodable(f"The header declares {total:,} values; the limit is {MAX_VOXELS:,}.")
    face = total if layout.axis is None else total // shape[layout.axis]
    if face > reader.max_pixels:
        raise Undecodable(f"A slice has {face:,} pixels; the limit is {reader.max_pixels:,}.")
    return layout


# ------------------------------------------------------------------------------------------------------------- NIfTI


def _is_nifti(head: bytes) -> bool:
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def _holds_nifti(data: bytes) -> bool:
    return data.startswith(_GZIP) or _is_nifti(data)


def _nifti_header(data: bytes) -> nibabel.Nifti1Header:
    head = _gunzipped(data, _HEADER, whole=False) if data.startswith(_GZIP) else data[:_HEADER]
    if not _is_nifti(head):
        raise Undecodable("The gzipped content is no NIfTI file.")
    kind = nibabel.Nifti1Header if head[344:348] == b"n+1\0" else nibabel.Nifti2Header
    size = 348 if kind is nibabel.Nifti1Header else 540
    if len(head) < size:
        raise Undecodable("The file ends within its header.")
    return kind.from_fileobj(BytesIO(head[:size] + b"\0\0\0\0"), check=False)


def _nifti_shape(data: bytes) -> tuple[int, ...]:
    header = _nifti_header(data)
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise Undecodable(f"A NIfTI volume of {len(shape)} axes is not supported; three are expected.")
    if min(shape) < 1:
        raise Undecodable("The header declares an empty volume.")
    if header.get_data_dtype().kind not in "iuf":
        raise Undecodable("Colour and complex NIfTI volumes are not supported.")
    affine = header.get_best_affine()
    if not np.isfinite(affine).all():
        raise Undecodable("The orientation in the header holds values that are not numbers.")
    order = nibabel.io_orientation(affine)[:, 0]
    if not np.isfinite(order).all() or sorted(order) != [0, 1, 2]:
        raise Undecodable("The orientation in the header is singular.")
    turned = [0, 0, 0]
    for stored, canonical in enumerate(order):
        turned[int(canonical)] = shape[stored]
    return tuple(turned)


def _nifti_values(data: bytes) -> np.ndarray:
    header = _nifti_header(data)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise Undecodable("The slope or intercept in the header is not a number.")
    if data.startswith(_GZIP):
        voxels = int(np.prod(header.get_data_shape(), dtype=object))
        declared = int(header["vox_offset"]) + voxels * header.get_data_dtype().itemsize
        data = _gunzipped(data, min(declared, _LARGEST), whole=True)
    kind = (
        nibabel.Nifti1Image
        if isinstance(header, nibabel.Nifti1Header) and _is_first(data)
        else nibabel.Nifti2Image
    )
    image = kind.from_bytes(data)
    if len(image.shape) > 3:
        image = nibabel.squeeze_image(image)
    image = nibabel.as_closest_canonical(image)
    raw = image.dataobj
    return np.asarray(raw) if np.asanyarray(raw).dtype == np.uint8 else np.asanyarray(raw, dtype=np.float32)


def _is_first(data: bytes) -> bool:
    return data[344:348] == b"n+1\0"


def _gunzipped(data: bytes, size: int, *, whole: bool) -> bytes:
    """The first `size` bytes of what a gzip stream holds; `whole`: it must hold that many and end with its checksum."""
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            out = file.read(size)
            if whole:
                file.read(_HEADER)
    except EOFError:
        raise Undecodable("The compressed data ends too early.") from None
    if whole and len(out) < size:
        raise Undecodable("The compressed data is shorter than the header declares.")
    return out


# ------------------------------------------------------------------------------------------------------------- NumPy


def _numpy_header(data: bytes, reader: ReaderOptions) -> tuple[tuple[int, ...], np.dtype]:
    if data.startswith(_NPY):
        return _npy_header(data[:65536])
    with zipfile.ZipFile(BytesIO(data)) as archive, archive.open(_member(archive, reader)) as file:
        return _npy_header(file.read(65536))


def _npy_header(head: bytes) -> tuple[tuple[int, ...], np.dtype]:
    file = BytesIO(head)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise Undecodable("The array holds Python objects, which are never unpickled.")
    if dtype.kind not in "biuf":
        raise Undecodable(f"An array of type {dtype.name} is no image.")
    return tuple(int(n) for n in shape), dtype


def _member(archive: zipfile.ZipFile, reader: ReaderOptions) -> str:
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    if reader.array is not None:
        if f"{reader.array}.npy" not in names:
            raise Undecodable("The array that [reader] names is not in the file.")
        return f"{reader.array}.npy"
    found = []
    for name in names:
        with archive.open(name) as file:
            try:
                shape, _ = _npy_header(file.read(65536))
            except Undecodable:
                continue
        if len(shape) in (2, 3):
            found.append(name)
    if len(found) != 1:
        raise Undecodable(f"The file holds {len(found)} arrays that can be images; set `array` in [reader].")
    return found[0]


def _numpy_values(data: bytes, reader: ReaderOptions) -> np.ndarray:
    if data.startswith(_NPY):
        return np.lib.format.read_array(BytesIO(data), allow_pickle=False)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        name = _member(archive, reader)
        if archive.getinfo(name).file_size > _LARGEST:
            raise Undecodable("The array is larger than the limit.")
        with archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
