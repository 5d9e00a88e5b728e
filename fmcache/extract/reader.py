"""How an input becomes pixels: what a dataset may set, and the one error for an input that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from fmcache.errors import DatasetError

RULES = 1  # of decode, dicom and volumes together: a change that alters a pixel needs the next number
MAX_PIXELS = 50_000_000
MAX_VOXELS = 1_000_000_000


class Undecodable(Exception):
    """An input that cannot be used. `reason` is one line for a person, without an id or a path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ReaderOptions:
    """What ``[reader]`` in a card may say.

    Attributes
    ----------
    window : (centre, width) in the units of the data (Hounsfield units for CT): centre ± width/2 becomes 0…255. None:
        DICOM uses the file's own window, 16-bit grey its full range, volumes their 0.5 and 99.5 percentiles.
    axis : the axis along which a volume is cut. None: NIfTI 2 of RAS+ (from feet to head), arrays 0.
    slices : how many slices of a volume or frames of a file are used at most, evenly spaced.
    slicing : "pick" takes whole slices; "linear" resamples a volume along the axis to exactly `slices` slices, as the
        FairMedFM benchmark does (its appendix D.1.1; masks then take the nearest slice).
    spacing : a volume with known voxel sizes is first resampled to cubes of this side in mm (masks: nearest).
    array : which array of an NPZ file; None where it holds a single one that can be an image.
    max_pixels : an image (or one frame, one slice) with more is refused before it is decoded.
    """

    window: tuple[float, float] | None = None
    axis: int | None = None
    slices: int = 32
    slicing: str = "pick"
    spacing: float | None = None
    array: str | None = None
    max_pixels: int = MAX_PIXELS

    def document(self) -> dict[str, Any]:
        """The part of an entry's key that decides the pixels (limits only decide what is refused)."""
        document: dict[str, Any] = {
            "rules": RULES,
            "window": None if self.window is None else [float(value) for value in self.window],
            "axis": self.axis,
            "slices": self.slices,
            "array": self.array,
        }
        # named only where they differ from the default, so that entries made before they existed keep their key
        if self.slicing != "pick":
            document["slicing"] = self.slicing
        if self.spacing is not None:
            document["spacing"] = float(self.spacing)
        return document

    def count(self, n: int) -> int:
        """How many slices are used of a volume that has `n`."""
        return self.slices if self.slicing == "linear" else min(n, self.slices)


def reader_options(section: Mapping[str, Any]) -> ReaderOptions:
    """The options of a card's ``[reader]`` section.

    Raises
    ------
    DatasetError : an unknown key, or a value that means nothing.
    """
    known = [field.name for field in fields(ReaderOptions)]
    for key in section:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise DatasetError(
                f"[reader] has no key `{key}`.",
                f"It has: {', '.join(known)}.",
                f"Did you mean `{near[0]}`?" if near else "Remove it.",
            )
    values = dict(section)
    if "window" in values:
        window = values["window"]
        if not (
            isinstance(window, list) and len(window) == 2 and all(map(_is_number, window)) and window[1] > 0
        ):
            raise _bad("window", window, "[centre, width] with a width above 0, as in window = [40, 400]")
        values["window"] = (float(window[0]), float(window[1]))
    for key, low, high in (("axis", 0, 2), ("slices", 1, 100_000), ("max_pixels", 1, 10**9)):
        value = values.get(key, low)
        if not (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
            raise _bad(key, value, f"a whole number from {low} to {high:,}")
    if values.get("slicing", "pick") not in ("pick", "linear"):
        raise _bad("slicing", values["slicing"], '"pick" or "linear"')
    if "spacing" in values and not (_is_number(values["spacing"]) and 0.05 <= values["spacing"] <= 50):
        raise _bad("spacing", values["spacing"], "a side in mm from 0.05 to 50")
    if not isinstance(values.get("array", ""), str):
        raise _bad("array", values["array"], "the name of an array in quotes")
    return ReaderOptions(**values)


def positions(n: int, most: int) -> list[int]:
    """Where the used slices of `n` lie: the middles of `most` equal stretches; all of them when n ≤ most.

    Slice index i, as stored in the cache, stands for position floor((i + 1/2) · n / count).

    Examples
    --------
    >>> positions(10, 4)
    [1, 3, 6, 8]
    >>> positions(3, 32)
    [0, 1, 2]
    """
    count = min(n, most)
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bad(key: str, value: Any, wanted: str) -> DatasetError:
    return DatasetError(f"[reader] {key} cannot be {value!r}.", f"It is {wanted}.", "Mend the card.")
