"""One DICOM file → 8-bit frames.

In this order: the header's size is checked before any pixel is decoded; the frame is decompressed (pylibjpeg's
plug-ins); values outside the declared bits are refused; rescale or modality LUT; the reader's window, else the file's
VOI LUT, else its first window (LINEAR, LINEAR_EXACT or SIGMOID), else the frame's own minimum and maximum become 0…255;
MONOCHROME1 is inverted. Palette and YBR colour become RGB; 16-bit colour is divided by its declared range. Frames of
one file are slices.
Source: DICOM PS3.3 C.7.6.3, C.11.1 and C.11.2.
"""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
import pydicom
from pydicom import pixels
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian

from fmcache.extract.reader import MAX_VOXELS, ReaderOptions, Undecodable, positions

_HEADER_TAGS = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated"]
_PLUGIN = {
    "JPEG 2000": "pylibjpeg-openjpeg",
    "High-Throughput": "pylibjpeg-openjpeg",
    "JPEG": "pylibjpeg-libjpeg",
}


def lacks_preamble(data: bytes) -> bool:
    """Whether this starts like a data set stored without its 128-byte preamble: a low tag of group 2 or 8."""
    return data[128:132] != b"DICM" and data[:2] in (b"\x02\0", b"\x08\0") and data[3:4] == b"\0"


def count_slices(data: bytes, reader: ReaderOptions) -> int:
    """How many frames are used, from the header alone."""
    source = pydicom.dcmread(
        BytesIO(data), stop_before_pixels=True, specific_tags=_HEADER_TAGS, force=lacks_preamble(data)
    )
    return min(_frames(source, reader), reader.slices)


def decode_slice(data: bytes, slice: int, reader: ReaderOptions) -> np.ndarray:
    """One used frame, uint8 [h, w] or [h, w, 3]."""
    source, frame = _read_frame(data, slice, reader)
    if int(source.SamplesPerPixel) == 3:
        return _full_range(frame, int(source.BitsStored))
    if source.PhotometricInterpretation == "PALETTE COLOR":
        table = pixels.apply_color_lut(frame, source)[..., :3]
        return _full_range(table, 8 * table.dtype.itemsize)
    if source.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise Undecodable("The photometric interpretation is not supported.")
    grey = _presented(_rescaled(frame, source), source, reader)
    return 255 - grey if source.PhotometricInterpretation == "MONOCHROME1" else grey


def modality_values(data: bytes, reader: ReaderOptions) -> np.ndarray:
    """The one frame of a file after the modality step (Hounsfield units for CT), float64 [h, w]."""
    source, frame = _read_frame(data, 0, reader)
    if source.PhotometricInterpretation != "MONOCHROME2":
        raise Undecodable("A slice of the series is not MONOCHROME2.")
    return _rescaled(frame, source)


def stored_frame(data: bytes, reader: ReaderOptions) -> np.ndarray:
    """The one frame of a file as its numbers are stored, [h, w]."""
    source, frame = _read_frame(data, 0, reader)
    if int(source.SamplesPerPixel) != 1:
        raise Undecodable("A mask in colour is not supported.")
    return frame


def _read_frame(data: bytes, slice: int, reader: ReaderOptions) -> tuple[Dataset, np.ndarray]:
    source = pydicom.dcmread(BytesIO(data), force=lacks_preamble(data))
    frames = _frames(source, reader)
    if "PixelData" not in source:
        other = "FloatPixelData" in source or "DoubleFloatPixelData" in source
        raise Undecodable(
            "Floating-point pixel data is not supported." if other else "The file has no pixel data."
        )
    syntax = _transfer_syntax(source)
    used = positions(frames, reader.slices)
    if not 0 <= slice < len(used):
        raise Undecodable(f"There is no slice {slice}; the file has {len(used)}.")
    _check_length(source, frames, syntax)
    _check_plugin(syntax)
    return source, _decoded(source, used[slice])


# ------------------------------------------------------------------------------------------------------------ header


def _frames(source: Dataset, reader: ReaderOptions) -> int:
    """The declared number of frames, once the declared size is known to be harmless."""
    if any(name not in source for name in ("Rows", "Columns", "BitsAllocated")):
        raise Undecodable("The file declares no image size.")
    rows, columns = int(source.Rows), int(source.Columns)
    frames = int(source.get("NumberOfFrames") or 1)
    if min(rows, columns, frames) < 1:
        raise Undecodable("The header declares an image without pixels.")
    if rows * columns > reader.max_pixels:
        raise Undecodable(
            f"The header declares {columns} x {rows} pixels; the limit is {reader.max_pixels:,}."
        )
    if rows * columns * frames > MAX_VOXELS:
        raise Undecodable(f"The header declares {frames:,} frames; together they are above the limit.")
    return frames


