"""MedCLIP: Swin-T or ResNet-50 and ClinicalBERT, 512 values each, trained on unpaired radiographs and reports.

The text embedding is the mean over the hidden states 1, 2 and last, and over all positions, padding included: it
depends on the longest sentence of its batch. The prompts of one template are therefore embedded together, as FairMedFM
does, and the key of a sentence contains the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fmcache.extract.models.bert import from_transformers, part
from fmcache.extract.models.biomedclip import linear
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import check_names, load_strictly
from fmcache.extract.models.text import TextTower, Tokenizer, WordPiece, find_vocabulary
from fmcache.extract.preprocess import Geometry, Normalise, Preprocess

if TYPE_CHECKING:
    import torch

_NATIVE = Preprocess(
    Geometry("pad-square", 224, "bicubic", 224, grey=True),
    Normalise((0.5862785803043838,) * 3, (0.27950088968644304,) * 3),
)
_HUB = "emilyalsentzer/Bio_ClinicalBERT"
_REPOSITORY = "https://github.com/RyanWangZf/MedCLIP"


def _card(id: str, title: str, architecture: str, file: str) -> Card:
    return Card(
        id=id,
        title=title,
        family="medclip",
        architecture=architecture,
        dim=512,
        licence="none stated (its setup.py says BSD)",
        pools=("projected", "pooled"),
        preprocess=_NATIVE,
        published=Published(
            url=f"{_REPOSITORY}/raw/main/medclip/{file} (a text that holds the address of a zip)"
        ),
        text=77,
        paper="Wang et al., MedCLIP, EMNLP 2022",
        notes="Its own preprocessing is grey: the image is pasted into the centre of a black square. Put the vocab.txt "
        f"of {_HUB} beside the weights for --kind text.",
    )


CARDS = (
    _card("medclip-vit", "MedCLIP Swin-T", "swin_tiny_patch4_window7_224", "medclip_vit_weight.txt"),
    _card("medclip-resnet50", "MedCLIP ResNet-50", "resnet50", "medclip_resnet_weight.txt"),
)
ALIASES = {"medclip": "medclip-vit", "medclip-resnet": "medclip-resnet50"}


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """Both towers and their projections; ``pooled`` is the image before the projection."""
    import torch
    from transformers import BertConfig, BertModel

    state = weights.state
    known = ("vision_model.", "text_model.model.", "text_model.projection_head.weight", "logit_scale")
    wanted = ("text_model.projection_head.weight", "logit_scale")
    extra = [name for name in state if not name.startswith(known)]
    check_names(card, [name for name in wanted if name not in state], extra)
    module: Any = torch.nn.Module()
    pooled, module.projection = (_swin if card.architecture.startswith("swin") else _resnet)(
        module, state, card
    )
    words = state["text_model.model.embeddings.word_embeddings.weight"].shape[0]
    module.text = from_transformers(
        BertModel,
        BertConfig(vocab_size=words),
        part(state, "text_model.model."),
        card,
        add_pooling_layer=True,
    )
    module.text_projection = linear(state["text_model.projection_head.weight"])

    def encode(tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        hidden = module.text(
            input_ids=tokens["ids"], attention_mask=tokens["mask"], output_hidden_states=True
        ).hidden_states
        mean = torch.stack([hidden[1], hidden[2], hidden[-1]]).permute(1, 0, 2, 3).mean((1, 2))
        return module.text_projection(mean)

    def tokenizer() -> Tokenizer:
        file = find_vocabulary(card.id, weights.folder, ("tokenizer.json", "vocab.txt"), _HUB)
        return WordPiece(file, context=card.text, padding="longest", lowercase=False)

    scale = float(state["logit_scale"].float().exp())
    tower = TextTower(tokenizer, encode, scale, padding_matters=True)
    heads = {"projected": lambda x: module.projection(pooled(x)), "pooled": pooled}
    return Network(module.eval(), heads, preprocess, tower)


_Tower = tuple[Callable[["torch.Tensor"], "torch.Tensor"], "torch.nn.Linear"]


def _swin(module: Any, state: Mapping[str, torch.Tensor], card: Card) -> _Tower:
    from transformers import SwinConfig, SwinModel

    projection = "vision_model.projection_head.weight"
    check_names(card, [projection] if projection not in state else [], [])
    module.vision = from_transformers(SwinModel, SwinConfig(), part(state, "vision_model.model."), card)
    return (lambda x: module.vision(pixel_values=x).pooler_output), linear(state[projection])


def _resnet(module: Any, state: Mapping[str, torch.Tensor], card: Card) -> _Tower:
    import timm

    projection = "vision_model.model.fc.weight"
    check_names(card, [projection] if projection not in state else [], [])
    module.vision = timm.create_model("resnet50", pretrained=False, num_classes=0)
    own = {name: of for name, of in part(state, "vision_model.model.").items() if not name.startswith("fc.")}
    load_strictly(module.vision, own, card)
    return module.vision, linear(state[projection])
