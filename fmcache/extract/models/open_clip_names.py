"""``open_clip/NAME[@TAG]`` and ``open_clip/ORG/REPOSITORY``: any model of open_clip.

NAME is an architecture that open_clip knows, TAG one of its published weights. ORG/REPOSITORY is a repository of the
hub with an ``open_clip_config.json``, and so is a folder given with ``--checkpoint``. The weights are read by fmcache,
never by open_clip.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmcache.errors import ModelError
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.clip import openai_names
from fmcache.extract.models.configured import from_open_clip, read_json
from fmcache.extract.models.loading import load_strictly, quiet
from fmcache.extract.models.text import TextTower, Tokenizer
from fmcache.extract.preprocess import HALF, Geometry, Normalise, Preprocess

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

CONFIG = "open_clip_config.json"
_SIGLIP2 = "Tschannen et al., SigLIP 2, arXiv:2502.14786"


def _card(id: str, title: str, arch: str, tag: str, dim: int, licence: str, text: int, **more: Any) -> Card:
    return Card(
        id=id, title=title, family="open_clip_names", architecture=arch, dim=dim, licence=licence,
        pools=("projected",), text=text, options={"tag": tag}, **more,
    )  # fmt: skip


_TIMM_FILE = "open_clip_model.safetensors"
CARDS = (
    _card(
        "siglip",
        "SigLIP ViT-B/16 (WebLI)",
        "ViT-B-16-SigLIP",
        "webli",
        768,
        "Apache-2.0",
        64,
        published=Published(hub="timm/ViT-B-16-SigLIP", file=_TIMM_FILE),
        preprocess=Preprocess(Geometry("squash", 224, "bicubic", None), Normalise(*HALF)),
        paper="Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023",
    ),
    _card(
        "siglip2",
        "SigLIP 2 ViT-B/16 (WebLI)",
        "ViT-B-16-SigLIP2",
        "webli",
        768,
        "Apache-2.0",
        64,
        published=Published(hub="timm/ViT-B-16-SigLIP2", file=_TIMM_FILE),
        preprocess=Preprocess(Geometry("squash", 224, "bicubic", None), Normalise(*HALF)),
        paper=_SIGLIP2,
    ),
    _card(
        "dermlip",
        "DermLIP ViT-B/16 (Derm1M)",
        "redlessone/DermLIP_ViT-B-16",
        "",
        512,
        "CC BY-NC 4.0",
        77,
        published=Published(hub="redlessone/DermLIP_ViT-B-16", file=""),
        non_commercial=True,
        paper="Yan et al., Derm1M, ICCV 2025",
        notes="Configuration and preprocessing are read from the repository's open_clip_config.json.",
    ),
)
ALIASES: dict[str, str] = {}


def named(id: str, name: str) -> Card:
    """A card for what follows ``open_clip/``; what open_clip knows of it is read when it is loaded."""
    architecture, _, tag = name.partition("@")
    hub = architecture if "/" in architecture else ""
    return Card(
        id=id,
        title=f"open_clip {name}",
        family="open_clip_names",
        architecture=architecture,
        dim=None,
        licence="see the model's page",
        published=Published(hub=hub, file="" if hub else "open_clip_model.safetensors"),
        text=77,
        options={"tag": tag},
    )


def complete(card: Card) -> Card:
    """The card with the hub address of its tag.

    Raises
    ------
    ModelError : open_clip has no such architecture, or no such tag of it.
    """
    if "/" in card.architecture:
        return card
    import open_clip

    name, tag = card.architecture, str(card.options.get("tag", ""))
    known = open_clip.list_models()
    if name not in known:
        near = get_close_matches(name, known, n=3)
        raise ModelError(
            f"open_clip has no model {name!r}.",
            f"Nearest names: {', '.join(near)}." if near else f"It has {len(known)} others.",
            f"Type: --model open_clip/{near[0]}" if near else "Look at open_clip.list_models().",
        )
    if not tag:
        return card
    tags = open_clip.list_pretrained_tags_by_model(name)
    config = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        near = get_close_matches(tag, tags, n=1)
        raise ModelError(
            f"open_clip has no weights {tag!r} of {name}.",
            f"It has: {', '.join(tags) or 'none'}.",
            f"Type: --model open_clip/{name}@{(near or tags or ['TAG'])[0]}",
        )
    hub, _, file = str(config.get("hf_hub") or "").rpartition("/")
    where = replace(card.published, hub=hub, file=file or card.published.file, url=str(config.get("url", "")))
    return replace(card, published=where)


def build(card: Card, weights: Weights, preprocess: Preprocess | None) -> Network:
    """Both towers; ``projected`` is what the contrastive loss saw."""
    import open_clip

    config, seen = _configuration(card, weights)
    with quiet():
        module: Any = _module(config)
    state = openai_names(weights.state)
    if "positional_embedding" in state and not hasattr(module, "positional_embedding"):
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    load_strictly(module, state, card, may_be_missing=("attn_mask", "text.attn_mask", "logit_bias"))
    if getattr(module, "logit_bias", None) is not None and "logit_bias" not in state:
        module.logit_bias.data.zero_()
    side = open_clip.transform.to_2tuple(module.visual.image_size)[0]
    bias = getattr(module, "logit_bias", None)
    tower = TextTower(
        tokenizer=lambda: _tokenizer(card, config, weights.folder),
        encode=lambda tokens: module.encode_text(tokens["ids"]),
        logit_scale=float(module.logit_scale.exp()),
        logit_bias=0.0 if bias is None else float(bias),
    )
    own = preprocess or from_open_clip(seen, side)
    return Network(module, {"projected": module.visual}, own, tower)


def _configuration(card: Card, weights: Weights) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model_cfg, preprocess_cfg): from the folder of the weights, else open_clip's own for that name."""
    import open_clip

    if weights.folder is not None and ((weights.folder / CONFIG).is_file() or "/" in card.architecture):
        content = read_json(weights.folder / CONFIG)
        if not isinstance(content.get("model_cfg"), dict):
            raise ModelError(
                f"{CONFIG} beside the weights has no model_cfg.",
                f"It has: {', '.join(content) or 'nothing'}.",
                "Download it again.",
            )
        return content["model_cfg"], dict(content.get("preprocess_cfg", {}))
    tag = str(card.options.get("tag", ""))
    seen = open_clip.get_pretrained_cfg(card.architecture, tag) if tag else {}
    config = open_clip.get_model_config(card.architecture)
    if seen.get("quick_gelu"):
        config["quick_gelu"] = True
    default = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    return config, {**default, **{key: value for key, value in seen.items() if value}}


