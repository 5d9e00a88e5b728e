"""``--kind text``: the prompts of a dataset, embedded by the text side of a model, into the cache.

One row a distinct sentence; docs/decisions/100-text-entries.md is the layout.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

import fmcache
from fmcache.errors import UsageError
from fmcache.extract.dataset import Dataset
from fmcache.extract.models.text import TextTower
from fmcache.extract.options import ExtractOptions, ExtractSummary, ModelSummary
from fmcache.extract.prompts import Prompts, prompts_of
from fmcache.extract.registry import LoadedModel
from fmcache.progress import Progress, Silent
from fmcache.store.cache import Cache
from fmcache.store.keys import canonical_json, digest

KEY_VERSION = 1
DTYPE = "float32"  # a few hundred rows at most: nothing is gained by rounding them


def extract_texts(
    models: Sequence[LoadedModel],
    dataset: Dataset,
    cache: Cache,
    options: ExtractOptions,
    prompt_set: str = "dataset",
    progress: Progress | None = None,
) -> ExtractSummary:
    """Embed what the cache does not hold yet.

    Raises
    ------
    UsageError : a model has no text side. DatasetError : the card gives no prompts. ModelError : a tokenizer's file is
    not there.
    """
    progress = progress or Silent()
    labels = [name.removeprefix("label.") for name in dataset.samples.columns if name.startswith("label.")]
    prompts = prompts_of(dataset.card, labels, prompt_set)
    for model in models:
        if model.network.text is None:
            raise UsageError(
                f"{model.card.id} has no text side.",
                "It embeds images only.",
                "Take clip, biomedclip, medclip, blip, blip2, siglip or another model that `fmcache models` marks.",
            )
    left_out = [label for label in labels if label not in prompts]
    notes = [f"No prompts for: {', '.join(left_out)}."] if left_out else []
    summary = ExtractSummary([], notes)
    for model in models:
        summary.models.append(_one(model, dataset, cache, options, prompts, prompt_set, progress))
    return summary


def _one(
    model: LoadedModel,
    dataset: Dataset,
    cache: Cache,
    options: ExtractOptions,
    prompts: Mapping[str, Prompts],
    prompt_set: str,
    progress: Progress,
) -> ModelSummary:
    tower = model.network.text
    assert tower is not None
    tokenizer = tower.tokenizer()
    named = model.document()
    del named["preprocess"], named["pool"]  # they are of the image side
    document = {
        "version": KEY_VERSION,
        "kind": "text",
        "model": named,
        "tokenizer": tokenizer.document(),
        "prompt_set": prompt_set,
        "prompts": {label: of.document() for label, of in prompts.items()},
        "zero_shot": {
            "logit_scale": tower.logit_scale,
            "logit_bias": tower.logit_bias,
            "image_pool": tower.image_pool,
            "image_tokens": tower.image_tokens,
        },
        "dtype": DTYPE,
    }
    rows, groups = _rows(prompts, tower)
    stored = cache.stored(model.card.id, dataset.name, "text", digest(document))
    wanted = rows.select("input_digest", "slice").unique(maintain_order=True)
    todo = wanted.join(stored.units, on=["input_digest", "slice"], how="anti", maintain_order="left")
    key, before = digest(document), wanted.height - todo.height
    name = model.card.id
    summary = ModelSummary(name, dataset.name, key, model.source, rows.height, todo.height, before)
    if options.dry_run:
        summary.state = "dry run"
        return summary
    if not todo.height:
        return summary
    progress.start("embed", todo.height, "sentences")
    values = _embed(groups, set(todo["input_digest"]), tower, tokenizer, model.device)
    d = len(next(iter(values.values())))
    with cache.segment(
        model.card.id, dataset.name, "text", document, todo, rows, d=d, dtype=DTYPE, lock=options.lock
    ) as writer:
        for block in writer.blocks:
            if not block.done:
                units = writer.units["input_digest"][block.start : block.stop]
                writer.write(block.index, np.stack([values[of] for of in units]))
        published = writer.publish(
            {
                "source": model.source,
                "device": model.device,
                "versions": {
                    "fmcache": fmcache.__version__,
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                },
            }
        )
        if published is None:
            summary.state = "finished by another process"
    progress.advance(todo.height)
    return summary


def _rows(
    prompts: Mapping[str, Prompts], tower: TextTower
) -> tuple[pl.DataFrame, list[tuple[list[str], list[str]]]]:
    """[sample_id, slice, input_digest] of every prompt; and (digests, sentences) of what is tokenised together."""
    rows, groups = [], []
    for label, of in prompts.items():
        for t, sentences in enumerate(of.sentences):
            beside = list(sentences) if tower.padding_matters else None
            digests = [_digest(sentence, beside) for sentence in sentences]
            rows += [(f"{label}|{t}|{c}", 0, one) for c, one in enumerate(digests)]
            groups.append((digests, list(sentences)))
    schema = {"sample_id": pl.String, "slice": pl.Int32, "input_digest": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row"), groups


def _digest(sentence: str, beside: list[str] | None) -> str:
    """sha256 of the sentence; of it and the others, where they change its embedding."""
    if beside is None:
        return hashlib.sha256(sentence.encode()).hexdigest()
    return hashlib.sha256(canonical_json([sentence, beside])).hexdigest()


def _embed(
    groups: Sequence[tuple[list[str], list[str]]],
    wanted: set[str],
    tower: TextTower,
    tokenizer: Any,
    device: str,
) -> dict[str, np.ndarray]:
    """Digest → float32 [d], in float32 on any device: the prompts are few and everything is compared with them."""
    values: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for digests, sentences in groups:
            if not (wanted & set(digests)) - set(values):
                continue
            tokens = {name: tensor.to(device) for name, tensor in tokenizer(sentences).items()}
            for one, row in zip(digests, tower.encode(tokens).float().cpu().numpy(), strict=True):
                values.setdefault(one, row)
    return values
