"""The command tree. A command's body is imported when it runs, so that ``fmcache --help`` stays instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from fmcache.errors import FmcacheError, UsageError
from fmcache.output import Bar, Format, emit, say

if TYPE_CHECKING:
    from fmcache.settings import Settings
    from fmcache.store.cache import Cache

_ORDER = ["demo", "extract", "probe", "metrics", "report", "sql", "audit", "models", "datasets", "phantom", "cache"]


class _InOrder(typer.core.TyperGroup):
    """Commands in the order in which a study needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


app = typer.Typer(
    name="fmcache",
    help="How fair are medical-imaging foundation models? Run each model once; answer the rest from the cache.",
    cls=_InOrder,
    epilog="Example: fmcache demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache_app = typer.Typer(
    help="Look after the cache.", no_args_is_help=True, epilog="Example: fmcache cache ls"
)
app.add_typer(cache_app, name="cache")

_state = {"debug": False}


def _debug(value: bool) -> None:
    if value:
        _state["debug"] = True


CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="The cache directory.", envvar="FMCACHE_CACHE", show_default="./fmcache-cache"
    ),
]
Form = Annotated[
    Format, typer.Option("--format", help="How rows are printed; auto: table on a terminal, else JSON.")
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_debug, is_eager=True)
]
Models = Annotated[list[str] | None, typer.Option("--model", "-m", help="A model; repeat for several.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", "-d", help="A dataset; repeat for several.")]


def _settings() -> Settings:
    from fmcache.settings import load_settings

    return load_settings()


def _cache_path(flag: Path | None) -> Path:
    from fmcache.settings import cache_path

    return cache_path(flag, _settings())


def _open(flag: Path | None, *, create: bool = False) -> Cache:
    from fmcache.store.cache import open_cache

    return open_cache(_cache_path(flag), create=create)


def _version(value: bool) -> None:
    if value:
        from fmcache import __version__

        typer.echo(f"fmcache {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    pass


# ------------------------------------------------------------------------------------------------------------- demo


@app.command(epilog="Example: fmcache demo --out my-demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where the study, the cache and the report go.")] = Path(
        "fmcache-demo"
    ),
    debug: Debug = False,
) -> None:
    """The whole path on real weights and real labels: two audits and one report in about two minutes."""
    from fmcache.demo import run_demo

    with Bar() as bar:
        outcome = run_demo(out, bar)
    for sentence in outcome.sentences:
        typer.echo(sentence)
    typer.echo(f"\nReport: {outcome.report}")


# ------------------------------------------------------------------------------------------------ models and datasets


