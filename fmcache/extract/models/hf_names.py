"""``hf/ORG/NAME``: any image model of the hub that transformers, open_clip or timm can build.

A repository is taken as it is published: ``config.json`` says the architecture, ``preprocessor_config.json`` what the
model wants to see. Code that a repository brings is never run. ``--checkpoint`` takes the folder of a downloaded one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmcache.errors import ModelError
from fmcache.extract.models import open_clip_names, timm_names
from fmcache.extract.models.bert import from_transformers
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.configured import from_image_processor, read_json
from fmcache.extract.models.text import TextTower, Tokenizer, folder_digest
from fmcache.extract.preprocess import IMAGENET, resize_and_crop

if TYPE_CHECKING:
    import torch

    from fmcache.extract.preprocess import Preprocess


_RAD_DINO = "Perez-Garcia et al., RAD-DINO, Nature Machine Intelligence 2025"
CARDS = (
    Card(
        id="rad-dino",
        title="RAD-DINO ViT-B/14 (chest radiographs)",
        family="hf_names",
        architecture="microsoft/rad-dino",
        dim=768,
        licence="MIT (older copies of its page: MSRLA); for research",
        pools=("pooled", "cls", "mean"),
        published=Published(
            hub="microsoft/rad-dino",
            file="",
            revision="110cbc18d5133582e320b43d53bf5c44e410c936",
            url="https://huggingface.co/microsoft/rad-dino",
        ),
        paper=_RAD_DINO,
        notes="518 pixels; mean and std are read from its preprocessor_config.json.",
    ),
    Card(
        id="medsiglip",
        title="MedSigLIP 448 (radiographs, skin, fundus, pathology)",
        family="hf_names",
        architecture="google/medsiglip-448",
        dim=1152,
        licence="Health AI Developer Foundations terms",
        pools=("projected", "pooled"),
        published=Published(
            hub="google/medsiglip-448",
            file="",
            url="https://huggingface.co/google/medsiglip-448",
            gated="Accept the Health AI Developer Foundations terms at https://huggingface.co/google/medsiglip-448.",
        ),
        text=64,
        paper="Sellergren et al., MedGemma Technical Report, 2025",
        notes="Texts are padded to 64 tokens; FairMedFM pads to the longest, which moves SigLIP's embeddings.",
    ),
)
ALIASES: dict[str, str] = {}


def named(id: str, name: str) -> Card:
    """A card for what follows ``hf/``."""
    return Card(
        id=id,
        title=f"{name} on the hub",
        family="hf_names",
        architecture=name,
        dim=None,
        licence="see the model's page",
        published=Published(hub=name, file="", url=f"https://huggingface.co/{name}"),
    )


def build(card: Card, weights: Weights, preprocess: Preprocess | None) -> Network:
    """The model of a folder; its heads are what the model gives: ``projected``, ``pooled``, ``cls``, ``mean``."""
    folder = weights.folder
    if folder is None:
        raise ModelError(f"{card.id} needs its configuration.", "There is none.", "Type: --checkpoint DIR")
    if (folder / open_clip_names.CONFIG).is_file():
        return open_clip_names.build(card, weights, preprocess)
    config = read_json(folder / "config.json")
    if "architecture" in config and "model_type" not in config:
        inner = replace(card, architecture=config["architecture"])
        own: Any = preprocess or timm_names.complete(inner).preprocess
        return timm_names.build(inner, weights, own)
    return _transformers(card, weights, preprocess, folder)


def _transformers(card: Card, weights: Weights, preprocess: Preprocess | None, folder: Path) -> Network:
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model: Any = AutoModel._model_mapping[type(config)]
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(
            f"transformers cannot build {card.id}.",
            (str(error).strip().splitlines() or [type(error).__name__])[0][:200],
            "Repositories that bring code of their own are not run; name another model.",
        ) from None
    if isinstance(model, (list, tuple)):
        model = model[0]
    state = _without_head(weights.state, getattr(model, "base_model_prefix", ""))
    module = from_transformers(model, config, state, card)
    file = folder / "preprocessor_config.json"
    side = _side(config)
    own = preprocess or (
        from_image_processor(read_json(file), side)
        if file.is_file()
        else resize_and_crop(side, side, IMAGENET)
    )
    if hasattr(module, "get_image_features") and hasattr(module, "get_text_features"):
        return Network(module, _two_towers(module), own, _text(card, module, config, folder))
    return Network(module, _one_tower(module, own), own)


def _without_head(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Weights that were saved with a task's head: its body only."""
    inner = f"{prefix}."
    if prefix and any(name.startswith(inner) for name in state):
        return {name.removeprefix(inner): of for name, of in state.items() if name.startswith(inner)}
    return dict(state)


