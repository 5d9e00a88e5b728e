"""``fmcache probe``: one command a usage."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmcache.cli.options import CacheDir, Datasets, Debug, Form, Models, open_store
from fmcache.cli.probe_options import (
    Attribute,
    Balance,
    DryRun,
    EvalOn,
    Fraction,
    Fuse,
    Grid,
    Labels,
    Leakage,
    Memory,
    Method,
    Pca,
    Precision,
    Prior,
    Prompts,
    Protocol,
    Save,
    Seeds,
    Select,
    Standardize,
    Template,
    TrainOn,
    Uncertain,
    Volume,
    Weight,
)
from fmcache.cli.root import app
from fmcache.errors import UsageError
from fmcache.output import Bar, Format, emit

if TYPE_CHECKING:
    from fmcache.probe.options import Options
    from fmcache.store.cache import Cache


probe_app = typer.Typer(
    help="Train probes on cached embeddings. Without a usage: lp, for every image entry and label.",
    invoke_without_command=True,
    epilog="Example: fmcache probe lp --model dinov2 --dataset mimic",
)
app.add_typer(probe_app, name="probe")


def _numbers(text: str, flag: str) -> tuple[float, ...]:
    """Of ``0.1,1``; `flag` is what stands right before it (``--fraction ``), for the error."""
    try:
        numbers = tuple(float(part) for part in text.split(",") if part.strip())
        if numbers and all(map(isfinite, numbers)):
            return numbers
    except ValueError:
        pass
    raise UsageError(
        f"{flag}{text} is not a list of numbers.",
        "Finite numbers, separated by commas, are needed.",
        f"Type: {flag}0.1,1",
    )


def _grid(given: list[str] | None) -> dict[str, tuple[float, ...]]:
    grid: dict[str, tuple[float, ...]] = {}
    for text in given or ():
        name, equals, values = text.partition("=")
        if not equals:
            raise UsageError(f"--grid {text} names no values.", "", "Type: --grid coefficient=0,0.1,1")
        if name in grid:
            raise UsageError(
                f"--grid {name}=… is given twice.",
                "One list holds all values of a hyper-parameter.",
                f"Type: --grid {name}={','.join(f'{value:g}' for value in grid[name])},{values}",
            )
        grid[name] = _numbers(values, f"--grid {name}=")
    return grid


def _one_attribute(given: list[str] | None) -> str:
    """The one that is named, "" for none."""
    names = list(dict.fromkeys(name.strip() for name in given or () if name.strip()))
    if len(names) > 1:
        raise UsageError(
            f"--attribute is given {len(names)} times: {', '.join(names)}.",
            "The groups of a run are those of one attribute, or of one intersection.",
            f"Type: --attribute '{'*'.join(names)}'   or run the command once for each",
        )
    return names[0] if names else ""


_LISTS = {"model": "models", "dataset": "datasets", "label": "labels", "method": "methods"}


def _options(usage: str, given: dict[str, Any]) -> Options:
    """From a command's arguments, which are named as the fields of `Options` or as one of what a field lists."""
    from fmcache.probe.options import Options

    fields: dict[str, Any] = {
        name: value
        for name, value in given.items()
        if name not in (*_LISTS, "attribute", "fraction", "fuse", "grid", "dry_run", "cache", "form", "debug")
    }
    fields |= {_LISTS[name]: tuple(given[name]) for name in _LISTS if given.get(name)}
    if "fraction" in given:
        fields["fractions"] = _numbers(given["fraction"], "--fraction ")
    if "attribute" in given:
        fields["attribute"] = _one_attribute(given["attribute"])
    if "fuse" in given:
        fields["fuse"] = tuple(part.strip() for part in given["fuse"].split(",") if part.strip())
    return Options(usage=usage, grid=_grid(given.get("grid")), **fields)


def _run(options: Options, cache: Path | None, form: Format, dry_run: bool = False) -> None:
    from fmcache.probe.programs import keep_programs
    from fmcache.probe.run import describe_plan, probe

    store = open_store(cache)
    with Bar() as bar:
        if dry_run:
            rows = describe_plan(store, options, bar)
        else:
            keep_programs()
            run_ids = probe(store, options, bar)
            if options.usage == "attribute":
                rows = [row for run_id in run_ids for row in _readable(store, run_id)]
            else:
                rows = [_row(store, run_id, options.attribute) for run_id in run_ids]
    emit(rows, form=form)


def _readable(store: Cache, run_id: str) -> list[dict[str, Any]]:
    """A row a group: what the probe reads, and what it reads where there is nothing to read."""
    info = store.run(run_id).info
    head = {"run_id": run_id, **{name: info.get(name) for name in ("model", "dataset")}}
    names = ("label", "seed", "test_auc", "null_mean", "null_high", "p_value", "draws")
    return [{**head, **{name: row.get(name) for name in names}} for row in info.get("baseline", [])]


def _row(store: Cache, run_id: str, attribute: str) -> dict[str, Any]:
    """One line a run: what it is, and the mean AUC over labels and seeds, of everybody and of the worst group."""
    from fmcache.probe.run import worst_groups

    info = store.run(run_id).info
    summary = info.get("summary", [])

    def mean(name: str) -> float | None:
        known = [row[name] for row in summary if row.get(name) is not None]
        return sum(known) / len(known) if known else None

    return {
        "run_id": run_id,
        **{name: info.get(name) for name in ("model", "dataset", "usage", "method")},
        "labels": len(info.get("labels", [])),
        "seeds": len(info.get("seeds", [])),
        "val_auc": mean("val_auc"),
        "test_auc": mean("test_auc"),
        **({"test_worst_auc": worst_groups(store, run_id, attribute)} if attribute else {}),
    }