@app.command(epilog="Example: fmcache models dinov2")
def models(
    name: Annotated[str | None, typer.Argument(help="One model's card.")] = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """List the model cards, or show one."""
    from fmcache.extract.registry import list_models, resolve_model

    if name is None:
        emit([_model_row(card) for card in list_models()], form=form)
    else:
        emit(_card_rows(resolve_model(name)), form=form)


def _model_row(card: Any) -> dict[str, Any]:
    return {
        "model": card.id,
        "title": card.title,
        "family": card.family,
        "d": card.dim,
        "licence": card.licence,
    }


def _card_rows(card: Any) -> list[dict[str, Any]]:
    from dataclasses import fields

    return [{"field": field.name, "value": getattr(card, field.name)} for field in fields(card)]


@app.command(epilog="Example: fmcache datasets phantom")
def datasets(
    name: Annotated[str | None, typer.Argument(help="One dataset's card (a name or a FILE.toml).")] = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """List the dataset cards, or show one."""
    from fmcache.extract.dataset import list_datasets, show_dataset

    settings = _settings()
    emit(list_datasets(settings) if name is None else show_dataset(name, settings), form=form)


@app.command(epilog="Example: fmcache phantom my-study --visible-female 0.65")
def phantom(
    out: Annotated[Path, typer.Argument(help="A new directory for the study.")],
    patients: Annotated[int, typer.Option(min=10, help="How many patients.")] = 700,
    images: Annotated[int, typer.Option(min=20, help="How many images.")] = 1200,
    visible_male: Annotated[
        float, typer.Option(min=0, max=1, help="Share of visible lesions in men.")
    ] = 0.95,
    visible_female: Annotated[
        float, typer.Option(min=0, max=1, help="Share of visible lesions in women.")
    ] = 0.65,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    debug: Debug = False,
) -> None:
    """Make a radiograph-like study with a known, planted difference between men and women."""
    from fmcache.extract.datasets.phantom import synthesize_phantom

    visible = {"male": visible_male, "female": visible_female}
    typer.echo(synthesize_phantom(out, patients=patients, images=images, visible=visible, seed=seed))


# ---------------------------------------------------------------------------------------------------------- extract


@app.command(epilog="Example: fmcache extract --model dinov2 --dataset mimic --root /data/mimic-cxr-jpg")
def extract(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="A card, timm/NAME, open_clip/NAME[@TAG], hf/ORG/NAME; repeat for several in one pass.",
        ),
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="FILE.csv, FILE.toml or the name of a card.")
    ],
    root: Annotated[Path | None, typer.Option(help="The dataset as its owner ships it.")] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="Weights on disk: FILE or DIR, or MODEL=FILE with several models."),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Which embedding: cls, mean, …; the card's default.")
    ] = None,
    preprocess: Annotated[str, typer.Option(help="native (the model's own) or fairmedfm.")] = "native",
    decode: Annotated[
        str, typer.Option(help="exact, or scaled (faster JPEG, recorded in the key).")
    ] = "exact",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    autocast: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Stored dtype: float16 or float32.")] = "float16",
    executor: Annotated[str, typer.Option(help="process (decode workers) or serial.")] = "process",
    workers: Annotated[int | None, typer.Option(min=1, help="Decode workers; the number of cores.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a batch; chosen by device.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: only this part of the units (one job of an array).")
    ] = None,
    max_reject: Annotated[
        float, typer.Option(min=0, max=1, help="Stop when more than this share is rejected.")
    ] = 0.01,
    retry_rejected: Annotated[bool, typer.Option(help="Try quarantined inputs again.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done.")] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Run frozen models once over a dataset and store the embeddings. Resumes, appends, quarantines."""
    from fmcache.extract.command import extract_command

    settings = _settings()
    with Bar() as bar:
        summary = extract_command(
            models=model,
            dataset=dataset,
            root=root,
            cache=_cache_path(cache),
            checkpoint=checkpoint or [],
            settings=settings,
            pool=pool,
            preprocess=preprocess,
            decode=decode,
            device=device,
            autocast=autocast,
            dtype=dtype,
            executor=executor,
            workers=workers,
            batch=batch,
            shard=shard,
            max_reject=max_reject,
            retry_rejected=retry_rejected,
            dry_run=dry_run,
            progress=bar,
        )
    for sentence in summary.sentences():
        say(sentence)
    emit(summary.rows(), form=form)
    raise typer.Exit(summary.exit_code)


# ------------------------------------------------------------------------------------------------------------ probe

probe_app = typer.Typer(
    help="Train probes on cached embeddings. Without a usage: lp, for every image entry and label.",
    invoke_without_command=True,
    epilog="Example: fmcache probe lp --model dinov2 --dataset mimic",
)
app.add_typer(probe_app, name="probe")


def _probe_lp(models: list[str] | None, datasets: list[str] | None, labels: list[str] | None, seeds: int,
              slices: str, allow_leakage: bool, cache: Path | None, form: Format) -> None:  # fmt: skip
    from fmcache.probe.run import probe_lp

    store = _open(cache)
    with Bar() as bar:
        run_ids = probe_lp(
            store, models=models, datasets=datasets, labels=labels, seeds=seeds, slices=slices,
            allow_leakage=allow_leakage, progress=bar,
        )  # fmt: skip
    emit([_run_row(store, run_id) for run_id in run_ids], form=form)


def _run_row(store: Cache, run_id: str) -> dict[str, Any]:
    info = store.run(run_id).info
    return {
        "run_id": run_id,
        **{name: info.get(name) for name in ("model", "dataset", "usage", "method")},
        "labels": len(info.get("labels", [])),
    }


@probe_app.callback()
def probe(
    context: typer.Context, cache: CacheDir = None, form: Form = Format.auto, debug: Debug = False
) -> None:
    if context.invoked_subcommand is None:
        _probe_lp(None, None, None, 1, "max", False, cache, form)


@probe_app.command("lp", epilog="Example: fmcache probe lp --model dinov2 --dataset mimic --label no_finding")
def probe_lp_command(
    model: Models = None,
    dataset: Datasets = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="A label; default: all.")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of the validation split where the data has none.")
    ] = 1,
    slices: Annotated[
        str, typer.Option(help="How slices of a volume are pooled: max (paper) or mean.")
    ] = "max",
    allow_leakage: Annotated[bool, typer.Option(help="Accept a patient in two splits (recorded).")] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """L2-regularised logistic regression of every label, the penalty chosen on validation patients."""
    _probe_lp(model, dataset, label, seeds, slices, allow_leakage, cache, form)


# ---------------------------------------------------------------------------------------------------------- analyze

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
            _open(cache), models=model, datasets=dataset, by=_split(by), threshold_policy=threshold, draws=draws,
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


@app.command(
    epilog='Example: fmcache sql "SELECT sex, auc(y, score) AS auc, count(*) AS n FROM predictions GROUP BY sex"'
)
def sql(
    statement: Annotated[
        str | None, typer.Argument(help="One SELECT; - reads it from standard input.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="List tables, columns and macros.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds.")] = 60.0,
    memory: Annotated[str, typer.Option(help="Memory limit.")] = "2GB",
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Read-only DuckDB SQL over samples, predictions, metrics, runs and entries."""
    from fmcache.store.sql import query, tables

    if schema:
        emit(tables(_open(cache)), form=form)
        return
    if statement is None:
        raise UsageError(
            "No SQL was given.", "", 'Type: fmcache sql "SELECT * FROM runs"   or: fmcache sql --schema'
        )
    text = sys.stdin.read() if statement == "-" else statement
    result = query(_open(cache), text, timeout=timeout, memory=memory)
    emit([dict(zip(result.columns, row, strict=True)) for row in result.rows], result.columns, form)


