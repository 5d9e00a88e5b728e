"""A sample's `mask_path` → its class map. No torch in here; docs/decisions/170-masks.md is the contract."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fmcache.extract import dicom, volumes
from fmcache.extract.decode import FORMATS, guarded, sniff
from fmcache.extract.inputs import read_input
from fmcache.extract.masks import MaskCard, mask_card
from fmcache.extract.reader import ReaderOptions, Undecodable

__all__ = ["MaskCard", "mask_bytes", "mask_card", "read_mask", "stored_values"]

_GREY = ("1", "L", "P", "I;16", "I;16B", "I")


def read_mask(root: Path, mask_path: str, masks: MaskCard, reader: ReaderOptions) -> np.ndarray:
    """The class map of one sample.

    Parameters
    ----------
    mask_path : `;`-separated parts, each ``PATH`` or ``CLASS=PATH``.
    reader : the dataset's; slices and orientation are those of the image.

    Returns
    -------
    uint8 [h, w] for an image, [s, h, w] for a volume: k where the pixel is of ``masks.classes[k - 1]``, 0 elsewhere.
    Where classes overlap, the later one wins.

    Raises
    ------
    Undecodable : the mask cannot be used, with a one-line reason.
    """
    planes = []
    for part in mask_path.split(";"):
        name, path = _part(part, masks)
        values = _stored(read_input(root, path), reader)
        if name is not None:
            planes.append((masks.classes.index(name) + 1, values > masks.above))
        elif masks.values:
            return _by_value(values, masks)
        else:
            planes.append((1, values > masks.above))
    if len({plane.shape for _, plane in planes}) != 1:
        raise Undecodable("The masks of one sample have different shapes.")
    out = np.zeros(planes[0][1].shape, np.uint8)
    for number, plane in sorted(planes, key=lambda one: one[0]):
        out[plane] = number
    return out


def stored_values(root: Path, mask_path: str, reader: ReaderOptions) -> np.ndarray:
    """The numbers of a mask of one part as they are stored, [h, w] or [s, h, w]; of several parts, those of the first.

    Raises
    ------
    Undecodable : it cannot be read.
    """
    return _stored(read_input(root, mask_path.split(";")[0].rpartition("=")[2]), reader)


def mask_bytes(root: Path, mask_path: str) -> bytes:
    """The bytes of a mask's parts, in order: what a digest of the mask is taken of."""
    return b"".join(read_input(root, part.rpartition("=")[2]) for part in mask_path.split(";"))


def _part(part: str, masks: MaskCard) -> tuple[str | None, str]:
    name, equals, path = part.partition("=")
    if not equals:
        return None, part
    if name not in masks.classes:
        raise Undecodable(f"The mask names the class {name!r}, which the card does not have.")
    return name, path


def _by_value(values: np.ndarray, masks: MaskCard) -> np.ndarray:
    out = np.zeros(values.shape, np.uint8)
    left = values != 0
    for number, name in enumerate(masks.classes, 1):
        inside = np.isin(values, masks.values[name])
        out[inside] = number
        left &= ~inside
    if masks.ignore is not None and left.any():
        stray = sorted({int(value) for value in np.unique(values[left])} - set(masks.ignore))
        if stray:
            raise Undecodable(
                f"The mask holds the values {', '.join(map(str, stray[:8]))}, which the card does not know."
            )
    return out


def _stored(data: bytes, reader: ReaderOptions) -> np.ndarray:
    """The numbers of a mask as they are stored, [h, w] or [s, h, w]."""
    form = sniff(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form in FORMATS:
            return guarded(lambda: _picture(data, form, reader))
        if form == "DICOM":
            return guarded(lambda: dicom.stored_frame(data, reader))
        values = guarded(lambda: volumes.stored_slices(data, reader))
    if values.ndim not in (2, 3):
        raise Undecodable("The mask is neither an image nor a volume.")
    return values


def _picture(data: bytes, form: str, reader: ReaderOptions) -> np.ndarray:
    with Image.open(BytesIO(data), formats=[form]) as image:
        if image.size[0] * image.size[1] > reader.max_pixels:
            raise Undecodable(f"The mask declares {image.size[0]} x {image.size[1]} pixels, above the limit.")
        if image.mode in _GREY:  # a palette's indices are the values; its colours are for the eye
            return np.asarray(image).astype(np.int32)
        channels = np.asarray(image.convert("RGB"))
    if not (channels == channels[..., :1]).all():
        raise Undecodable("The mask is a colour image; one channel of values is expected.")
    return channels[..., 0].astype(np.int32)
