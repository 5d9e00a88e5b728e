"""Bytes of one input → the 8-bit pixels of one image or slice.

The content decides the format, never the file's name. Rules (``reader.RULES`` numbers them; they are part of the key):

* PNG, JPEG, TIFF, WebP, BMP of one image: turned upright as their EXIF orientation says. Grey stays one channel; an RGB
  file stays RGB even if its channels are equal. Palette, CMYK and YCbCr become RGB; alpha is dropped, as the published
  transforms of the models do; 1-bit becomes 0 and 255.
* 16-bit grey: v → round(v · 255 / 65535), or the reader's window. 16-bit colour keeps its high byte. 32-bit and
  floating-point pixels have no declared range and need a window.
* DICOM: see ``dicom``. NIfTI, MHA, NPY/NPZ and DICOM series: see ``volumes``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from fmcache.extract import dicom, volumes
from fmcache.extract.inputs import SERIES, read_input
from fmcache.extract.reader import ReaderOptions, Undecodable
from fmcache.extract.scaling import windowed

__all__ = [
    "FORMATS",
    "ReaderOptions",
    "Undecodable",
    "count_slices",
    "decode",
    "guarded",
    "read_input",
    "sniff",
]

# Pillow's own list holds formats that start other programs (EPS) or read other files
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_Made = TypeVar("_Made")
_COLOUR = ("RGB", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr")


def decode(data: bytes, *, slice: int, reader: ReaderOptions, target: int | None = None) -> np.ndarray:
    """The pixels of one slice.

    Parameters
    ----------
    data : the bytes of the file.
    slice : 0 … count_slices(data, reader) - 1; always 0 for a plain image.
    target : the shortest side that will be needed. Lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size as long as
        both sides stay at least this large. None decodes exactly.

    Returns
    -------
    uint8 [h, w] (grey) or [h, w, 3] (RGB), contiguous.

    Raises
    ------
    Undecodable : for anything that is wrong with the input, with a one-line reason.
    """
    form = sniff(data)

    def pixels() -> np.ndarray:
        if form in FORMATS:
            if slice != 0:
                raise Undecodable("A plain image has a single slice.")
            return _picture(data, form, reader, target)
        return (dicom if form == "DICOM" else volumes).decode_slice(data, slice, reader)

    with (
        warnings.catch_warnings()
    ):  # a decoder's doubt about the pixels is a refusal, not a line on the screen
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = guarded(pixels)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise Undecodable("The pixels are neither grey nor RGB.")
    if min(image.shape) == 0:
        raise Undecodable("The image has no pixels.")
    return np.ascontiguousarray(image)


def count_slices(data: bytes, reader: ReaderOptions) -> int:
    """How many slices of this input are used, read from its header alone (1 for a plain image).

    Raises
    ------
    Undecodable : the header is that of no known format, or declares more than the reader's limits.
    """
    form = sniff(data)
    if form in FORMATS:
        return 1
    return guarded(lambda: (dicom if form == "DICOM" else volumes).count_slices(data, reader))


def sniff(data: bytes) -> str:
    """The format of the content: one of FORMATS, DICOM or VOLUME."""
    if data.startswith(SERIES):
        return "VOLUME"
    if data[128:132] == b"DICM":  # first: the preamble of a DICOM file may hold a TIFF header
        return "DICOM"
    for magic, form in _MAGIC:
        if data.startswith(magic):
            return form
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if volumes.is_volume(data):
        return "VOLUME"
    if dicom.lacks_preamble(data):
        return "DICOM"
    raise Undecodable("The content is no PNG, JPEG, TIFF, WebP, BMP, DICOM, NIfTI, MHA, NPY or NPZ.")


def guarded(make: Callable[[], _Made]) -> _Made:
    """Whatever a decoder raises on hostile bytes becomes one reason, without its text: that may quote the file."""
    try:
        return make()
    except Undecodable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Undecodable("The image declares more pixels than the limit allows.") from None
    except MemoryError:
        raise Undecodable("The pixels do not fit into memory.") from None
    except RecursionError:
        raise Undecodable("The file is nested too deeply.") from None
    except Exception as error:
        raise Undecodable(f"The file is damaged or of an unknown variant ({type(error).__name__}).") from None


def _picture(data: bytes, form: str, reader: ReaderOptions, target: int | None) -> np.ndarray:
    with Image.open(BytesIO(data), formats=[form]) as image:
        width, height = image.size
        if width * height > reader.max_pixels:
            raise Undecodable(
                f"The image declares {width} x {height} pixels; the limit is {reader.max_pixels:,}."
            )
        if (frames := getattr(image, "n_frames", 1)) != 1:
            raise Undecodable(f"The file holds {frames} images; one is expected.")
        if target is not None and form == "JPEG":
            image.draft(None, (target, target))
        image.load()
        upright = ImageOps.exif_transpose(image)
    return _eight_bits(upright, form, reader)


def _eight_bits(image: Image.Image, form: str, reader: ReaderOptions) -> np.ndarray:
    mode = image.mode
    if mode == "L" and reader.window is None:
        return np.asarray(image)
    if mode in ("1", "L", "LA", "La"):
        grey = np.asarray(image.convert("L"))
        return grey if reader.window is None else windowed(grey, *reader.window)
    if mode in _COLOUR:
        if mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))
    if mode.startswith("I;16") or (mode == "I" and form == "PNG"):
        deep = np.asarray(image).astype(np.int64)
        if reader.window is not None:
            return windowed(deep, *reader.window)
        return ((deep * 255 + 32767) // 65535).astype(np.uint8)
    if mode in ("I", "F"):
        if reader.window is None:
            raise Undecodable("32-bit pixels have no declared range; set `window` in [reader].")
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise Undecodable("Some pixels are not finite numbers.")
        return windowed(values, *reader.window)
    raise Undecodable(f"The colour mode {mode} is not supported.")
