"""Rows of the results: numbers are noted with their replicates, and all intervals are taken at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmcache.analyze.areas import Floats
from fmcache.analyze.intervals import percentiles, remark
from fmcache.analyze.metrics import DEFINITION

NAN = float("nan")


@dataclass
class Rows:
    """The rows of one case. `add` a number with its replicates, `plain` one that has none or has its own interval."""

    level: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    _replicates: list[Floats] = field(default_factory=list)
    _which: list[int] = field(default_factory=list)

    def add(self, where: dict[str, Any], value: float, replicates: Floats, reason: str = "") -> None:
        """A number and its replicates [b]; the interval is that of the percentiles, and NaN if the number is."""
        self.plain(where, value, (NAN, NAN), reason)
        if not math.isnan(value):
            self._which.append(len(self.rows) - 1)
            self._replicates.append(replicates)

    def plain(
        self,
        where: dict[str, Any],
        value: float,
        interval: tuple[float, float] | None = None,
        reason: str = "",
    ) -> None:
        """A number with this interval, or with none (null)."""
        low, high = interval if interval is not None else (None, None)
        self.rows.append(
            {
                **where,
                "value": value,
                "ci_low": low,
                "ci_high": high,
                "ci_level": self.level if interval is not None else None,
                "reason": reason,
            }
        )

    def finish(self) -> list[dict[str, Any]]:
        """All rows, in the order in which they were noted."""
        if self._replicates:
            replicates = np.stack(self._replicates)
            low, high, undefined = percentiles(replicates, self.level)
            for k, i in enumerate(self._which):
                row = self.rows[i]
                row["ci_low"], row["ci_high"] = float(low[k]), float(high[k])
                if undefined[k]:
                    said = remark(int(undefined[k]), replicates.shape[1])
                    row["reason"] = "; ".join(part for part in (row["reason"], said) if part)
        self._replicates, self._which = [], []
        return self.rows


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By label and seed: groups, then differences, then the spreads over groups; each in the order it was noted."""
    attributes = list(dict.fromkeys(row["attribute"] for row in rows))
    place = {attribute: k for k, attribute in enumerate(attributes)}

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        kind = 0 if row["group"] and not row["reference"] else 1 if row["reference"] else 2
        return row["label"], row["seed"], kind > 0, place[row["attribute"]] if kind else 0, kind

    return sorted(({"reference": "", "definition": DEFINITION, **row} for row in rows), key=key)
