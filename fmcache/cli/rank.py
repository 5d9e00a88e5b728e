"""``fmcache rank``."""

from __future__ import annotations

from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Debug, Form, open_store
from fmcache.cli.root import app
from fmcache.output import Format, emit, say


@app.command(epilog="Example: fmcache rank --metric auc_es --by sex")
def rank(
    metric: Annotated[
        str, typer.Option(help="auc, or with a disparity: auc_gap, auc_es, ece_gap, eqodds_gap, dsc_skew.")
    ] = "auc",
    by: Annotated[
        str | None, typer.Option(help="One attribute, for disparities. Default: all of them.")
    ] = None,
    definition: Annotated[
        str, typer.Option(help="fmcache, paper, fairmedfm, medfair or harvard.")
    ] = "fmcache",
    usage: Annotated[str | None, typer.Option(help="Only runs of this usage: lp, clip-zs, …")] = None,
    alpha: Annotated[float, typer.Option(min=0.001, max=0.5, help="Of the critical difference.")] = 0.05,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Average ranks of the models over datasets: Friedman's test, Nemenyi's critical difference."""
    from fmcache.analyze.rank import rank_models

    found = rank_models(
        open_store(cache).results(), metric, attribute=by, definition=definition, usage=usage, alpha=alpha
    )
    if found.remark:
        say(f"warning: {found.remark}.")
    p = "undefined" if found.p != found.p else f"{found.p:.3g}"
    cd = "undefined" if found.cd != found.cd else f"{found.cd:.3f} (alpha {alpha:g})"
    many = f"{len(found.models)} models, {len(found.datasets)} datasets"
    say(f"{metric}: {many}, Friedman p {p}, critical difference {cd}.")
    emit(found.table.to_dicts(), form=form)
