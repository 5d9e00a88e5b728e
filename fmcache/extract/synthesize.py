"""A miniature of a dataset in exactly the layout in which its owner publishes it: random pixels, every raw code, and
broken rows. It shows what fmcache expects, and is what the cards' tests run on.

The files stand in the card, one ``[[synthetic]]`` section each (or a list of files alike):

    file = "train.csv"                   text = '''…'''          # a table or text as it is; .gz is compressed
    file = "demo.xlsx"                   text = '''CSV'''  sheet = "Sheet"
    file = ["a.jpg", "b.png"]            image = [h, w]  colour = true  bits = 8
    file = "m.png"                       mask = [h, w]  values = [255]
    file = "x.nii.gz" (or .mha)          volume = [x, y, z]  spacing = [1, 1, 3]  values = [1, 2]  (values: a mask)
    file = "x.dcm"                       dicom = [h, w]  tags = { PatientSex = "M" }
    file = "P001/"                       series = [slices, h, w]  tags = { … }  extension = ".dcm"  values = [255]
    file = "x.npz" (or .hdf5)            [synthetic.arrays] slo_fundus = { shape = [h, w], dtype = "uint8" }  age = 56.6
    file = "x.jpg"                       broken = "truncated" or "empty"    # after one of the above

Nothing that a section names is derived from the card's query: a miniature that the card reads wrongly shows it.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmcache.errors import UsageError
from fmcache.extract.dataset import SYNTHETIC
from fmcache.extract.dataset_card import DatasetCard

FLAG = """These files were made by `fmcache datasets {name} --synthesize`.
They are random pixels and invented rows in the layout of {title}.
No number computed from them means anything.
"""


def synthesize(card: DatasetCard, out: Path) -> Path:
    """Write the miniature to `out`, which must not exist or be empty; it appears at once.

    Raises
    ------
    UsageError : the card has no miniature, or `out` holds something.
    """
    if not card.synthetic:
        raise UsageError(
            f"The card {card.name} has no miniature.",
            "It has no [[synthetic]] section.",
            "See docs/adding.md.",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty; nothing was written.", "", "Name a new directory.")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for section in card.synthetic:
            names = section["file"]
            for name in [names] if isinstance(names, str) else names:
                _write(scratch, name, section)
        (scratch / SYNTHETIC).write_text(FLAG.format(name=card.name, title=card.title), encoding="utf-8")
        scratch.chmod(0o755)
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def _write(root: Path, name: str, section: Mapping[str, Any]) -> None:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"The miniature names a file that leaves its folder: {name}.",
            "Files of a miniature lie below its folder.",
            "Write a relative path without `..`.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:8]))
    if name.endswith("/"):
        path.mkdir(exist_ok=True)
        _series(path, section, rng)
        return
    data = _content(name, section, rng)
    if section.get("broken") == "truncated":
        data = data[: len(data) // 2]
    elif section.get("broken") == "empty":
        data = b""
    path.write_bytes(data)


def _content(name: str, section: Mapping[str, Any], rng: np.random.Generator) -> bytes:
    if "text" in section:
        return _text(name, section)
    if "image" in section:
        return _picture(name, _noise(section["image"], rng, section), section)
    if "mask" in section:
        return _picture(name, _blobs(section["mask"], section["values"], rng), section)
    if "dicom" in section:
        return _dicom(_noise(section["dicom"], rng, {"bits": 12}), section.get("tags", {}), 1)
    if "volume" in section:
        return _volume(name, section, rng)
    if "arrays" in section:
        arrays = {key: _array(of, rng) for key, of in section["arrays"].items()}
        return _npz(arrays) if name.endswith(".npz") else _hdf5(arrays)
    raise UsageError(
        f"The miniature does not say what {name} holds.",
        "An image, a volume or a mask needs its size and kind.",
        "Describe it in the miniature of the card; docs/datasets.md (Miniatures) shows how.",
    )


def _text(name: str, section: Mapping[str, Any]) -> bytes:
    if name.endswith(".xlsx"):
        import openpyxl

        book = openpyxl.Workbook()
        sheet = book.active
        sheet.title = section.get("sheet", "Sheet1")
        for row in csv.reader(io.StringIO(section["text"])):
            sheet.append([_number(cell) for cell in row])
        out = io.BytesIO()
        book.save(out)
        return out.getvalue()
    data = section["text"].encode()
    return gzip.compress(data, mtime=0) if name.endswith(".gz") else data


def _number(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None


def _noise(shape: list[int], rng: np.random.Generator, section: Mapping[str, Any]) -> np.ndarray:
    """A smooth random picture, so that JPEG and resizing have something to keep."""
    bits, colour = section.get("bits", 8), section.get("colour", False)
    size = (*shape, 3) if colour else tuple(shape)
    coarse = rng.random((*[max(2, n // 8) for n in shape], *([3] if colour else [])))
    rows, columns = (np.arange(n) * coarse.shape[k] // n for k, n in enumerate(shape))
    values = coarse[rows][:, columns] * 0.8 + rng.random(size) * 0.2
    return (values * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def _blobs(shape: list[int], values: list[int], rng: np.random.Generator) -> np.ndarray:
    """One block of every value in a background of 0; in the middle half of each axis, side by side along the last."""
    out = np.zeros(shape, np.int32)
    inner = tuple(slice(n // 4, max(n // 4 + 1, 3 * n // 4)) for n in shape[:-1])
    edges = np.linspace(shape[-1] // 8, shape[-1] - shape[-1] // 8, len(values) + 1).astype(int)
    for value, low, high in zip(values, edges, edges[1:], strict=False):
        out[(*inner, slice(low, max(high, low + 1)))] = value
    return out


def _picture(name: str, values: np.ndarray, section: Mapping[str, Any]) -> bytes:
    from PIL import Image

    if values.dtype == np.int32:
        values = values.astype(np.uint8)
    out = io.BytesIO()
    options = {"quality": 92} if name.endswith((".jpg", ".jpeg")) else {}
    Image.fromarray(values).save(out, "JPEG" if options else "PNG", **options)
    return out.getvalue()


def _volume(name: str, section: Mapping[str, Any], rng: np.random.Generator) -> bytes:
    shape, sides = section["volume"], section.get("spacing", [1, 1, 1])
    if "values" in section:
        values = _blobs(shape, section["values"], rng).astype(
            np.uint8 if max(section["values"]) < 256 else np.int16
        )
    else:
        values = rng.integers(-200, 300, shape).astype(np.int16)
    if name.endswith(".mha"):
        kind = {"uint8": "MET_UCHAR", "int16": "MET_SHORT"}[values.dtype.name]
        head = (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
            f"CompressedData = False\nTransformMatrix = {section.get('axes', '1 0 0 0 1 0 0 0 1')}\nOffset = 0 0 0\n"
            f"ElementSpacing = {' '.join(map(str, sides))}\nDimSize = {' '.join(map(str, shape))}\n"
            f"ElementType = {kind}\nElementDataFile = LOCAL\n"
        )
        return head.encode() + values.tobytes(order="F")
    import nibabel

    data = nibabel.Nifti1Image(values, np.diag([*sides, 1.0])).to_bytes()
    return gzip.compress(data, mtime=0) if name.endswith(".gz") else data


def _series(folder: Path, section: Mapping[str, Any], rng: np.random.Generator) -> None:
    count, *shape = section["series"]
    values = _blobs([count, *shape], section["values"], rng) if "values" in section else None
    for number in range(1, count + 1):
        pixels = _noise(shape, rng, {"bits": 12}) if values is None else values[number - 1].astype(np.uint16)
        # the names count down while the body goes up: whoever sorts by name gets it wrong
        name = f"{section.get('prefix', 'IM')}{count - number}{section.get('extension', '')}"
        (folder / name).write_bytes(_dicom(pixels, section.get("tags", {}), number))


def _dicom(pixels: np.ndarray, tags: Mapping[str, Any], number: int) -> bytes:
    """An uncompressed file, 12 bits; slice `number` lies `number` x 2 mm towards the head."""
    from pydicom import dcmwrite
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

    source = Dataset()
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    source.file_meta.MediaStorageSOPClassUID = source.SOPClassUID = CTImageStorage
    instance = UID(f"1.2.826.0.1.3680043.10.1.{number}")
    source.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID = instance
    source.Rows, source.Columns = pixels.shape
    source.SamplesPerPixel, source.PhotometricInterpretation = 1, "MONOCHROME2"
    source.BitsAllocated, source.BitsStored, source.HighBit, source.PixelRepresentation = 16, 12, 11, 0
    source.RescaleSlope, source.RescaleIntercept = 1, tags.get("RescaleIntercept", 0)
    source.SliceLocation = 2.0 * number
    source.InstanceNumber = number
    source.SeriesInstanceUID = "1.2.826.0.1.3680043.10.2"
    for key, value in tags.items():
        setattr(source, key, value)
    source.PixelData = pixels.astype("<u2").tobytes()
    out = io.BytesIO()
    dcmwrite(out, source, enforce_file_format=True)
    return out.getvalue()


def _array(of: Any, rng: np.random.Generator) -> np.ndarray:
    if not isinstance(of, Mapping):
        return np.array(
            [entry.encode() for entry in of] if isinstance(of, list) and isinstance(of[0], str) else of
        )
    shape, dtype = of["shape"], np.dtype(of.get("dtype", "uint8"))
    if "values" in of:
        return _blobs(shape, of["values"], rng).astype(dtype)
    if dtype.kind == "f":
        low, high = of.get("range", [0, 1])
        return np.asarray(rng.uniform(low, high, shape)).astype(dtype)
    return np.asarray(rng.integers(0, 256, shape)).astype(dtype)


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:  # as np.savez, with a fixed date: the same bytes every time
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return out.getvalue()


def _hdf5(arrays: Mapping[str, np.ndarray]) -> bytes:
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return out.getvalue()