@probe_app.callback()
def probe(
    context: typer.Context, cache: CacheDir = None, form: Form = Format.auto, debug: Debug = False
) -> None:
    if context.invoked_subcommand is None:
        from fmcache.probe.options import Options

        _run(Options(), cache, form)


@probe_app.command(
    "lp",
    epilog="Example: fmcache probe lp --model dinov2 --method erm --method group-dro --attribute sex --seeds 5",
)
def lp(
    model: Models = None,
    dataset: Datasets = None,
    label: Labels = None,
    method: Method = None,
    attribute: Attribute = None,
    seeds: Seeds = 1,
    protocol: Protocol = "convex",
    solver: Annotated[
        str, typer.Option(help="Of convex: lbfgs (logistic) or ridge (fast screening).")
    ] = "lbfgs",
    volume: Volume = "max",
    select: Select = "auc",
    class_weight: Weight = "none",
    uncertain: Uncertain = "",
    standardize: Standardize = False,
    precision: Precision = "float32",
    prior: Prior = "",
    fraction: Fraction = "1",
    balance: Balance = "",
    fuse: Fuse = "",
    pca: Pca = 0,
    train_dataset: TrainOn = "",
    eval_dataset: EvalOn = "",
    grid: Grid = None,
    save: Save = "scores",
    memory: Memory = None,
    allow_leakage: Leakage = False,
    dry_run: DryRun = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Linear probe: logistic regression of every label, the penalty chosen on validation patients."""
    _run(_options("lp", locals()), cache, form, dry_run)


@probe_app.command("knn", epilog="Example: fmcache probe knn --model dinov2 --dataset mimic")
def knn(
    model: Models = None,
    dataset: Datasets = None,
    label: Labels = None,
    attribute: Attribute = None,
    seeds: Seeds = 1,
    volume: Volume = "max",
    select: Select = "auc",
    uncertain: Uncertain = "",
    prior: Prior = "",
    fraction: Fraction = "1",
    balance: Balance = "",
    fuse: Fuse = "",
    train_dataset: TrainOn = "",
    eval_dataset: EvalOn = "",
    save: Save = "scores",
    allow_leakage: Leakage = False,
    dry_run: DryRun = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Nearest neighbours by cosine: k of 10, 20, 100, 200 chosen on validation patients."""
    _run(_options("knn", locals()), cache, form, dry_run)


@probe_app.command("clip-zs", epilog="Example: fmcache probe clip-zs --model biomedclip --dataset mimic")
def clip_zs(
    model: Models = None,
    dataset: Datasets = None,
    label: Labels = None,
    prompts: Prompts = "",
    template: Template = "",
    attribute: Attribute = None,
    volume: Volume = "max",
    uncertain: Uncertain = "",
    save: Save = "scores",
    allow_leakage: Leakage = False,
    dry_run: DryRun = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Zero-shot: each image against the text prompts of a label, at the model's own scale. Needs --kind text."""
    _run(_options("clip-zs", locals()), cache, form, dry_run)


@probe_app.command(
    "clip-adapt", epilog="Example: fmcache probe clip-adapt --model biomedclip --dataset mimic"
)
def clip_adapt(
    model: Models = None,
    dataset: Datasets = None,
    label: Labels = None,
    prompts: Prompts = "",
    template: Template = "",
    method: Method = None,
    attribute: Attribute = None,
    seeds: Seeds = 1,
    protocol: Annotated[
        str, typer.Option(help="paper (AdamW as published) or fairmedfm (SGD as its code).")
    ] = "paper",
    volume: Volume = "max",
    select: Select = "auc",
    class_weight: Weight = "none",
    uncertain: Uncertain = "",
    prior: Prior = "",
    fraction: Fraction = "1",
    balance: Balance = "",
    grid: Grid = None,
    save: Save = "scores",
    allow_leakage: Leakage = False,
    dry_run: DryRun = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Prototypes that begin as text prompts and are trained, of unit norm at each step. Needs --kind text."""
    _run(_options("clip-adapt", locals()), cache, form, dry_run)


@probe_app.command("attribute", epilog="Example: fmcache probe attribute --model dinov2 --dataset mimic")
def attribute_command(
    model: Models = None,
    dataset: Datasets = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", help="An attribute; repeat for several. Default: all that have groups."),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Permutations of the baseline.")] = 20,
    seeds: Seeds = 1,
    volume: Volume = "max",
    save: Save = "scores",
    allow_leakage: Leakage = False,
    dry_run: DryRun = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """What of sex, age, race … can be read from the embedding, beside what chance reads."""
    given = {**locals(), "label": attribute, "attribute": None}  # attributes are what is predicted
    _run(_options("attribute", given), cache, form, dry_run)


@probe_app.command("methods", epilog="Example: fmcache probe methods")
def methods_command(form: Form = Format.auto, debug: Debug = False) -> None:
    """The training methods: what they do, what they need, where they come from."""
    from fmcache.probe.methods import METHODS

    emit(
        [
            {
                "method": name,
                "summary": method.summary,
                "attribute in training": method.needs_attribute,
                "attribute at test": method.attribute_at_test,
                "protocols": ", ".join(method.protocols),
                "hyper-parameters": ", ".join(f"{key}={list(values)}" for key, values in method.grid.items()),
                "source": method.source,
            }
            for name, method in METHODS.items()
        ],
        form=form,
    )
