"""``fmcache metrics --where``: a condition in SQL on the table of samples says which samples are measured."""

from __future__ import annotations

import polars as pl

from fmcache.errors import UsageError
from fmcache.store.cache import Cache
from fmcache.store.runs import Run
from fmcache.store.sql import query_arrow

MEASURED = "test"


class Where:
    """The samples of a cache that fulfil a condition, such as ``view = 'PA' AND age >= 18``.

    The condition stands over the columns of ``fmcache sql``'s table `samples`, and is run in that room without doors.

    Raises
    ------
    UsageError : no condition, an unknown column.
    """

    def __init__(self, cache: Cache, condition: str) -> None:
        self.condition = " ".join(condition.split())
        if not self.condition:
            raise UsageError("--where holds no condition.", "", "Type: --where \"view = 'PA'\"")
        # the line break ends a comment of the condition; the brackets keep an OR within it
        text = f"SELECT DISTINCT dataset, sample_id FROM samples WHERE (\n{condition}\n)"
        self._found = pl.DataFrame(query_arrow(cache, text)).cast(pl.String)

    def rows(self, run: Run, predictions: pl.DataFrame) -> pl.DataFrame:
        """The predictions without measured rows that do not fulfil it; training and validation rows all stay.

        So thresholds are those of the whole run, as they are for a group of ``--by``.
        """
        mine = self._found.filter(pl.col("dataset") == str(run.info.get("dataset")))["sample_id"]
        return predictions.filter(
            (pl.col("split") != MEASURED).fill_null(True) | pl.col("sample_id").is_in(mine.implode())
        )

    def nothing(self) -> UsageError:
        """The error where it leaves no measured sample of any run."""
        count = f"SELECT dataset, split, count(*) FROM samples WHERE {self.condition} GROUP BY ALL"
        return UsageError(
            f"No measured sample fulfils: {self.condition}.",
            f"Of all samples in the cache {self._found.height:,} do; measured are those of the split test.",
            f'Look with: fmcache sql "{count}"',
        )
