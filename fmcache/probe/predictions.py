"""The table of predictions: one row a sample, label and seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from fmcache.probe.problem import Column
from fmcache.shapes import Float
from fmcache.store.schema import ATTRIBUTE, PREDICTION_COLUMNS, empty


def predictions_of(
    table: pl.DataFrame,
    splits: Sequence[np.ndarray],
    columns: Sequence[Column],
    y: Float[np.ndarray, "k c"],
    logits: Float[np.ndarray, "k c"],
    method: str,
) -> pl.DataFrame:
    """PREDICTION_COLUMNS, method and the attributes; seeds, in them labels, in them samples in the order of `table`.

    Samples that the dataset's split column leaves out are not scored.
    """
    attributes = [name for name in table.columns if name.startswith(ATTRIBUTE)]
    head = table.select("sample_id", pl.coalesce("patient_id", "sample_id").alias("patient_id"), *attributes)
    parts = []
    for at, column in enumerate(columns):
        split = splits[column.seed]
        kept = np.flatnonzero(split != "")
        z = logits[kept, at]
        parts.append(
            head[kept].select(
                "sample_id",
                "patient_id",
                pl.Series("split", split[kept].tolist(), dtype=pl.String),
                pl.lit(column.label).alias("label"),
                pl.lit(method).alias("method"),
                pl.lit(column.seed, dtype=pl.Int32).alias("seed"),
                pl.Series("y", y[kept, at].astype(np.float32)),
                pl.Series("score", sigmoid(z)),
                pl.Series("logit", z),
                *attributes,
            )
        )
    return pl.concat(parts)


def nothing(method: str) -> pl.DataFrame:
    """The same table without rows, for runs that keep no scores."""
    return empty(PREDICTION_COLUMNS).with_columns(pl.lit(method).alias("method"))


def sigmoid(z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 / (1 + exp(-z)) without overflow."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, small) / (1 + small)
