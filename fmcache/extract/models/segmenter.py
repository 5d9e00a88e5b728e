"""What the extraction of masks needs of a segmentation model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Segmenter:
    """Two halves of a promptable model: one that sees the picture, one that answers prompts.

    Attributes
    ----------
    encode : pictures in the model's square (or volumes) → maps [b, c, …].
    decode : (maps [p, c, …], points [p, k, 2 or 3] or None, boxes [p, 4 or 6] or None) → logits [p, m, *low] and
        predicted IoU [p, m]. All points are inside the object.
    low : size of the logits.
    masks : m, the masks for one prompt.
    prompts : the kinds of prompt that the model takes.
    upsample : "logits" (they are brought to the picture's size, then cut at a threshold) or "probabilities".
    """

    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[
        [torch.Tensor, torch.Tensor | None, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]
    ]
    low: tuple[int, ...]
    masks: int
    prompts: tuple[str, ...]
    upsample: str = "logits"

    def document(self) -> dict[str, Any]:
        """The part of a mask entry's key that says what its numbers are."""
        return {"low": list(self.low), "masks": self.masks, "upsample": self.upsample}