@app.command(epilog="Example: fmcache report --out report.html")
def report(
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    run: Annotated[list[str] | None, typer.Option(help="A run id; default: all runs.")] = None,
    title: Annotated[str | None, typer.Option(help="The title.")] = None,
    min_cell: Annotated[int, typer.Option(min=1, help="Groups below this size are suppressed.")] = 11,
    cache: CacheDir = None,
    debug: Debug = False,
) -> None:
    """One self-contained HTML file of all there is: findings, groups with intervals, figures, provenance."""
    from fmcache.analyze.report.build import build_report

    typer.echo(build_report(_open(cache), out, runs=run, title=title, min_cell=min_cell))


# ------------------------------------------------------------------------------------------------------------ cache


@cache_app.command("ls", epilog="Example: fmcache cache ls --format json")
def cache_ls(cache: CacheDir = None, form: Form = Format.auto, debug: Debug = False) -> None:
    """List the entries."""
    from fmcache.store.maintenance import list_entries

    emit(list_entries(_open(cache)), form=form)


@cache_app.command("show", epilog="Example: fmcache cache show 3f9ab2")
def cache_show(
    key: Annotated[str, typer.Argument(help="The first characters of an entry's key, or MODEL/DATASET.")],
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Everything an entry says of itself: key document, segments, provenance."""
    from fmcache.store.maintenance import show_entry

    emit(show_entry(_open(cache), key), form=form)


@cache_app.command("verify", epilog="Example: fmcache cache verify")
def cache_verify(
    key: Annotated[str | None, typer.Argument(help="One entry; default: everything.")] = None,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Re-hash every byte; name every file that was changed, lost or added."""
    from fmcache.store.maintenance import verify

    with Bar() as bar:
        problems = verify(_open(cache), key, progress=bar)
    emit([problem.row() for problem in problems], ["path", "problem", "do"], form)
    if any(problem.serious for problem in problems):
        raise typer.Exit(5)
    say(
        "Every published byte is as it was written."
        if not problems
        else "Nothing that was published is damaged."
    )


@cache_app.command("gc", epilog="Example: fmcache cache gc --yes")
def cache_gc(
    yes: Annotated[bool, typer.Option("--yes", help="Really delete; without it only a list.")] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """List, or delete, what nothing needs: abandoned staging, superseded dataset versions."""
    from fmcache.store.maintenance import collect_garbage

    emit(collect_garbage(_open(cache), dry_run=not yes), form=form)


@cache_app.command("repair", epilog="Example: fmcache cache repair 3f9ab2")
def cache_repair(
    key: Annotated[str, typer.Argument(help="The first characters of the damaged entry's key.")],
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Move damaged files aside, so that the next extraction makes just their rows again."""
    from fmcache.store.maintenance import repair

    emit(repair(_open(cache), key), form=form)


@cache_app.command("path", epilog="Example: cd $(fmcache cache path)")
def cache_path_command(cache: CacheDir = None, debug: Debug = False) -> None:
    """Print the cache directory."""
    typer.echo(_cache_path(cache).absolute())


# ------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Run the command line; expected failures are three lines and an exit code, never a traceback."""
    try:
        app()
    except FmcacheError as error:
        if _state["debug"]:
            raise
        say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("Interrupted.\nWhat was finished is saved.\nRun the same command again to go on.")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if _state["debug"]:
            raise
        say(
            f"fmcache met an error that it did not expect: {type(error).__name__}.\n"
            f"{str(error).splitlines()[0] if str(error) else 'It says nothing more.'}\n"
            "Run the command again with --debug and report what it prints."
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
