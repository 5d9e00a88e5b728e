"""How well the stored masks agree with the ground truth: one row a picture (or volume), class and prompt.

Computed from the cache alone, at the picture's own size; no picture, model or torch is needed. A volume that was
segmented slice by slice is one row: its slices are added up first, so that a slice with three pixels does not count as
much as one with three thousand.

    dice = 2 |A ∩ B| / (|A| + |B|)        iou = |A ∩ B| / |A ∪ B|        (A: predicted, B: true; both in [0, 1])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from fmcache.analyze.masks import upsample
from fmcache.analyze.surface import pooled, slice_distances
from fmcache.analyze.volumes import upsample_volume

if TYPE_CHECKING:
    from fmcache.store.masks import Answer, Masks

COLUMNS = ("sample_id", "patient_id", "split", "class", "prompt", "mask")


def dice_table(
    masks: Masks, threshold: float = 0.0, mask: str = "best", tolerance: float | None = None
) -> pl.DataFrame:
    """Dice and IoU of every sample, class and prompt.

    Parameters
    ----------
    threshold : a pixel is inside where its logit, at the picture's size, is above this. FairMedFM thresholds logits at
        0.5, the official codes at 0.
    mask : "best" (largest predicted IoU), "oracle" (largest true Dice: what a person would choose), or "all" (one row
        for each). The last two need an entry made with ``--multimask all``, where there is more than one mask.
    tolerance : adds hd95 and nsd at this tolerance (see `surface`), in mm where `pixel_side` knows them, and else in
        pixels; the column says which: ``hd95_mm`` or ``hd95_px``. The distances of a volume that was segmented slice
        by slice are those within its slices, put together.

    Returns
    -------
    sample_id, patient_id, split, class, prompt, mask (number of the mask; the best of the first slice of a volume),
    dice, iou, predicted_iou (mean over slices), true_pixels, predicted_pixels, slices, then ``attribute.*``.
    """
    sums: dict[tuple[Any, ...], list[float]] = {}
    first: dict[tuple[Any, ...], int] = {}
    apart: dict[tuple[Any, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    samples, side = masks.samples, pixel_side(masks)
    ids = samples["sample_id"].to_list()
    for answer in masks:
        for number, logits in _chosen(answer, mask):
            inside = upsampled(masks, logits, answer.truth) > threshold
            both = int(np.count_nonzero(inside & answer.truth))
            key = (ids[answer.sample], answer.name, answer.prompt, number if mask != "best" else -1)
            first.setdefault(key, number)
            if tolerance is not None:
                apart.setdefault(key, []).append(slice_distances(inside, answer.truth, side or 1.0))
            found = sums.setdefault(key, [0, 0, 0, 0.0, 0])
            figures = (both, np.count_nonzero(inside), np.count_nonzero(answer.truth), answer.iou[number], 1)
            for place, value in enumerate(figures):
                found[place] += float(value)
    rows = [
        (sample, name, prompt, first[key], *_scores(found), *_surface(apart.get(key), tolerance))
        for key, found in sums.items()
        for sample, name, prompt, _ in [key]
    ]
    names = ("sample_id", "class", "prompt", "mask")
    figures_of: tuple[str, ...] = (
        "dice",
        "iou",
        "predicted_iou",
        "true_pixels",
        "predicted_pixels",
        "slices",
    )
    schema = {
        **dict.fromkeys(names[:3], pl.String),
        "mask": pl.Int32,
        **dict.fromkeys(figures_of[:3], pl.Float64),
        **dict.fromkeys(figures_of[3:], pl.Int64),
    }
    if tolerance is not None:
        surfaces = ("hd95_px" if side is None else "hd95_mm", "nsd")
        figures_of += surfaces
        schema |= dict.fromkeys(surfaces, pl.Float64)
    table = pl.DataFrame(rows, schema=schema, orient="row")
    if mask == "oracle":
        table = table.sort("dice", descending=True, maintain_order=True).unique(
            list(names[:3]), keep="first", maintain_order=True
        )
    attributes = [name for name in samples.columns if name.startswith("attribute.")]
    known = samples.select("sample_id", "patient_id", "split", *attributes).unique(
        "sample_id", maintain_order=True
    )
    joined = table.join(known, on="sample_id", how="left", maintain_order="left")
    return joined.sort("sample_id", "class", "prompt", "mask").select(*COLUMNS, *figures_of, *attributes)


def pixel_side(masks: Masks) -> float | None:
    """The side of a pixel in mm, where all are known to have the same; None = they are not known.

    Known are those of slices of NIfTI and MHA volumes which the dataset's reader turned into cubes of `spacing` mm.
    """
    spacing = masks.entry.document["reader"].get("spacing")
    flat = (
        len(masks.frame.get("size", ())) != 3
    )  # a model of whole volumes may have seen every other slice only
    paths = masks.samples["path"].str.to_lowercase()
    sized = paths.str.contains(r"\.(nii|nii\.gz|mha)$").all()
    return float(spacing) if spacing is not None and flat and sized else None


def wide_table(table: pl.DataFrame) -> pl.DataFrame:
    """One row a sample, as ``fmcache audit --value`` wants it: the mean over the classes that the sample has.

    Returns
    -------
    sample_id, patient_id, split, ``dsc_<prompt>`` and ``iou_<prompt>`` for every prompt, then the attributes without
    their prefix. Source: FairMedFM, appendix D.2 (classes one by one, then averaged).
    """
    attributes = [name for name in table.columns if name.startswith("attribute.")]
    keys = ["sample_id", "patient_id", "split", *attributes]
    values = [
        name for name in ("dsc", "iou", "hd95_px", "hd95_mm", "nsd") if name == "dsc" or name in table.columns
    ]
    means = (
        table.rename({"dice": "dsc"})
        .group_by(*keys, "prompt", maintain_order=True)
        .agg(pl.col(name).mean() for name in values)
    )
    wide = means.pivot("prompt", index=keys, values=values)
    figures = [name for name in wide.columns if name not in keys]
    named = [pl.col(name).alias(name.removeprefix("attribute.")) for name in attributes]
    return wide.select(*keys[:3], *figures, *named)


def upsampled(masks: Masks, logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Stored logits at the size of the picture or volume whose ground truth is `truth`."""
    if truth.ndim == 3:
        return upsample_volume(logits, masks.frame, truth)
    return upsample(logits, masks.frame, (truth.shape[0], truth.shape[1]), masks.form)


def _chosen(answer: Answer, mask: str) -> list[tuple[int, np.ndarray]]:
    """(number, logits) of the masks that are wanted."""
    if len(answer.logits) == 1:
        return [(answer.chosen, answer.logits[0])]
    if mask == "best":
        return [(answer.chosen, answer.logits[answer.chosen])]
    return list(enumerate(answer.logits))


def _surface(apart: list[tuple[np.ndarray, np.ndarray]] | None, tolerance: float | None) -> tuple[float, ...]:
    return () if apart is None or tolerance is None else pooled(apart, tolerance)


def _scores(found: list[float]) -> tuple[float | int, ...]:
    both, predicted, true, iou, slices = found
    union = predicted + true - both
    # a class without a true pixel has no row, so neither denominator is 0
    return (2 * both / (predicted + true), both / union, iou / slices, int(true), int(predicted), int(slices))
