"""The columns of every table in the cache, and the versions of the format; docs/format.md explains them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from fmcache.errors import DatasetError

ATTRIBUTE, LABEL = "attribute.", "label."

SAMPLE_COLUMNS: Mapping[str, pl.DataType] = {
    "sample_id": pl.String(),
    "patient_id": pl.String(),
    "path": pl.String(),
    "split": pl.String(),
    "slices": pl.Int32(),
    "input_digest": pl.String(),
    "input_error": pl.String(),
}
UNIT_COLUMNS: Mapping[str, pl.DataType] = {"input_digest": pl.String(), "slice": pl.Int32()}
ROW_COLUMNS: Mapping[str, pl.DataType] = {
    "sample_id": pl.String(),
    "slice": pl.Int32(),
    "input_digest": pl.String(),
    "segment": pl.Int32(),
    "row": pl.Int64(),
}
QUARANTINE_COLUMNS: Mapping[str, pl.DataType] = {
    "sample_id": pl.String(),
    "slice": pl.Int32(),
    "input_digest": pl.String(),
    "row": pl.Int64(),
    "stage": pl.String(),
    "reason": pl.String(),
}
# of mask entries; `input_digest` is that of the picture and its mask together, `image_digest` that of the picture
MASK_COLUMNS: Mapping[str, pl.DataType] = {
    "input_digest": pl.String(),
    "slice": pl.Int32(),
    "image_digest": pl.String(),
    "class": pl.String(),
    "shape": pl.String(),
    "pixels": pl.Int64(),
    "bits": pl.String(),
}
PROMPT_COLUMNS: Mapping[str, pl.DataType] = {
    "input_digest": pl.String(),
    "slice": pl.Int32(),
    "class": pl.String(),
    "prompt": pl.String(),
    "coordinates": pl.String(),
    "chosen": pl.Int32(),
    **dict.fromkeys(("iou_1", "iou_2", "iou_3"), pl.Float32()),
}
PREDICTION_COLUMNS: Mapping[str, pl.DataType] = {
    "sample_id": pl.String(),
    "patient_id": pl.String(),
    "split": pl.String(),
    "label": pl.String(),
    "seed": pl.Int32(),
    "y": pl.Float32(),
    "score": pl.Float64(),
    "logit": pl.Float64(),
}
# maps of embeddings; the shares of variance are those of a PCA, the divergence that of a t-SNE
COORDINATE_COLUMNS: Mapping[str, pl.DataType] = {
    **dict.fromkeys(("model", "dataset", "key", "projection"), pl.String()),
    **dict.fromkeys(("sample_id", "patient_id", "split"), pl.String()),
    **dict.fromkeys(("x", "y", "x_share", "y_share", "kl_divergence"), pl.Float64()),
    "seed": pl.Int32(),
    "parameters": pl.String(),
}
RESULT_COLUMNS: Mapping[str, pl.DataType] = {
    **dict.fromkeys(("run_id", "model", "dataset", "usage", "method"), pl.String()),
    "seed": pl.Int32(),
    **dict.fromkeys(
        ("split", "label", "attribute", "group", "reference", "metric", "disparity", "definition"),
        pl.String(),
    ),
    **dict.fromkeys(("value", "ci_low", "ci_high", "ci_level"), pl.Float64()),
    **dict.fromkeys(("n", "n_pos", "n_patients"), pl.Int64()),
    "threshold": pl.Float64(),
    "threshold_policy": pl.String(),
    "reason": pl.String(),
}


def conform(
    table: pl.DataFrame, columns: Mapping[str, pl.DataType], what: str, extra: bool = False
) -> pl.DataFrame:
    """`table` with exactly these columns (then any others, if `extra`), cast without loss.

    Raises
    ------
    DatasetError : a column is missing, is not expected, or holds values of another type.
    """
    if missing := [name for name in columns if name not in table.columns]:
        raise DatasetError(
            f"The table of {what} lacks the column {missing[0]}.",
            f"It has {_some(table.columns)}.",
            "docs/format.md lists the columns.",
        )
    others = [name for name in table.columns if name not in columns]
    if others and not extra:
        raise DatasetError(
            f"The table of {what} has the unexpected column {others[0]}.",
            f"It has {_some(table.columns)}.",
            "Take it out, or name it label.… or attribute.… if it is one.",
        )
    try:
        typed = [pl.col(name).cast(dtype, strict=True) for name, dtype in columns.items()]
        return table.select(*typed, *others)
    except pl.exceptions.PolarsError as error:
        raise DatasetError(
            f"A column of the table of {what} has the wrong type.",
            str(error).splitlines()[0],
            "Write the column in its own type; docs/format.md lists them.",
        ) from None


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def empty(columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """A table of these columns without rows."""
    return pl.DataFrame(schema=dict(columns))
