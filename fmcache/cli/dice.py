"""``fmcache dice``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Debug, Form, open_store
from fmcache.cli.root import app
from fmcache.output import Format, emit, say


@app.command(epilog="Example: fmcache dice --model sam-med2d --dataset ham10000-seg --wide --out dice.csv")
def dice(
    model: Annotated[str, typer.Option("--model", "-m", help="A segmentation model.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A dataset.")],
    key: Annotated[
        str | None, typer.Option(help="The first characters of the entry's key, if there are several.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="A pixel is inside where its logit is above this (FairMedFM: 0.5).")
    ] = 0.0,
    mask: Annotated[str, typer.Option(help="best (of the predicted IoU), oracle or all.")] = "best",
    surface: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Also hd95, and nsd at this tolerance: in mm (hd95_mm) if the dataset's reader sets spacing, else in "
            "pixels (hd95_px).",
        ),
    ] = None,
    wide: Annotated[
        bool, typer.Option(help="One row a sample, classes averaged: what `fmcache audit --value` takes.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the rows to this .csv or .parquet file.")] = None,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Dice and IoU of every sample, class and prompt, from the cached logits and ground truth."""
    from fmcache.analyze.dice import dice_table, wide_table
    from fmcache.errors import UsageError

    if mask not in ("best", "oracle", "all"):
        raise UsageError(
            f"--mask {mask} means nothing.", "It is one of best, oracle, all.", "Type: --mask best"
        )
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{out.name} is no table.", "It ends with .csv or .parquet.", "Type: --out dice.csv")
    masks = open_store(cache).masks(model, dataset, key=key)
    if mask != "best" and masks.multimask == "best":
        raise UsageError(
            f"--mask {mask} needs every mask.",
            "This entry holds the best of each prompt.",
            f"Type: fmcache extract --model {model} --dataset {dataset} --kind mask --multimask all",
        )
    table = dice_table(masks, threshold, mask, surface)
    for of in table.partition_by("prompt", maintain_order=True):
        prompt, dice = str(of["prompt"][0]), float(of["dice"].to_numpy().mean())
        say(f"{prompt}: mean Dice {dice:.4f} over {of.height:,} masks")
    if masks.missing.height:
        say(f"{masks.missing.height:,} samples have no mask here: fmcache cache show {masks.entry.key[:12]}")
    rows = wide_table(table) if wide else table
    if out is None:
        emit(rows.to_dicts(), form=form)
    elif out.suffix == ".csv":
        rows.write_csv(out)
    else:
        rows.write_parquet(out)