def _transfer_syntax(source: Dataset) -> UID:
    meta = getattr(source, "file_meta", None)
    if meta is not None and "TransferSyntaxUID" in meta:
        return meta.TransferSyntaxUID
    if not source.original_encoding[0] or not source.original_encoding[1]:
        raise Undecodable("The file does not say how it is encoded.")
    source.file_meta = pydicom.dataset.FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return ImplicitVRLittleEndian


def _check_length(source: Dataset, frames: int, syntax: UID) -> None:
    """Uncompressed pixel data must be as long as declared; pydicom reads other lengths with a warning at most."""
    if not syntax.is_transfer_syntax:
        raise Undecodable("The transfer syntax is unknown.")
    if syntax.is_encapsulated:
        return
    samples = int(source.get("SamplesPerPixel", 1))
    if source.PhotometricInterpretation == "YBR_FULL_422":
        samples = 2
    bits = int(source.Rows) * int(source.Columns) * frames * samples * int(source.BitsAllocated)
    declared, actual = (bits + 7) // 8, len(source.PixelData)
    if actual not in (declared, declared + declared % 2):
        raise Undecodable(f"The pixel data has {actual:,} bytes where the header declares {declared:,}.")


def _check_plugin(syntax: UID) -> None:
    if not syntax.is_encapsulated:
        return
    try:
        available = pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        raise Undecodable(f"The compression {syntax.name} is not supported.") from None
    if not available:
        plugin = next((of for word, of in _PLUGIN.items() if word in syntax.name), "pylibjpeg")
        raise Undecodable(f"The compression {syntax.name} needs a plug-in: pip install pylibjpeg {plugin}")


# ------------------------------------------------------------------------------------------------------------ pixels


def _decoded(source: Dataset, frame: int) -> np.ndarray:
    """The stored values of one frame, [h, w] or RGB [h, w, 3]; what pydicom only warns of is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            # correct_unused_bits would hide a wrong sign or depth: it clears the bits that contradict the header
            values = pixels.pixel_array(source, index=frame, correct_unused_bits=False)
        except UserWarning as doubt:
            raise Undecodable(f"The pixel data contradicts the header ({_topic(doubt)}).") from None
        except RuntimeError:  # pydicom's "every plug-in failed"
            name = _transfer_syntax(source).name
            raise Undecodable(f"No installed plug-in can decode this pixel data ({name}).") from None
    samples = int(source.SamplesPerPixel)
    expected = (int(source.Rows), int(source.Columns)) + ((3,) if samples == 3 else ())
    if samples not in (1, 3) or values.shape != expected:
        raise Undecodable("The decoded frame has another shape than the header declares.")
    bits = int(source.BitsStored)
    signed = int(source.PixelRepresentation) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if values.min() < low or values.max() > high:
        raise Undecodable(f"Some values do not fit into the {bits} bits that the header declares.")
    return values


def _topic(doubt: Warning) -> str:
    text = str(doubt).lower()
    for words, topic in ((("length", "padding"), "its length"), (("pixel representation",), "its sign")):
        if any(word in text for word in words):
            return topic
    return "its encoding"


def _rescaled(frame: np.ndarray, source: Dataset) -> np.ndarray:
    if source.get("ModalityLUTSequence"):
        return pixels.apply_modality_lut(frame, source).astype(np.float64)
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    slope, intercept = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise Undecodable("The rescale slope or intercept is not a usable number.")
    return frame.astype(np.float64) * slope + intercept


def _presented(values: np.ndarray, source: Dataset, reader: ReaderOptions) -> np.ndarray:
    """Grey values after the modality step → 0…255, before MONOCHROME1 is inverted."""
    if reader.window is not None:
        middle, whole = reader.window
        return _ramp(values, middle - whole / 2, middle + whole / 2)
    if source.get("VOILUTSequence"):
        bits = int(source.VOILUTSequence[0].LUTDescriptor[2])
        return _full_range(pixels.apply_voi(np.rint(values).astype(np.int64), source), bits)
    centre, width = _first(source.get("WindowCenter")), _first(source.get("WindowWidth"))
    if centre is None or width is None:
        return _ramp(values, float(values.min()), float(values.max()))
    function = str(source.get("VOILUTFunction") or "LINEAR").upper()
    if width <= 0 or (function == "LINEAR" and width < 1) or not np.isfinite([centre, width]).all():
        raise Undecodable("The window in the header is not usable.")
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return np.rint(255 / (1 + np.exp(-4 * (values - centre) / width))).astype(np.uint8)
    if function == "LINEAR_EXACT":
        return _ramp(values, centre - width / 2, centre + width / 2)
    if function != "LINEAR":
        raise Undecodable("The VOI LUT function is unknown.")
    return _ramp(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _first(value: object) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, pydicom.multival.MultiValue):
        return float(value[0]) if len(value) else None
    return float(value)  # type: ignore[arg-type]


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _full_range(values: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8 and values.dtype == np.uint8:
        return values
    return np.rint(np.clip(values.astype(np.float64) / (2**bits - 1), 0, 1) * 255).astype(np.uint8)
