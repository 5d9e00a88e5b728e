"""Reading text entries: the embedded prompts of every label, and how a zero-shot logit is made with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import CorruptCache, MissingEntry
from fmcache.store.embeddings import Embeddings
from fmcache.store.entries import Entry, stored_in


class Texts:
    """The prompts of one text entry.

    Attributes
    ----------
    entry : where they come from; ``document`` is its key document.
    labels : label → names of its classes, in the order of the label's values.
    logit_scale, logit_bias : logit = scale · cosine + bias. image_pool, image_tokens : the image embedding they go with
        (docs/decisions/100-text-entries.md).
    """

    def __init__(self, entry: Entry, verify: str) -> None:
        self.entry = entry
        self.document: Mapping[str, Any] = entry.document
        self._prompts: Mapping[str, Any] = self.document["prompts"]
        self.labels = {label: tuple(of["classes"]) for label, of in self._prompts.items()}
        how = self.document["zero_shot"]
        self.logit_scale, self.logit_bias = float(how["logit_scale"]), float(how["logit_bias"])
        self.image_pool, self.image_tokens = str(how["image_pool"]), int(how["image_tokens"])
        rows = stored_in(entry.segments).rows.sort("segment", "row")
        where = rows.select("segment", "row").to_numpy().astype(np.int64)
        self._row = {sample: row for row, sample in enumerate(rows["sample_id"].to_list())}
        self._embeddings = Embeddings(entry, rows, pl.DataFrame(), where, verify)

    @property
    def d(self) -> int:
        """Width of an embedding."""
        return self._embeddings.d

    def templates(self, label: str) -> tuple[str, ...]:
        """The templates of a label, as they were written."""
        return tuple(self._of(label)["templates"])

    def sentences(self, label: str) -> tuple[tuple[str, ...], ...]:
        """The sentences that were embedded, [templates][classes]."""
        return tuple(tuple(of) for of in self._of(label)["sentences"])

    def array(self, label: str) -> np.ndarray:
        """The embedded prompts of a label, float32 [templates, classes, d], not normalised.

        Raises
        ------
        MissingEntry : the entry has no prompts of that label. CorruptCache : a sentence of the key has no row.
        """
        sentences = self._of(label)["sentences"]
        names = [f"{label}|{t}|{c}" for t, classes in enumerate(sentences) for c in range(len(classes))]
        absent = [name for name in names if name not in self._row]
        if absent:
            raise CorruptCache(
                f"The text entry {self.entry.key[:12]} lacks {len(absent)} of {len(names)} prompts of {label}.",
                "They were rejected, or a segment is gone.",
                f"Type: fmcache extract --kind text --model {self.entry.model} --dataset {self.entry.dataset}",
            )
        rows = self._embeddings.rows([self._row[name] for name in names], "float32")
        return rows.reshape(len(sentences), len(sentences[0]), -1)

    def _of(self, label: str) -> Mapping[str, Any]:
        if label in self._prompts:
            return dict(self._prompts[label])
        raise MissingEntry(
            f"The text entry {self.entry.key[:12]} of {self.entry.model} has no prompts of the label {label!r}.",
            f"It has: {', '.join(self._prompts)}.",
            'Add classes = ["…", "…"] to that label in the dataset\'s card and extract --kind text again.',
        )
