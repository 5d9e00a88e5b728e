"""``fmcache metrics`` and ``fmcache audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmcache.cli.options import CacheDir, Datasets, Debug, Form, Models, open_store
from fmcache.cli.root import app
from fmcache.output import Bar, Format, emit, say

if TYPE_CHECKING:
    import polars as pl

By = Annotated[
    str | None,
    typer.Option(help="Attributes and intersections: sex,age_group,sex*age_group. Default: all attributes."),
]
Policy = Annotated[
    str,
    typer.Option(
        "--threshold",
        help="0.5, youden, f1, sens@0.90, spec@0.90 (on validation), a number, or test-… (on the measured rows).",
    ),
]
PerGroup = Annotated[
    bool, typer.Option("--threshold-per-group", help="A threshold for every group: a mitigation, named so.")
]
Definition = Annotated[str, typer.Option(help="Whose formulas: fmcache,paper,fairmedfm,medfair,harvard.")]
Bins = Annotated[
    list[str] | None,
    typer.Option(
        "--bins", help="Cut a number: age=40:60, or age=young:40:middle:60:old. Repeat for several."
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(help="The group that others are compared with: sex=male,race=white. Default: the largest."),
]
Tolerance = Annotated[
    float | None, typer.Option(min=0.0, help="Test whether differences and gaps are shown to be below this.")
]
Family = Annotated[
    str, typer.Option(help="Metrics whose differences are corrected for their number (Holm, BH): auc,tpr.")
]
Engine = Annotated[
    str, typer.Option(help="exact: areas recomputed in every replicate; fast: to first order (DeLong).")
]
Draws = Annotated[int, typer.Option(min=1, help="Bootstrap replicates over patients.")]
Level = Annotated[float, typer.Option(min=0.5, max=0.999, help="Level of the intervals.")]
Seed = Annotated[int, typer.Option(help="Seed of the resamples.")]
Floor = Annotated[
    int, typer.Option("--min-group", min=1, help="Fewest positives, negatives or samples of a number.")
]
MetricNames = Annotated[
    str | None,
    typer.Option("--metric", help="Print these metrics only: auc,tpr,eqodds. A table prints a few."),
]
Curves = Annotated[
    Path | None,
    typer.Option(help="Also write ROC, PR, calibration and decision curves: FILE.parquet or .csv."),
]
Where = Annotated[
    str | None,
    typer.Option(
        help="Measure these samples only, by a condition in SQL on the table samples: \"view = 'PA'\". Not stored."
    ),
]
ON_A_TERMINAL = (
    "finding",
    "auc",
    "tpr",
    "fpr",
    "ece",
    "eqodds",
    "dp",
    "accuracy",
    "dsc",
    "iou",
    "hd95",
    "nsd",
)
RUN = ("model", "dataset", "usage", "method", "seed")  # shown where rows differ in them
WIDE = (
    "label",
    "attribute",
    "group",
    "reference",
    "metric",
    "disparity",
    "value",
    "interval",
    "n",
    "n_patients",
    "reason",
)


def _split(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def _setting(
    definition: str, per_group: bool, bins: list[str] | None, reference: str | None, tolerance: float | None,
    family: str, engine: str, draws: int, level: float, seed: int, floor: int,
) -> dict[str, Any]:  # fmt: skip
    """The options of `cases.Setting`, and definition."""
    from fmcache.analyze.references import parse_references
    from fmcache.errors import UsageError
    from fmcache.store.groups import parse_bins

    if engine not in ("exact", "fast"):
        raise UsageError(f"There is no engine {engine!r}.", "Engines: exact, fast.", "Type: --engine exact")
    return {
        "definition": _split(definition) or ["fmcache"],
        "per_group": per_group,
        "bins": dict(parse_bins(one) for one in bins or []),
        "reference": parse_references(_split(reference) or []),
        "tolerance": tolerance,
        "family": tuple(_split(family) or []),
        "exact": engine == "exact",
        "draws": draws,
        "level": level,
        "seed": seed,
        "floor": floor,
    }


def show(results: pl.DataFrame, form: Format, metrics: str | None) -> None:
    """Print results: all columns and metrics as JSON or CSV, the main ones as a table."""
    import sys

    import polars as pl

    wanted = _split(metrics)
    table = form is Format.table or (form is Format.auto and sys.stdout.isatty())
    if wanted:
        _known_metrics(wanted, results)
    elif table:
        wanted = list(ON_A_TERMINAL)
    rows = results.filter(pl.col("metric").is_in([*wanted, "finding"])) if wanted else results
    if not table:
        emit(rows.to_dicts(), form=form)
        return
    if not _split(metrics):
        rows = rows.filter(
            pl.col("disparity").is_in(
                ["", "difference", "difference_p", "gap", "gap_null", "gap_p", "parity"]
            )
        )
    rows = rows.filter(pl.col("metric") != "finding")
    columns = [name for name in RUN if name in rows.columns and rows[name].n_unique() > 1] + list(WIDE)
    short = [
        {
            **{name: row.get(name) for name in columns},
            "interval": "" if row["ci_low"] is None or row["ci_low"] != row["ci_low"]
            else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
        }
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    emit(short, columns, Format.table)
    say("This is a selection; --metric NAME,… prints others, --format json all.")


def _known_metrics(wanted: list[str], results: pl.DataFrame) -> None:
    import difflib

    from fmcache.errors import UsageError

    there = results["metric"].unique().sort().to_list()
    for name in wanted:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            raise UsageError(
                f"There is no metric {name!r} in the results.",
                f"Metrics: {', '.join(one for one in there if one != 'finding')}.",
                f"Did you mean {close[0]}?" if close else "",
            )


@app.command(
    epilog="Example: fmcache metrics --model dinov2 --dataset mimic --by sex,age_group,sex*age_group"
)
def metrics(
    model: Models = None,
    dataset: Datasets = None,
    by: By = None,
    definition: Definition = "fmcache",
    threshold: Policy = "youden",
    per_group: PerGroup = False,
    bins: Bins = None,
    reference: Reference = None,
    tolerance: Tolerance = None,
    family: Family = "auc",
    versus: Annotated[
        str | None, typer.Option(help="Print the paired differences of every other model to this one.")
    ] = None,
    engine: Engine = "exact",
    draws: Draws = 1000,
    level: Level = 0.95,
    seed: Seed = 0,
    floor: Floor = 10,
    metric: MetricNames = None,
    curves: Curves = None,
    where: Where = None,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Per-group metrics and disparities of every run, with patient-clustered bootstrap intervals."""
    from fmcache.analyze.run import run_metrics
    from fmcache.errors import UsageError

    setting = _setting(
        definition, per_group, bins, reference, tolerance, family, engine, draws, level, seed, floor
    )
    store = open_store(cache)
    with Bar() as bar:
        if versus is not None:
            if where is not None:
                raise UsageError(
                    "--where goes without --versus.",
                    "Two models are compared on all samples that both have measured.",
                    "Leave one of them out.",
                )
            from fmcache.analyze.versus import run_versus

            results = run_versus(
                store, versus, models=model, datasets=dataset, by=_split(by), threshold_policy=threshold, progress=bar,
                **setting,
            )  # fmt: skip
        else:
            results = run_metrics(
                store, models=model, datasets=dataset, by=_split(by), threshold_policy=threshold, curves=curves,
                where=where, progress=bar, **setting,
            )  # fmt: skip
    show(results, form, metric)


