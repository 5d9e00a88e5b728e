"""``fmcache metrics`` and ``fmcache audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Datasets, Debug, Form, Models, open_store
from fmcache.cli.root import app
from fmcache.output import Bar, Format, emit, say

By = Annotated[
    str | None,
    typer.Option(help="Attributes and intersections: sex,age_group,sex*age_group. Default: all attributes."),
]
Policy = Annotated[
    str,
    typer.Option("--threshold", help="0.5, youden, f1, sens@0.90, spec@0.90 (on validation) or a number."),
]
Draws = Annotated[int, typer.Option(min=1, help="Bootstrap replicates over patients.")]
Level = Annotated[float, typer.Option(min=0.5, max=0.999, help="Level of the intervals.")]


def _split(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


@app.command(
    epilog="Example: fmcache metrics --model dinov2 --dataset mimic --by sex,age_group,sex*age_group"
)
def metrics(
    model: Models = None,
    dataset: Datasets = None,
    by: By = None,
    threshold: Policy = "youden",
    draws: Draws = 1000,
    level: Level = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Per-group metrics and disparities of every run, with patient-clustered bootstrap intervals."""
    from fmcache.analyze.run import run_metrics

    with Bar() as bar:
        results = run_metrics(
            open_store(cache), models=model, datasets=dataset, by=_split(by), threshold_policy=threshold, draws=draws,
            level=level, seed=seed, progress=bar,
        )  # fmt: skip
    emit(results.to_dicts(), form=form)


@app.command(epilog="Example: fmcache audit preds.csv --label y --score p --by sex,race --patient pid")
def audit(
    table: Annotated[Path, typer.Argument(help="CSV, Parquet or Arrow: one row a prediction.")],
    label: Annotated[str, typer.Option(help="The column of the truth (0/1).")],
    score: Annotated[str, typer.Option(help="The column of the prediction.")],
    by: Annotated[str, typer.Option(help="Attribute columns and intersections: sex,race,sex*race.")],
    patient: Annotated[
        str | None, typer.Option(help="The column of the patient; intervals are over patients.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The column of the split; thresholds come from val, metrics from test.")
    ] = None,
    threshold: Annotated[
        str, typer.Option(help="0.5, a number, or a policy where there is a val split.")
    ] = "0.5",
    draws: Draws = 1000,
    level: Level = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report.")] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Keep the predictions and results in this cache.")
    ] = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """All metrics and disparities of any model's predictions. No model, no GPU, no cache needed."""
    import tempfile

    from fmcache.analyze.audit import audit as run_audit
    from fmcache.store.cache import open_cache

    with tempfile.TemporaryDirectory() as scratch:
        keep = open_cache(cache or Path(scratch) / "cache", create=True)
        outcome = run_audit(
            table, label=label, score=score, by=_split(by) or [], patient=patient, split=split, threshold=threshold,
            draws=draws, level=level, seed=seed, cache=keep,
        )  # fmt: skip
        for finding in outcome.findings:
            say(f"{finding.severity}: {finding.text}")
        if report is not None:
            from fmcache.analyze.report.build import build_report

            say(f"Report: {build_report(keep, report)}")
    emit(outcome.results.to_dicts(), form=form)
