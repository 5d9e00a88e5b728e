"""What a text tower is asked: one sentence for every template and every class of a label.

A dataset's card says it (`classes` of a label, `templates` of the dataset). The published sets of three papers can be
asked for instead; they need no classes, only the finding's name as it stands in a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fmcache.errors import DatasetError, UsageError

# CheXzero (Tiu et al. 2022, zero_shot.py): the finding against "no" and the finding
CHEXZERO = (("no {}", "{}"),)
# the seven of CLIP's eighty templates with which its authors got the same accuracy on ImageNet
CLIP = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
SETS = ("dataset", "chexzero", "clip", "medclip")


@dataclass(frozen=True)
class Prompts:
    """The sentences of one label.

    Attributes
    ----------
    classes : names of value 0, value 1, … of the label.
    templates : as they were written, one a row of `sentences`.
    sentences : [templates][classes].
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]

    def document(self) -> dict[str, Any]:
        """Its part of an entry's key."""
        return {
            "classes": list(self.classes),
            "templates": list(self.templates),
            "sentences": [list(of) for of in self.sentences],
        }


def prompts_of(card: Mapping[str, Any], labels: Sequence[str], wanted: str = "dataset") -> dict[str, Prompts]:
    """The prompts of a dataset's labels.

    Parameters
    ----------
    card : the dataset's card as plain data. labels : the labels that its samples have.
    wanted : ``dataset`` (the card's own), ``chexzero``, ``clip`` or ``medclip``.

    Raises
    ------
    UsageError : no such set. DatasetError : the card gives no prompt to any label.
    """
    if wanted not in SETS:
        near = get_close_matches(wanted, SETS, n=1)
        raise UsageError(
            f"There is no prompt set {wanted!r}.",
            f"There are: {', '.join(SETS)}.",
            f"Did you mean --prompts {near[0]}?" if near else "Type: --prompts dataset",
        )
    known: Mapping[str, Any] = card.get("labels", {})
    templates = tuple(card.get("text", {}).get("templates", ()))
    found: dict[str, Prompts] = {}
    for label in labels:
        of = known.get(label, {})
        classes = tuple(of.get("classes", ()))
        name = of.get("text") or of.get("title", label).replace("_", " ").lower()
        prompts = _of_one(wanted, label, name, classes, templates)
        if prompts is not None:
            found[label] = prompts
    if not found:
        raise _nothing(wanted, labels, templates)
    return found


def _of_one(
    wanted: str, label: str, name: str, classes: tuple[str, ...], templates: tuple[str, ...]
) -> Prompts | None:
    if wanted == "chexzero":
        pair = CHEXZERO[0]
        return Prompts((f"no {name}", name), (" | ".join(pair),), (tuple(one.format(name) for one in pair),))
    if wanted == "medclip":
        from fmcache.extract.medclip_prompts import NORMAL, sentences

        many = sentences(label)
        return Prompts((NORMAL, name), many, tuple((NORMAL, one) for one in many)) if many else None
    if len(classes) < 2:
        return None
    chosen = CLIP if wanted == "clip" else templates
    rows = tuple(tuple(template.replace("{}", one) for one in classes) for template in chosen)
    return Prompts(classes, chosen, rows) if rows else None


def _nothing(wanted: str, labels: Sequence[str], templates: Sequence[str]) -> DatasetError:
    shown = ", ".join(labels[:5]) or "none"
    if wanted == "medclip":
        return DatasetError(
            "MedCLIP published prompts for five findings, and this dataset has none of them.",
            f"Its labels: {shown}.",
            "Type: --prompts chexzero",
        )
    lack = "no label has `classes`" if templates or wanted == "clip" else "it has no text templates"
    return DatasetError(
        "The dataset's card gives no text prompts.",
        f"Labels: {shown}; {lack}.",
        'Add [text] templates = ["a chest X-ray of {}"] and classes = ["normal", "…"] to a label, '
        "or type: --prompts chexzero",
    )