@app.command(epilog="Example: fmcache audit preds.csv --label y --score p --by sex,race --patient pid")
def audit(
    table: Annotated[Path, typer.Argument(help="CSV, Parquet or Arrow: one row a sample.")],
    label: Annotated[
        str | None,
        typer.Option(
            help="The column of the truth (0/1), several, or one of class names; with --value, of structures."
        ),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="The column of the prediction; one a label, or one a class.")
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(help="Instead of label and score: columns of numbers a sample, such as dsc,iou."),
    ] = None,
    by: Annotated[str, typer.Option(help="Attribute columns and intersections: sex,race,sex*race.")] = "",
    patient: Annotated[
        str | None, typer.Option(help="The column of the patient; intervals are over patients.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The column of the split; thresholds come from val, metrics from test.")
    ] = None,
    definition: Definition = "fmcache",
    threshold: Policy = "0.5",
    per_group: PerGroup = False,
    bins: Bins = None,
    reference: Reference = None,
    tolerance: Tolerance = None,
    family: Family = "auc",
    engine: Engine = "exact",
    draws: Draws = 1000,
    level: Level = 0.95,
    seed: Seed = 0,
    floor: Floor = 10,
    metric: MetricNames = None,
    curves: Curves = None,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report.")] = None,
    min_cell: Annotated[
        int, typer.Option(min=1, help="Groups below this are suppressed in the report.")
    ] = 11,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Keep the predictions and results in this cache.")
    ] = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """All metrics and disparities of any model's predictions. No model, no GPU, no cache needed."""
    import tempfile

    from fmcache.errors import UsageError
    from fmcache.store.cache import open_cache

    setting = _setting(
        definition, per_group, bins, reference, tolerance, family, engine, draws, level, seed, floor
    )
    if value is not None:
        if score or curves or cache:
            raise UsageError(
                "--value measures numbers that are there already.",
                "It goes without --score, --curves, --cache: there are no predictions to keep or to draw.",
                "Leave those out, or leave --value out.",
            )
        from fmcache.analyze.values import audit_values

        with tempfile.TemporaryDirectory() as scratch:
            keep = open_cache(Path(scratch) / "cache", create=True) if report else None
            results = audit_values(
                table, _split(value) or [], _split(by) or [], patient=patient, split=split, label=label, cache=keep,
                info={"dataset": table.name.split(".")[0]}, **setting,
            )  # fmt: skip
            _tell(results)
            if report is not None and keep is not None:
                from fmcache.analyze.report.build import build_report

                say(f"Report: {build_report(keep, report, min_cell=min_cell)}")
        show(results, form, metric)
        return
    if not label or not score:
        raise UsageError(
            "An audit needs a label and a score.",
            f"--label {label or 'is missing'}, --score {score or 'is missing'}.",
            f"Type: fmcache audit {table} --label y --score p --by sex   (or --value dsc for numbers a sample)",
        )
    from fmcache.analyze.audit import audit_table

    labels, scores = _split(label) or [], _split(score) or []
    with tempfile.TemporaryDirectory() as scratch:
        keep = open_cache(cache or Path(scratch) / "cache", create=True)
        outcome = audit_table(
            table, label=labels, score=scores, by=_split(by) or [], patient=patient, split=split, threshold=threshold,
            cache=keep if cache or report else None, curves=curves, **setting,
        )  # fmt: skip
        _tell(outcome.results)
        if report is not None:
            from fmcache.analyze.report.build import build_report

            say(f"Report: {build_report(keep, report, min_cell=min_cell)}")
    show(outcome.results, form, metric)


def _tell(results: pl.DataFrame) -> None:
    for sentence in results.filter(metric="finding")["reason"]:
        say(sentence)
