"""NIfTI-1 and -2 (.nii, .nii.gz, one file) → a volume turned to RAS+."""

from __future__ import annotations

import gzip
import math
from io import BytesIO

import nibabel
import numpy as np

from fmcache.extract.reader import MAX_VOXELS, ReaderOptions, Undecodable
from fmcache.extract.volume import Layout, upright_layout

LARGEST = 8 * MAX_VOXELS  # bytes after decompression
_HEADER = 4096
_GZIP = b"\x1f\x8b"


def is_nifti(data: bytes) -> bool:
    """Whether the content starts like NIfTI, plain or gzipped."""
    return data.startswith(_GZIP) or _is_plain(data)


def nifti_layout(data: bytes, reader: ReaderOptions) -> Layout:
    """From the header alone."""
    header = _header(data)
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise Undecodable(f"A NIfTI volume of {len(shape)} axes is not supported; three are expected.")
    if min(shape) < 1:
        raise Undecodable("The header declares an empty volume.")
    if header.get_data_dtype().kind not in "iuf":
        raise Undecodable("Colour and complex NIfTI volumes are not supported.")
    return upright_layout(shape, header.get_best_affine(), reader)


def nifti_values(data: bytes) -> np.ndarray:
    """[x, y, z] in RAS+: uint8 as stored, everything else scaled to float32."""
    header = _header(data)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise Undecodable("The slope or intercept in the header is not a number.")
    if data.startswith(_GZIP):
        voxels = math.prod(int(n) for n in header.get_data_shape())
        declared = int(header["vox_offset"]) + voxels * header.get_data_dtype().itemsize
        data = _gunzipped(data, min(declared, LARGEST), whole=True)
    first = isinstance(header, nibabel.Nifti1Header) and data[344:348] == b"n+1\0"
    image = (nibabel.Nifti1Image if first else nibabel.Nifti2Image).from_bytes(data)
    if len(image.shape) > 3:
        image = nibabel.squeeze_image(image)
    raw = nibabel.as_closest_canonical(image).dataobj
    return np.asarray(raw) if np.asanyarray(raw).dtype == np.uint8 else np.asanyarray(raw, dtype=np.float32)


def _is_plain(head: bytes) -> bool:
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def _header(data: bytes) -> nibabel.Nifti1Header:
    head = _gunzipped(data, _HEADER, whole=False) if data.startswith(_GZIP) else data[:_HEADER]
    if not _is_plain(head):
        raise Undecodable("The gzipped content is no NIfTI file.")
    kind = nibabel.Nifti1Header if head[344:348] == b"n+1\0" else nibabel.Nifti2Header
    size = 348 if kind is nibabel.Nifti1Header else 540
    if len(head) < size:
        raise Undecodable("The file ends within its header.")
    return kind.from_fileobj(BytesIO(head[:size] + b"\0\0\0\0"), check=False)


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
