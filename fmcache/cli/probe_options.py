"""The options of ``fmcache probe``, which its usages share."""

from __future__ import annotations

from typing import Annotated

import typer

Labels = Annotated[
    list[str] | None, typer.Option("--label", "-l", help="A label; repeat for several. Default: all.")
]
Method = Annotated[
    list[str] | None,
    typer.Option("--method", help="erm, or a mitigation (fmcache probe methods); repeat for several."),
]
Attribute = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute", help="The one attribute whose groups methods know: sex, age_group, sex*race."
    ),
]
Seeds = Annotated[
    int, typer.Option(min=1, help="How many seeds: of splits that the data lack, subsets and minibatches.")
]
Protocol = Annotated[
    str, typer.Option(help="convex (the optimum), paper (AdamW as published) or fairmedfm (SGD as its code).")
]
Volume = Annotated[
    str, typer.Option(help="How the slices of a volume become one score: max (paper) or mean.")
]
Select = Annotated[
    str, typer.Option(help="What chooses on validation: auc, or worst (the worst group's AUC).")
]
Leakage = Annotated[bool, typer.Option("--allow-leakage", help="Accept a patient in two splits (recorded).")]
Save = Annotated[str, typer.Option(help="scores (predictions and parameters), or none (a summary only).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and how large it is.")]
TrainOn = Annotated[
    str,
    typer.Option("--train-dataset", help="Train here and measure on --eval-dataset, by shared label names."),
]
EvalOn = Annotated[str, typer.Option("--eval-dataset", help="Measure here what --train-dataset trained.")]
Fraction = Annotated[str, typer.Option(help="Shares of the training patients, for example 0.01,0.05,0.2,1.")]
Balance = Annotated[
    str,
    typer.Option(help="Train on equal groups: sex, or label*sex; beside an unbalanced control of that size."),
]
Fuse = Annotated[str, typer.Option(help="Models whose embeddings are joined, for example dinov2,biomedclip.")]
Pca = Annotated[int, typer.Option(min=0, help="Keep so many principal components (0: all).")]
Weight = Annotated[
    str, typer.Option("--class-weight", help="none, or balanced (both classes count the same).")
]
Uncertain = Annotated[
    str,
    typer.Option(help="What uncertain findings count as: u-ignore, u-zero, u-one. Default: as extracted."),
]
Standardize = Annotated[
    bool, typer.Option("--standardize", help="Features by mean and deviation of the training rows.")
]
Precision = Annotated[
    str, typer.Option(help="Of the rows in products: float32, or bfloat16 (its price is reported).")
]
Prior = Annotated[
    str, typer.Option(help="Move test scores to another prevalence: em (estimated), or a share such as 0.1.")
]
Memory = Annotated[
    float | None,
    typer.Option(min=0, help="GB that rows may take before they are streamed. Default: 0.3 of what is free."),
]
Grid = Annotated[
    list[str] | None,
    typer.Option("--grid", help="A method's own values: coefficient=0,0.1,1. Repeat for several."),
]
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts", help="The prompt set, where the cache holds several: dataset, chexzero, clip, medclip."
    ),
]
Template = Annotated[
    str,
    typer.Option(
        "--template", help="Default: all templates together. A number: that one. val: chosen on validation."
    ),
]
