"""What a dataset card says of its masks: the classes, and which stored value is which class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from fmcache.errors import DatasetError

_KEYS = ("classes", "values", "above", "ignore")


@dataclass(frozen=True)
class MaskCard:
    """How stored mask values become classes.

    Attributes
    ----------
    classes : class k is the value k + 1 of a class map; 0 is background. At most 255.
    values : class → its stored values. Empty: the mask is binary (one class, or one file a class).
    above : a binary mask is inside where its stored value is above this.
    ignore : stored values that become background; ``None`` means every value that no class has.
    """

    classes: tuple[str, ...]
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    above: float = 0
    ignore: tuple[int, ...] | None = ()


def mask_card(card: Mapping[str, Any], what: str = "The card") -> MaskCard:
    """The section ``[masks]`` of a card as plain data (``Dataset.card``, or the file's content).

    Raises
    ------
    DatasetError : there is none, or it makes no sense.
    """
    section = card.get("masks")
    if not section:
        do = "fmcache datasets   lists the tasks; segmentation datasets have masks."
        raise DatasetError(
            f"{what} {card.get('name', '')} has no section [masks].".replace("  ", " "), "", do
        )
    for key in section:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            do = f"Did you mean `{near[0]}`?" if near else "Remove it."
            raise DatasetError(
                f"{what}: [masks] `{key}` means nothing here.", f"Known: {', '.join(_KEYS)}.", do
            )
    classes, values = section.get("classes", []), section.get("values", {})
    if not (
        isinstance(classes, list)
        and 1 <= len(classes) <= 255
        and all(isinstance(one, str) for one in classes)
    ):
        raise DatasetError(
            f"{what}: [masks] classes is no list of 1 to 255 names.",
            f"It is {classes!r}.",
            'Write classes = ["lung", …]; docs/datasets.md (Masks) shows it.',
        )
    if len(set(classes)) != len(classes):
        raise DatasetError(
            f"{what}: [masks] classes holds a name twice.",
            f"It is {', '.join(classes)}.",
            "Give each class its own name.",
        )
    for name, of in values.items():
        if name not in classes:
            raise DatasetError(
                f"{what}: [masks] values names the class {name!r}.",
                f"Classes: {', '.join(classes)}.",
                f"Add {name!r} to classes, or take it out of values.",
            )
        if not isinstance(of, list) or not of or not all(type(value) is int for value in of):
            raise DatasetError(
                f"{what}: [masks] values.{name} is no list of whole numbers.",
                f"It is {of!r}.",
                f"Write values.{name} = [1, 2].",
            )
    if values and (lacking := [name for name in classes if name not in values]):
        raise DatasetError(
            f"{what}: [masks] values has no {lacking[0]!r}.",
            f"It has {', '.join(values)}.",
            f"Give the grey values of {lacking[0]!r}, or take it out of classes.",
        )
    ignore = section.get("ignore", [])
    if ignore != "others" and not (isinstance(ignore, list) and all(type(value) is int for value in ignore)):
        raise DatasetError(
            f'{what}: [masks] ignore is neither a list of whole numbers nor "others".',
            f"It is {ignore!r}.",
            'Write ignore = [255], or ignore = "others" for every value that no class has.',
        )
    return MaskCard(
        classes=tuple(classes),
        values={name: tuple(of) for name, of in values.items()},
        above=float(section.get("above", 0)),
        ignore=None if ignore == "others" else tuple(ignore),
    )