def _module(config: dict[str, Any]) -> torch.nn.Module:
    """The module of a configuration, through a folder: that is how open_clip takes one that it does not know."""
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
        (Path(folder) / CONFIG).write_text(text, encoding="utf-8")
        try:
            return open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        except OSError as error:
            raise ModelError(
                "The text side of this open_clip model is described by a repository that cannot be reached.",
                str(error).strip().splitlines()[0],
                "Connect to the network once, or embed the model with hf/ORG/NAME.",
            ) from None


class _Tokens:
    """A tokenizer of open_clip."""

    def __init__(self, tokenizer: Any, named: dict[str, Any]) -> None:
        self._tokenizer, self._named = tokenizer, named

    def __call__(self, sentences: Sequence[str]) -> dict[str, torch.Tensor]:
        return {"ids": self._tokenizer(list(sentences))}

    def document(self) -> dict[str, Any]:
        return self._named


def _tokenizer(card: Card, config: dict[str, Any], folder: Path | None) -> Tokenizer:
    from open_clip import tokenizer as tokenizers

    from fmcache.extract.models.text import ClipTokenizer, folder_digest

    text = config.get("text_cfg", {})
    context = int(text.get("context_length", 77))
    name = text.get("hf_tokenizer_name")
    if not name:
        return ClipTokenizer(context)
    local = folder is not None and ((folder / "tokenizer.json").is_file() or (folder / "vocab.txt").is_file())
    source = str(folder) if local else name
    try:
        made = tokenizers.HFTokenizer(source, context_length=context, **text.get("tokenizer_kwargs", {}))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The tokenizer of {card.id} is not on this machine.",
            str(error).strip().splitlines()[0],
            f"Fetch tokenizer.json and tokenizer_config.json of https://huggingface.co/{name} "
            "and put them beside the weights.",
        ) from None
    digest = folder_digest(folder) if local and folder else str(name)
    return _Tokens(
        made, {"kind": "open-clip-hf", "context": context, "padding": "context", "vocabulary": digest}
    )
