"""``fmcache extract``: names and flags become models, a dataset and options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmcache.errors import MissingExtra, UsageError
from fmcache.extract.dataset import SampleOptions, load_dataset
from fmcache.extract.frame import FramePreprocess, fairmedfm_frame
from fmcache.extract.mask_inputs import given_masks
from fmcache.extract.mask_options import MaskOptions
from fmcache.extract.mask_prompts import check_prompts
from fmcache.extract.models.card import Card
from fmcache.extract.options import ExtractOptions, ExtractSummary
from fmcache.extract.plan import parse_shard
from fmcache.extract.preprocess import Preprocess, fairmedfm_preprocess
from fmcache.extract.registry import load_model, resolve_model
from fmcache.extract.sample_counts import count_lines
from fmcache.progress import Progress, Silent
from fmcache.settings import Settings
from fmcache.store.cache import open_cache

KINDS = ("image", "text", "mask")
MASK_BATCH = {"cuda": 8, "mps": 2, "cpu": 1}
BATCH = {"cuda": 256, "mps": 64, "cpu": 32}


def extract_command(
    *,
    models: Sequence[str],
    dataset: str,
    kind: str = "image",
    prompts: str = "dataset",
    root: Path | None,
    cache: Path,
    settings: Settings,
    checkpoint: Sequence[str] = (),
    pool: str | None = None,
    preprocess: str = "native",
    side: int | None = None,
    decode: str = "exact",
    device: str = "auto",
    autocast: str = "auto",
    dtype: str = "float16",
    executor: str = "process",
    workers: int | None = None,
    batch: int | None = None,
    shard: str | None = None,
    max_reject: float = 0.01,
    retry_rejected: bool = False,
    dry_run: bool = False,
    samples: SampleOptions | None = None,
    masks: MaskOptions | None = None,
    progress: Progress | None = None,
) -> ExtractSummary:
    """Resolve everything that can be wrong before a weight is read, then run.

    Raises
    ------
    UsageError, DatasetError, ModelError, MissingExtra : the call is wrong. Else as `fmcache.extract.run.extract`.
    """
    progress = progress or Silent()
    if kind not in KINDS:
        raise UsageError(
            f"--kind {kind} means nothing.", f"It is one of {', '.join(KINDS)}.", f"Type: --kind {KINDS[0]}"
        )
    asked = {name: resolve_model(name) for name in models}
    cards = list({card.id: card for card in asked.values()}.values())
    own = {resolve_model(name).id: values for name, values in settings.models.items()}
    files = _checkpoints(checkpoint, {name: card.id for name, card in asked.items()}, own)
    part = parse_shard(shard) if shard else None
    data = load_dataset(dataset, root=root, settings=settings, options=samples)
    for line in [*data.notes, *count_lines(data.card["counts"])]:
        progress.note(line)
    wants_masks = kind == "mask"
    if wants_masks:
        given_masks(data)
    for card in cards:
        if kind == "text" and card.dim is not None and not card.text:
            raise UsageError(
                f"{card.id} has no text side.",
                "It embeds images only.",
                "Take clip, biomedclip, medclip, blip, blip2, siglip …: `fmcache models` shows which read text.",
            )
        if wants_masks and "prompts" not in card.options:
            raise UsageError(
                f"{card.id} makes no masks.",
                "It embeds pictures.",
                "Type: --kind image   or name a segmentation model: fmcache models",
            )
        if wants_masks and masks is not None:
            check_prompts(masks.prompts, card.options["prompts"], card.id)
        if card.options.get("volumes") and not wants_masks:
            raise UsageError(
                f"{card.id} takes whole volumes, not slices.",
                "It makes masks; embeddings are made of pictures or slices.",
                "Type: --kind mask",
            )
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtra(
            "Extraction needs torch.",
            "It is not installed; everything after the extraction works without it.",
            'Type: python -m pip install "fmcache[extract]"',
        ) from None
    from fmcache.extract.run import extract
    from fmcache.extract.texts import extract_texts

    place = _device(device, torch)
    options = ExtractOptions(
        device=place,
        autocast=_autocast(autocast, place, torch),
        dtype=dtype,
        decode=decode,
        executor=executor,
        workers=workers or os.cpu_count() or 1,
        batch=batch or (MASK_BATCH if wants_masks else BATCH)[place.partition(":")[0]],
        shard=part,
        max_reject=max_reject,
        retry_rejected=retry_rejected,
        dry_run=dry_run,
    )
    loaded = []
    for card in cards:
        progress.note(f"Loading {card.id} …")
        loaded.append(
            load_model(
                card,
                checkpoint=files.get(card.id),
                pool=pool or own.get(card.id, {}).get("pool"),
                device=place,
                preprocess=_preprocess(preprocess, data.name, card),
                side=side,
            )
        )
        progress.note(f"{card.id}: weights {loaded[-1].weights_sha256[:12]} from {loaded[-1].source}")
        if card.non_commercial:
            progress.note(f"{card.id}: licence {card.licence}: no commercial use.")
    where = open_cache(cache, create=True)
    if wants_masks:
        from fmcache.extract.mask_run import extract_masks

        return extract_masks(loaded, data, where, options, masks or MaskOptions(), progress)
    if kind == "text":
        return extract_texts(loaded, data, where, options, prompts, progress)
    return extract(loaded, data, where, options, progress)


def _checkpoints(
    given: Sequence[str], asked: Mapping[str, str], own: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Path]:
    """Checkpoint by model id: ``--checkpoint FILE`` for one model, ``MODEL=FILE`` for several, else fmcache.toml.

    Parameters
    ----------
    asked : name as typed → model id. own : model id → what fmcache.toml says of it.
    """
    files = {id: Path(values["checkpoint"]) for id, values in own.items() if "checkpoint" in values}
    ids = sorted(set(asked.values()))
    for text in given:
        name, equals, file = text.partition("=")
        if equals and (name in asked or name in ids):
            files[asked.get(name, name)] = Path(file)
        elif len(ids) == 1:
            files[ids[0]] = Path(text)
        else:
            raise UsageError(
                f"--checkpoint {text} does not say for which model.",
                f"The models are {', '.join(ids)}.",
                f"Type: --checkpoint {ids[0]}=FILE",
            )
    return files


def _preprocess(name: str, dataset: str, card: Card) -> Preprocess | FramePreprocess | None:
    """None: the model's own."""
    if name == "native":
        return None
    if name == "fairmedfm":
        if isinstance(card.preprocess, FramePreprocess):
            return fairmedfm_frame(card.preprocess)
        if card.options.get("volumes"):
            raise UsageError(
                f"FairMedFM feeds {card.id} as its own official code does.", "", "Type: --preprocess native"
            )
        return fairmedfm_preprocess(dataset)
    raise UsageError(
        f"--preprocess {name} means nothing.",
        "It is native (each model's own) or fairmedfm (that benchmark's, by dataset).",
        "Type: --preprocess native",
    )


def _device(name: str, torch: Any) -> str:
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    known = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in known:
        raise UsageError(
            f"There is no device {name!r}.", f"There are {', '.join(known)}.", "Type: --device auto"
        )
    if not known[kind] or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        raise UsageError(f"This machine has no {name}.", "torch does not see it.", "Type: --device cpu")
    return name


def _autocast(name: str, device: str, torch: Any) -> str:
    """``auto``: fp32 on a CPU, bf16 on a CUDA device that has it (fp16 where it does not), fp16 on mps."""
    if name != "auto":
        return name
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "fp16" if device == "mps" else "fp32"
