"""docs/models.md, made from the cards and from what was measured."""

from __future__ import annotations

from fmcache.extract.models.card import Card
from fmcache.extract.models.parity import LIBRARY, OFFICIAL, REAL_WEIGHTS, RESTATED, SAME_CODE
from fmcache.extract.registry import aliases, list_models

_HEAD = """\
# Models

`fmcache models` lists the cards, `fmcache models NAME` shows one. Besides, any `timm/NAME`,
`open_clip/NAME[@TAG]`, `open_clip/ORG/REPOSITORY` and `hf/ORG/NAME`; each takes `--checkpoint FILE|DIR`.

## How far a model is proven

The official code of every model of the benchmark was run on seeded weights and inputs; its outputs are in
tests/golden. fmcache reads the same weights, written as the published file is laid out, and has to give the
same numbers: at most 1e-4 for embeddings and zero-shot logits in float32, and the same preprocessing bit for
bit. The figure is the largest difference that was measured. *Real weights* says whether a published file was
ever read here: a file may differ from what its code writes, so on first use compare one embedding with the
official code, or look for the error that lists missing names.
"""
_HEAVY = """\
## Full-size runs

`make test-heavy` repeats the comparisons that are too large for every change. Run piece by piece on two CPU cores
(torch 2.13, other work beside it): everything passed. Every comparison is held to 1e-4 for embeddings and to 1e-3
for the logits of masks; the differences in the table above come from these runs and those of `make test`.

| what is compared | tests | CPU | peak memory |
|---|---|---|---|
| CLIP ViT-B/16, PubMedCLIP; DINOv2, also with registers, at 518 pixels | 6 | 124 s | 1.5 GiB |
| DINOv2 with registers at 224 pixels, MedCLIP ResNet-50 | 2 | 36 s | 1.5 GiB |
| SAM ViT-B, MedSAM, MobileSAM, TinySAM at 1,024 pixels, every prompt | 4 | 276 s | 3.3 GiB |
| SAM 2.1, a small configuration, against transformers | 1 | 32 s | 1.1 GiB |
| SAM-Med3D at 128 x 128 x 128, two rounds of clicks | 1 | 41 s | 2.2 GiB |
| SegVol at 32 x 256 x 256: points, box, sentence, sentence with either | 1 | 50 s | 1.8 GiB |
| SAM-Med3D, FastSAM3D, SegVol at the command line on a real head | 3 | 130, 43, 127 s | 2.9 GiB |

The real head is one with labelled regions (mricron-data): the Dice of every class and prompt is worked out again from
the files. The largest differences at 518 pixels were 2.4e-6 (class token) and 4.8e-7 (mean over patches). BLIP-2 is
compared at full width with two layers a tower, and by name and shape at full depth; 1.2 billion parameters were never
run here.
"""
_READING = """\
## Reading weights

safetensors, PyTorch (zip, legacy, TorchScript), npz; sharded folders; state dictionaries inside training
states. Files are read with `weights_only=True`, and where that refuses (an argparse namespace, an optimizer
object, TorchScript) by a reader that turns every name in the pickle but a dozen pure constructors into an inert
object: nothing in a file runs. Every tensor has to find its place and every place its tensor, or the error
lists the first five of each. The cache key holds a sha256 over the tensors, so the container does not matter
and a changed weight is another entry.

Downloads come from the Hugging Face hub at the commit of the card, are resumed, and checked where the card has
a hash. Repositories that are *unpinned* in the list below were never reached from here: their head is taken, its
commit is in the manifest, and the sha256 of the tensors in the key. `HF_HUB_OFFLINE=1` is respected.

## Text

`--kind text` embeds the prompts of the dataset's labels ([decision 100](decisions/100-text-entries.md)).
`--prompts` is `dataset` (the card's own templates and class names, which are FairMedFM's where it has them),
`chexzero` ("X" against "no X"), `medclip` (its sentences for five findings against "no acute cardiopulmonary
process") or `clip` (seven templates). CLIP's vocabulary comes with open_clip; a BERT needs the `vocab.txt` or
`tokenizer.json` of its repository beside the weights. MedCLIP averages over padding, so the prompts of one
template are embedded together.

## `--preprocess fairmedfm`

FairMedFM feeds every classifier 224 pixels with the mean and std of the *dataset*, not of the model. `native`,
the default, is what each model's own code does. Both are part of the key.
"""


def models_page() -> str:
    """The page as Markdown: one row a model, then how weights are read."""
    cards = list_models()
    return "\n".join([_HEAD, _table(cards), "", _HEAVY, _READING, _notes(cards)])


def status(card: Card) -> str:
    """How far the model's numbers are proven, in a few words."""
    if card.family == "sam2":
        return "its code is transformers; compared with it in small"
    if card.id in OFFICIAL:
        of = OFFICIAL[card.id]
        parts = [f"image {of.image:.1e}"]
        parts += [f"text {of.text:.1e}"] if of.text is not None else []
        parts += [f"logits {of.logits:.1e}"] if of.logits is not None else []
        return "official code: " + ", ".join(parts)
    if card.id in SAME_CODE:
        return f"as {SAME_CODE[card.id]}, not compared at this size"
    library = LIBRARY.get(card.id)
    return f"its code is {library}; compared with it in small" if library else "not compared"


def preprocessing(card: Card) -> str:
    """How far the model's preprocessing is proven."""
    if card.family == "sam2":
        return "from its code, not compared"
    if card.id in OFFICIAL:
        return OFFICIAL[card.id].preprocessing
    if card.preprocess is None:
        return "read from its configuration"
    if card.id in RESTATED:
        return RESTATED[card.id]
    return (
        "exact"
        if card.preprocess == _preprocess_of(SAME_CODE.get(card.id))
        else "from its code, not compared"
    )


def _preprocess_of(name: str | None) -> object:
    return next((card.preprocess for card in list_models() if card.id == name), None)


def _table(cards: list[Card]) -> str:
    lines = [
        "| name | model | d (default `--pool`) | text | parity | preprocessing | real weights | licence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    others: dict[str, list[str]] = {}
    for alias, name in aliases().items():
        others.setdefault(name, []).append(alias)
    for card in cards:
        also = "".join(f", `{alias}`" for alias in others.get(card.id, ()))
        pool = f" (`{card.pools[0]}`)" if card.pools else ""
        licence = card.licence + (" **(non-commercial)**" if card.non_commercial else "")
        seen = "yes, from a package" if card.id in REAL_WEIGHTS else "never seen"
        text = f"{card.text} tokens" if card.text else "–"
        lines.append(
            f"| `{card.id}`{also} | {card.title} | {card.dim}{pool} | {text} | {status(card)} | {preprocessing(card)} "
            f"| {seen} | {licence} |"
        )
    return "\n".join(lines)


def _notes(cards: list[Card]) -> str:
    lines = ["## Where the weights are, and what to know", ""]
    for card in cards:
        where = card.published
        sources = [f"package {where.package}"] if where.package else []
        sources += (
            [f"hub {where.hub} " + (f"at {where.revision[:12]}" if where.revision else "(unpinned)")]
            if where.hub
            else []
        )
        sources += [where.url] if where.url and not (where.hub and where.hub in where.url) else []
        parts = [
            f"* **{card.id}** ({card.paper}). " if card.paper else f"* **{card.id}**. ",
            "; ".join(sources) + ".",
        ]
        parts += [f" Embeddings: {', '.join(card.pools)}."] if card.pools else []
        parts += [f" Gated: {where.gated}"] if where.gated else []
        parts += [f" {card.notes}"] if card.notes else []
        lines.append("".join(parts))
    return "\n".join(lines)
