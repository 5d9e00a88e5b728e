"""``fmcache models`` and ``fmcache extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fmcache.cli.options import CacheDir, Debug, Form, cache_path, settings
from fmcache.cli.root import app
from fmcache.cli.sample_options import (
    AllowLeakage,
    Balance,
    Slices,
    Slicing,
    Split,
    SplitSeed,
    Task,
    Uncertain,
)
from fmcache.output import Bar, Format, emit, say


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
        "pool": ", ".join(card.pools),
        "text": card.text or None,
        "licence": card.licence + (" (no commercial use)" if card.non_commercial else ""),
    }


def _card_rows(card: Any) -> list[dict[str, Any]]:
    """One row a field; nested facts become `published.hub`, `preprocess.geometry.size` …; empty ones are left out."""
    from dataclasses import asdict

    rows: list[dict[str, Any]] = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}.{key}" if name else key, item)
        elif value not in (None, "", 0, False) and value != ():
            rows.append(
                {"field": name, "value": ", ".join(map(str, value)) if isinstance(value, tuple) else value}
            )

    walk("", asdict(card))
    return rows


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
    kind: Annotated[
        str, typer.Option(help="image, text (the prompts of the dataset's labels) or mask (segmentation).")
    ] = "image",
    prompts: Annotated[
        str, typer.Option(help="With --kind text: dataset (the card's own), chexzero, medclip or clip.")
    ] = "dataset",
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="Weights on disk: FILE or DIR, or MODEL=FILE with several models."),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Which embedding: cls, mean, …; the card's default.")
    ] = None,
    preprocess: Annotated[str, typer.Option(help="native (the model's own) or fairmedfm.")] = "native",
    side: Annotated[
        int | None, typer.Option(min=14, help="Pixels of the model's input, for models that take any size.")
    ] = None,
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
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="With --kind mask: center, rand, rands, bbox; SegVol also text, text-bbox; repeat for several; "
            "default: all that the model takes."
        ),
    ] = None,
    prompt_rule: Annotated[
        str,
        typer.Option(help="With --kind mask: paper, or fairmedfm (centre of the box, points may repeat)."),
    ] = "paper",
    seed: Annotated[int, typer.Option(min=0, help="With --kind mask: of the random points.")] = 0,
    multimask: Annotated[
        str, typer.Option(help="With --kind mask: best (of the predicted IoU) or all, to be stored.")
    ] = "best",
    logits: Annotated[
        str,
        typer.Option(help="With --kind mask: f16, f16-round6 (a fifth of the size) or mask (only the sign)."),
    ] = "f16",
    task: Task = "full",
    uncertain: Uncertain = None,
    split: Split = None,
    split_seed: SplitSeed = 0,
    balance: Balance = None,
    allow_leakage: AllowLeakage = False,
    slices: Slices = None,
    slicing: Slicing = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done.")] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Run frozen models once over a dataset and store the embeddings. Resumes, appends, quarantines."""
    from fmcache.extract.command import extract_command
    from fmcache.extract.dataset import SampleOptions
    from fmcache.extract.mask_options import MaskOptions

    known = settings()
    with Bar() as bar:
        summary = extract_command(
            models=model,
            dataset=dataset,
            root=root,
            kind=kind,
            prompts=prompts,
            cache=cache_path(cache),
            checkpoint=checkpoint or [],
            settings=known,
            pool=pool,
            preprocess=preprocess,
            side=side,
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
            masks=MaskOptions(tuple(dict.fromkeys(prompt or ())), prompt_rule, seed, multimask, logits),
            samples=SampleOptions(
                task, uncertain, split, split_seed, balance, allow_leakage, slices, slicing
            ),
            progress=bar,
        )
    for sentence in summary.sentences():
        say(sentence)
    emit(summary.rows(), form=form)
    raise typer.Exit(summary.exit_code)