def _two_towers(module: Any) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    def projected(x: torch.Tensor) -> torch.Tensor:
        given = module.get_image_features(pixel_values=x)
        return given if hasattr(given, "shape") else given.pooler_output

    def pooled(x: torch.Tensor) -> torch.Tensor:
        return module.vision_model(pixel_values=x).pooler_output

    return {"projected": projected, "pooled": pooled}


def _one_tower(module: Any, preprocess: Preprocess) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """``pooled`` where the model has a pooler, the tokens else; maps are averaged over space."""
    import torch

    side = preprocess.geometry.side
    with torch.inference_mode():
        told = module(pixel_values=torch.zeros(1, 3, side, side))
    hidden = told.last_hidden_state

    def pooled(x: torch.Tensor) -> torch.Tensor:
        return module(pixel_values=x).pooler_output.flatten(1)

    def cls(x: torch.Tensor) -> torch.Tensor:
        return module(pixel_values=x).last_hidden_state[:, 0]

    def mean(x: torch.Tensor) -> torch.Tensor:
        given = module(pixel_values=x).last_hidden_state
        return given.mean((2, 3)) if given.ndim == 4 else given.mean(1)

    heads: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    if getattr(told, "pooler_output", None) is not None:
        heads["pooled"] = pooled
    if hidden.ndim == 3:
        heads["cls"] = cls
    heads["mean"] = mean
    return heads


class _Tokens:
    """A tokenizer of transformers, padded to the context: SigLIP's texts are embedded with their padding."""

    def __init__(self, tokenizer: Any, context: int, digest: str) -> None:
        self._tokenizer, self._context, self._digest = tokenizer, context, digest

    def __call__(self, sentences: Sequence[str]) -> dict[str, torch.Tensor]:
        given = self._tokenizer(
            list(sentences),
            padding="max_length",
            max_length=self._context,
            truncation=True,
            return_tensors="pt",
        )
        return {
            "ids": given["input_ids"],
            **({"mask": given["attention_mask"]} if "attention_mask" in given else {}),
        }

    def document(self) -> dict[str, Any]:
        return {
            "kind": "transformers",
            "context": self._context,
            "padding": "context",
            "vocabulary": self._digest,
        }


def _text(card: Card, module: Any, config: Any, folder: Path) -> TextTower:
    context = int(config.text_config.max_position_embeddings)
    with_mask = config.model_type not in ("siglip", "siglip2")

    def tokenizer() -> Tokenizer:
        from transformers import AutoTokenizer

        try:
            made = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the library raises whatever its parts raise
            raise ModelError(
                f"The tokenizer of {card.id} cannot be read.",
                (str(error).strip().splitlines() or [type(error).__name__])[0][:200],
                f"Fetch the tokenizer's files of https://huggingface.co/{card.published.hub} into {folder}.",
            ) from None
        return _Tokens(made, context, folder_digest(folder))

    def encode(tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        mask = {"attention_mask": tokens["mask"]} if with_mask and "mask" in tokens else {}
        given = module.get_text_features(input_ids=tokens["ids"], **mask)
        return given if hasattr(given, "shape") else given.pooler_output

    bias = getattr(module, "logit_bias", None)
    scale = float(module.logit_scale.exp()) if hasattr(module, "logit_scale") else 1.0
    return TextTower(tokenizer, encode, scale, 0.0 if bias is None else float(bias))


def _side(config: Any) -> int:
    size: Any = getattr(config, "image_size", None) or getattr(
        getattr(config, "vision_config", None), "image_size", 224
    )
    return int(size[0] if isinstance(size, (list, tuple)) else size)
