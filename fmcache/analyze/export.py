"""``fmcache export``: the results for other tools and other people, small cells suppressed as in the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.analyze.export_card import model_index
from fmcache.analyze.export_record import audit_record, plain
from fmcache.analyze.export_results import protected
from fmcache.analyze.export_tables import paper_tables
from fmcache.analyze.report.build import write_text
from fmcache.analyze.report.chosen import choose_runs
from fmcache.errors import UsageError
from fmcache.store.sql_export import write_result

# what → its kinds of file
KINDS: dict[str, tuple[str, ...]] = {
    "results": (".csv", ".parquet", ".json"),
    "table": (".md", ".tex"),
    "model-index": (".yaml", ".yml", ".md"),
    "record": (".json",),
}


def export(
    cache: Any,
    what: str = "results",
    out: Path | None = None,
    *,
    runs: Sequence[str] | None = None,
    min_cell: int = 11,
    intervals: bool = False,
) -> str | Path:
    """Write `out`, or return the text if there is none (of ``results`` as JSON).

    Parameters
    ----------
    what : ``results`` (tidy rows), ``table`` (as in a paper), ``model-index`` (of a model card), ``record`` (everything
        the report says, with a JSON schema). out : its ending chooses the kind, see `KINDS`.
    runs : ids or their first characters; default: all that have results. min_cell : see `protected`.
    intervals : print them in a ``table`` too.

    Raises
    ------
    UsageError : an ending that `what` has no form for. MissingEntry : no such run, or no results.
    """
    kinds = KINDS[what]
    kind = out.suffix.lower() if out else kinds[0]
    if out is not None and kind not in kinds:
        raise UsageError(
            f"{what} cannot be written as {out.name}.",
            f"It is written as {', '.join(kinds)}.",
            f"Type: fmcache export {what} --out {out.stem or what}{kinds[0]}",
        )
    if what == "results":
        table = tidy(cache, runs, min_cell)
        if out is not None and kind != ".json":
            write_result(table.to_arrow(), out)
            return out
        text = _json([plain(row) for row in table.to_dicts()])
        return _done(text, out)
    chosen = choose_runs(cache, runs, min_cell)
    if what == "table":
        text = paper_tables(chosen.views, "latex" if kind == ".tex" else "markdown", intervals)
    elif what == "model-index":
        text = model_index(chosen.views)
    else:
        text = _json(plain(audit_record(cache, chosen.views, chosen.warnings, min_cell)))
    return _done(text, out)


def tidy(cache: Any, runs: Sequence[str] | None = None, min_cell: int = 11) -> pl.DataFrame:
    """The results of the runs, small cells suppressed; see `protected`."""
    chosen = choose_runs(cache, runs, min_cell)
    mine = cache.results().filter(pl.col("run_id").is_in([view.run_id for view in chosen.views]))
    return protected(mine, min_cell)


def _done(text: str, out: Path | None) -> str | Path:
    if out is None:
        return text
    write_text(out, text)
    return out


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
