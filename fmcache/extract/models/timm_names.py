"""``timm/NAME``: any model of timm, with the preprocessing and the pooling that timm says it has."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Any

from fmcache.errors import ModelError
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly
from fmcache.extract.preprocess import IMAGENET, Geometry, Normalise, Preprocess, resize_and_crop

CARDS = (
    Card(
        id="dinov3",
        title="DINOv3 ViT-B/16 (LVD-1689M)",
        family="timm_names",
        architecture="vit_base_patch16_dinov3.lvd1689m",
        dim=768,
        licence="DINOv3 licence",
        pools=("cls", "mean", "pooled"),
        preprocess=resize_and_crop(256, 256, IMAGENET),
        published=Published(
            hub="timm/vit_base_patch16_dinov3.lvd1689m",
            gated="Meta's own repositories are gated: accept the DINOv3 licence at "
            "https://huggingface.co/facebook/dinov3-vitb16-pretrain-lvd1689m.",
        ),
        paper="Simeoni et al., DINOv3, arXiv:2508.10104",
    ),
)
ALIASES = {"dinov3-base": "dinov3"}


def named(id: str, name: str) -> Card:
    """A card for ``timm/NAME``; what timm knows of it is read when it is loaded."""
    return Card(
        id=id,
        title=f"timm {name}",
        family="timm_names",
        architecture=name,
        dim=None,
        licence="see the model's page",
        published=Published(url=f"https://huggingface.co/timm/{name}"),
    )


def complete(card: Card) -> Card:
    """The card with the preprocessing and the hub address that timm has for this name.

    Raises
    ------
    ModelError : timm has no such model.
    """
    from dataclasses import replace

    config = _config(card)
    repository = config.hf_hub_id or ""
    return replace(
        card,
        licence=card.licence if card.preprocess else config.license or card.licence,
        preprocess=card.preprocess or _preprocess(config),
        published=replace(card.published, hub=repository) if repository else card.published,
    )


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """The model without its classifier; ``pooled`` is timm's own pooling."""
    import timm

    name = card.architecture
    size: dict[str, Any] = {"img_size": preprocess.geometry.side} if _takes_size(name, preprocess) else {}
    module: Any = timm.create_model(name, pretrained=False, num_classes=0, **size)
    state = dict(weights.state)
    if any(key not in state for key in module.state_dict()):
        state = _filtered(name, state, module)
    unused = (*_classifier(_config(card)), "mask_token", "decoder")
    counters = [key for key in module.state_dict() if key.endswith("num_batches_tracked")]
    load_strictly(module, state, card, may_be_unused=unused, may_be_missing=counters)
    heads: dict[str, Any] = {"pooled": module}
    prefix = getattr(module, "num_prefix_tokens", 0)
    if prefix:  # a transformer with a class token
        heads["cls"] = lambda x: module.forward_features(x)[:, 0]
        heads["mean"] = lambda x: module.forward_features(x)[:, prefix:].mean(1)
    return Network(module, heads, preprocess)


def _config(card: Card) -> Any:
    import timm

    name, _, tag = card.architecture.partition(".")
    known = timm.list_models()
    if name not in known:
        near = get_close_matches(name, known, n=3)
        raise ModelError(
            f"timm has no model {name!r}.",
            f"Nearest names: {', '.join(near)}." if near else f"It has {len(known):,} others.",
            f"Type: --model timm/{near[0]}" if near else "Look at timm.list_models().",
        )
    tags = timm.models.list_pretrained(f"{name}.*") or []
    if tag and card.architecture not in timm.list_pretrained(f"{name}*"):
        raise ModelError(
            f"timm has no weights {tag!r} of {name}.",
            f"It has: {', '.join(entry.partition('.')[2] for entry in tags) or 'none'}.",
            f"Type: --model timm/{tags[0]}" if tags else f"Type: --model timm/{name} --checkpoint FILE",
        )
    return timm.get_pretrained_cfg(card.architecture) or timm.models.PretrainedCfg()


def _preprocess(config: Any) -> Preprocess:
    """timm's evaluation transform: the shorter side to floor(side / crop_pct), then the centre.

    A model with crop mode ``squash`` is resized without regard to the proportions.
    """
    side = config.input_size[-1]
    percent = config.crop_pct or 0.875
    scaled = int(side / percent)
    if config.crop_mode == "squash":
        geometry = Geometry("squash", scaled, config.interpolation, None if scaled == side else side)
    else:
        geometry = Geometry("shortest", scaled, config.interpolation, side)
    return Preprocess(geometry, Normalise(tuple(config.mean), tuple(config.std)))


def _takes_size(name: str, preprocess: Preprocess) -> bool:
    import timm

    config = timm.get_pretrained_cfg(name)
    return bool(config and config.fixed_input_size and config.input_size[-1] != preprocess.geometry.side)


def _filtered(name: str, state: dict[str, Any], module: Any) -> dict[str, Any]:
    """timm's own renaming of published files, where the module of that architecture has one."""
    import timm

    code = sys.modules[timm.models.model_entrypoint(name.partition(".")[0]).__module__]
    rename = getattr(code, "checkpoint_filter_fn", None)
    return dict(rename(state, module)) if rename else state


def _classifier(config: Any) -> tuple[str, ...]:
    names = config.classifier or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(f"{name}." for name in names)
