"""What the extraction of masks needs of a segmentation model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Words:
    """How a class is asked for by its name.

    Attributes
    ----------
    sentence : with {} for the name. encode : a sentence → [1, c].
    """

    sentence: str
    encode: Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Segmenter:
    """Two halves of a promptable model: one that sees the picture, one that answers prompts.

    Attributes
    ----------
    encode : pictures in the model's square (or volumes) → maps [b, c, …].
    decode : (maps [p, c, …], points [p, k, 2 or 3] or None, boxes [p, 4 or 6] or None) → logits [p, m, *low] and
        predicted IoU [p, m]. All points are inside the object. With `words` it takes the encoded names [p, c] as a
        fourth argument, where the prompt has them.
    low : size of the logits.
    masks : m, the masks for one prompt.
    prompts : the kinds of prompt that the model takes.
    words : of a model that reads, or None.
    upsample : "logits" (they are brought to the picture's size, then cut at a threshold) or "probabilities".
    """

    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    low: tuple[int, ...]
    masks: int
    prompts: tuple[str, ...]
    upsample: str = "logits"
    words: Words | None = None

    def document(self) -> dict[str, Any]:
        """The part of a mask entry's key that says what its numbers are."""
        document: dict[str, Any] = {"low": list(self.low), "masks": self.masks, "upsample": self.upsample}
        return document if self.words is None else {**document, "sentence": self.words.sentence}
