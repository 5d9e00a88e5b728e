"""NPY and NPZ arrays; objects are never unpickled."""

from __future__ import annotations

import zipfile
from io import BytesIO

import numpy as np

from fmcache.extract.nifti import LARGEST
from fmcache.extract.reader import ReaderOptions, Undecodable
from fmcache.extract.volume import Layout

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_HEAD = 65536


def is_npy(data: bytes) -> bool:
    """Whether the content starts like an NPY or NPZ file."""
    return data.startswith((_NPY, _ZIP))


def npy_layout(data: bytes, reader: ReaderOptions) -> Layout:
    """[h, w] and [h, w, 3] of 8 bits are images, [s, h, w] is a volume; from the header alone."""
    if data.startswith(_NPY):
        shape, dtype = _header(data[:_HEAD])
    else:
        with zipfile.ZipFile(BytesIO(data)) as archive, archive.open(_member(archive, reader)) as file:
            shape, dtype = _header(file.read(_HEAD))
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3 and dtype == np.uint8):
        return Layout(shape, None)
    if len(shape) == 3:
        return Layout(shape, reader.axis or 0)
    raise Undecodable(f"An array of {len(shape)} axes is neither an image nor a volume.")


def npy_values(data: bytes, reader: ReaderOptions) -> np.ndarray:
    """The array, as stored."""
    if data.startswith(_NPY):
        return np.lib.format.read_array(BytesIO(data), allow_pickle=False)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        name = _member(archive, reader)
        if archive.getinfo(name).file_size > LARGEST:
            raise Undecodable("The array is larger than the limit.")
        with archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _header(head: bytes) -> tuple[tuple[int, ...], np.dtype]:
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
                shape, _ = _header(file.read(_HEAD))
            except Undecodable:
                continue
        if len(shape) in (2, 3):
            found.append(name)
    if len(found) != 1:
        raise Undecodable(f"The file holds {len(found)} arrays that can be images; set `array` in [reader].")
    return found[0]
