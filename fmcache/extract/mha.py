"""MetaImage (.mha, one file) → a volume turned to RAS+.

The format is a text header of ``Key = value`` lines that ends with ``ElementDataFile = LOCAL``, then the voxels, first
axis fastest, raw or zlib. Its world is LPS (x to the left, y to the back), NIfTI's is RAS. Read here rather than by
SimpleITK, whose reader needs a file on disk (pixels of patients would be written to a temporary one) and believes the
header before its size is known to be harmless; a parity test holds this against SimpleITK.
"""

from __future__ import annotations

import zlib

import numpy as np

from fmcache.extract.reader import MAX_VOXELS, ReaderOptions, Undecodable
from fmcache.extract.volume import Layout, turn_upright, upright_layout

_HEAD = 16384
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def is_mha(data: bytes) -> bool:
    """Whether the content starts like a MetaImage header."""
    return data[:64].lstrip().startswith((b"ObjectType", b"NDims", b"Comment"))


def mha_layout(data: bytes, reader: ReaderOptions) -> Layout:
    """From the header alone."""
    fields, _ = _header(data)
    return upright_layout(_shape(fields), _affine(fields), reader)


def mha_values(data: bytes) -> np.ndarray:
    """[x, y, z] in RAS+: 8-bit values as stored, everything else as float32."""
    fields, start = _header(data)
    shape, kind = _shape(fields), _TYPES.get(fields.get("ElementType", ""))
    if kind is None:
        raise Undecodable("The element type of the MHA file is not supported.")
    order = (
        ">"
        if fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")) == "True"
        else "<"
    )
    dtype = np.dtype(order + kind)
    voxels = int(np.prod(shape, dtype=object))
    if voxels > MAX_VOXELS:
        raise Undecodable(f"The header declares {voxels:,} values; the limit is {MAX_VOXELS:,}.")
    declared = voxels * dtype.itemsize
    body = data[start:]
    if fields.get("CompressedData", "False") == "True":
        unpack = zlib.decompressobj()
        body = unpack.decompress(body, declared)
        if len(body) < declared or not (unpack.eof or unpack.decompress(unpack.unconsumed_tail, 1) == b""):
            raise Undecodable("The compressed data has another length than the header declares.")
    elif len(body) != declared:
        raise Undecodable(f"The file has {len(body):,} bytes of data where the header declares {declared:,}.")
    values = np.frombuffer(body, dtype).reshape(shape, order="F")
    if dtype != np.uint8:
        values = values.astype(np.float32)
    return turn_upright(values, _affine(fields))


def _header(data: bytes) -> tuple[dict[str, str], int]:
    """The fields and where the voxels begin."""
    fields: dict[str, str] = {}
    at = 0
    while True:
        end = data.find(b"\n", at, _HEAD)
        if end < 0:
            raise Undecodable("The header of the MHA file has no end.")
        key, equals, value = data[at:end].decode("latin-1").partition("=")
        at = end + 1
        if not equals:
            raise Undecodable("The header of the MHA file is damaged.")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    if fields["ElementDataFile"] != "LOCAL":
        raise Undecodable("The header keeps its data in another file; only single-file .mha is supported.")
    if fields.get("BinaryData", "True") != "True" or fields.get("ElementNumberOfChannels", "1") != "1":
        raise Undecodable("Text and multi-channel MHA files are not supported.")
    return fields, at


def _numbers(fields: dict[str, str], names: tuple[str, ...], count: int, default: list[float]) -> list[float]:
    text = next((fields[name] for name in names if name in fields), None)
    values = default if text is None else [float(part) for part in text.split()]
    if len(values) != count:
        raise Undecodable("The header of the MHA file is damaged.")
    return values


def _shape(fields: dict[str, str]) -> tuple[int, ...]:
    if fields.get("NDims") != "3":
        raise Undecodable("An MHA file of other than three axes is not supported.")
    shape = tuple(int(n) for n in _numbers(fields, ("DimSize",), 3, []))
    if min(shape) < 1:
        raise Undecodable("The header declares an empty volume.")
    return shape


def _affine(fields: dict[str, str]) -> np.ndarray:
    axes = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), 9, [1, 0, 0, 0, 1, 0, 0, 0, 1])
    sides = _numbers(fields, ("ElementSpacing", "ElementSize"), 3, [1, 1, 1])
    affine = np.eye(4)
    # the header lists one axis after the other: row k is the direction of axis k
    affine[:3, :3] = _LPS_TO_RAS @ (np.array(axes).reshape(3, 3).T * np.array(sides))
    return affine
