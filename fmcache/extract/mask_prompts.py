"""Prompts for SAM-like models, made from the ground-truth mask and a seed. No torch in here.

The benchmark's four kinds (FairMedFM, section 2.1): the centre of the mask, one random point in it, five, its bounding
box. Points and corners are (x, y), for volumes (x, y, z), in pixels of the picture, the first pixel being 0. A model
that reads (SegVol) also takes the name of the class, alone or with the box.
"""

from __future__ import annotations

import zlib

import numpy as np

from fmcache.errors import UsageError

PROMPTS = ("center", "rand", "rands", "bbox", "text", "text-bbox")
BOXES, TEXTS = ("bbox", "text-bbox"), ("text", "text-bbox")
RULES = ("paper", "fairmedfm")
RANDS = 5


def check_prompts(kinds: tuple[str, ...], allowed: tuple[str, ...] = PROMPTS, of: str = "") -> None:
    """Raise for a kind that does not exist, or that the model `of` does not take.

    Raises
    ------
    UsageError.
    """
    from difflib import get_close_matches

    for kind in kinds:
        if kind not in allowed:
            near = get_close_matches(kind, allowed, n=1)
            known = f"{of} takes" if of else "There are"
            raise UsageError(
                f"--prompt {kind} means nothing{f' to {of}' if of and kind in PROMPTS else ''}.",
                f"{known} {', '.join(allowed)}.",
                f"Type: --prompt {near[0] if near else allowed[0]}",
            )


def make_prompt(
    kind: str, inside: np.ndarray, random: np.random.Generator, rule: str = "paper"
) -> np.ndarray:
    """The points or corners of one prompt.

    Parameters
    ----------
    kind : "center" (the pixel of the mask nearest to its centre of mass), "rand" (one pixel, each as likely), "rands"
        (five different pixels; where there are fewer, each is taken once before any is taken again), "bbox" (the
        smallest box that holds all pixels, its corners being pixels of the mask's outline), "text" (no place at all),
        "text-bbox" (the box).
    inside : bool [h, w] or [s, h, w], not empty.
    rule : "paper" as above; "fairmedfm" as that benchmark's code: "center" is the middle of the box, rounded down, and
        may lie outside of the mask; "rands" draws with replacement.

    Returns
    -------
    float64 [k, 2] or [k, 3]: the points; for boxes the smallest and the largest corner; for "text" none.
    """
    if kind == "text":
        return np.zeros((0, inside.ndim))
    places = np.argwhere(inside)  # [n, (z,) y, x]
    low, high = places.min(0), places.max(0)
    if kind in BOXES:
        chosen = np.stack([low, high])
    elif kind == "center":
        middle = places.mean(0)
        nearest = places[np.argmin(((places - middle) ** 2).sum(1))]
        chosen = ((low + high) // 2 if rule == "fairmedfm" else nearest)[None]
    elif kind == "rand":
        chosen = places[random.integers(len(places), size=1)]
    elif rule == "fairmedfm":
        chosen = places[random.integers(len(places), size=RANDS)]
    else:
        order = [random.permutation(len(places)) if len(places) < RANDS else None]
        if order[0] is None:
            rows = random.choice(len(places), RANDS, replace=False)
        else:
            rows = np.resize(order[0], RANDS)
        chosen = places[rows]
    return chosen[:, ::-1].astype(np.float64)


def generator(seed: int, unit: str, slice: int, name: str, kind: str) -> np.random.Generator:
    """One stream a picture, class and kind: the same whatever else is extracted, in any order, for any model.

    Parameters
    ----------
    unit : digest of the picture and its mask, hex.
    """
    words = [seed, int(unit[:16], 16), slice, zlib.crc32(name.encode()), zlib.crc32(kind.encode())]
    return np.random.default_rng(words)
