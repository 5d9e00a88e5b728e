"""How masks are extracted, beside what `ExtractOptions` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fmcache.errors import UsageError
from fmcache.extract.mask_prompts import RULES, check_prompts

MULTIMASK = ("best", "all")
LOGITS = ("f16", "f16-round6", "mask")


@dataclass(frozen=True)
class MaskOptions:
    """The choices of ``--kind mask``; all of them are in the key.

    Attributes
    ----------
    prompts : kinds of prompt, in the order of the array's axis; none: all that the model takes.
    rule : "paper" or "fairmedfm" (`make_prompt`). seed : of the random points.
    multimask : "best" stores the mask with the largest predicted IoU, "all" every one.
    logits : "f16"; "f16-round6" (six bits of mantissa: a fifth of the size); "mask" (1 and -1: whether the logit is
        above 0; it cannot be thresholded anew).
    """

    prompts: tuple[str, ...] = ()
    rule: str = "paper"
    seed: int = 0
    multimask: str = "best"
    logits: str = "f16"

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        for flag, value, allowed in (
            ("prompt-rule", self.rule, RULES),
            ("multimask", self.multimask, MULTIMASK),
            ("logits", self.logits, LOGITS),
        ):
            if value not in allowed:
                raise UsageError(
                    f"--{flag} {value} means nothing.",
                    f"It is one of {', '.join(allowed)}.",
                    f"Type: --{flag} {allowed[0]}",
                )
        if self.seed < 0:
            raise UsageError("A seed is a whole number from 0.", f"It is {self.seed}.", "Type: --seed 0")

    def document(self) -> dict[str, Any]:
        """The part of an entry's key that says what the model was asked and what was kept."""
        return {
            "prompts": list(self.prompts),
            "prompt_rule": self.rule,
            "seed": self.seed,
            "multimask": self.multimask,
            "logits": self.logits,
        }


def keep(logits: np.ndarray, form: str) -> np.ndarray:
    """float32 logits as they are stored: float16, rounded to six bits of mantissa, or only their side of 0."""
    if form == "mask":
        return np.where(logits > 0, np.float16(1), np.float16(-1))
    half = logits.astype(np.float16)
    if form == "f16":
        return half
    bits = half.view(np.uint16)
    # four of ten mantissa bits go; to the nearest, ties to even
    rounded = (bits + np.uint16(7) + ((bits >> np.uint16(4)) & np.uint16(1))) & np.uint16(0xFFF0)
    return np.where(np.isfinite(half), rounded, bits).astype(np.uint16).view(np.float16)
