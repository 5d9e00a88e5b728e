"""The options that choose which samples of a dataset are used, how uncertain labels count, and how they are split."""

from __future__ import annotations

from typing import Annotated

import typer

Task = Annotated[
    str,
    typer.Option(
        help="full (every label and sample) or a task of the card, such as paper (the benchmark's)."
    ),
]
Uncertain = Annotated[
    str | None,
    typer.Option(help="Labels that say perhaps: u-ignore (unknown), u-zero or u-one; the card's default."),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="official, patient (70/10/20) or paper (80/20 by image, balanced); the card's default."
    ),
]
SplitSeed = Annotated[int, typer.Option(min=0, help="Seed of a split that is drawn.")]
Balance = Annotated[
    str | None, typer.Option(help="With --split paper: the attribute whose groups are equally large in test.")
]
AllowLeakage = Annotated[
    bool, typer.Option("--allow-leakage", help="Accept a patient in two splits (recorded).")
]
Slices = Annotated[int | None, typer.Option(min=1, help="Slices of a volume; the card's default, 32.")]
Slicing = Annotated[
    str | None,
    typer.Option(
        help="pick (whole slices, evenly spaced) or linear (resampled to --slices, as the benchmark does)."
    ),
]
