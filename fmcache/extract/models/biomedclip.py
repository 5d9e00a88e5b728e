"""BiomedCLIP: timm's ViT-B/16 and PubMedBERT with a two-layer projection, contrastively trained on PMC-15M.

The published file is open_clip's. open_clip builds the text tower from a configuration that it downloads, and returns
it in training mode, where dropout moves text embeddings by up to 1.8; built here from its parts, it is neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fmcache.extract.models.bert import COMPUTED, from_transformers, part
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import check_names, load_strictly
from fmcache.extract.models.text import TextTower, Tokenizer, WordPiece, find_vocabulary
from fmcache.extract.preprocess import CLIP, resize_and_crop

if TYPE_CHECKING:
    import torch

    from fmcache.extract.preprocess import Preprocess

_HUB = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
CARDS = (
    Card(
        id="biomedclip",
        title="BiomedCLIP ViT-B/16 + PubMedBERT",
        family="biomedclip",
        architecture="vit_base_patch16_224",
        dim=512,
        licence="MIT",
        pools=("projected", "cls"),
        preprocess=resize_and_crop(224, 224, CLIP),
        published=Published(
            hub=_HUB,
            file="open_clip_pytorch_model.bin",
            url=f"https://huggingface.co/{_HUB}",
            revision="9f341de24bfb00180f1b847274256e9b65a3a32e",
            sha256="52cc993c5c5ff962bd0c60931874bc001e7e9b41666a385530f4a036294576be",
        ),
        text=256,
        paper="Zhang et al., BiomedCLIP, arXiv:2303.00915",
    ),
)
ALIASES: dict[str, str] = {}


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """Both towers; ``projected`` is what the contrastive loss saw (512), ``cls`` the token before it (768)."""
    import timm
    import torch
    from transformers import BertConfig, BertModel

    state = weights.state
    known = ("visual.trunk.", "visual.head.proj.weight", "text.transformer.", "text.proj.", "logit_scale")
    extra = [name for name in state if not name.startswith(known) and not name.endswith(COMPUTED)]
    absent = [name for name in ("visual.head.proj.weight", "text.proj.0.weight", "text.proj.2.weight", "logit_scale")
              if name not in state]  # fmt: skip
    check_names(card, absent, extra)
    module: Any = torch.nn.Module()
    trunk = timm.create_model(card.architecture, pretrained=False, num_classes=0)
    module.trunk = load_strictly(trunk, part(state, "visual.trunk."), card)
    module.head = linear(state["visual.head.proj.weight"])
    config = BertConfig(vocab_size=state["text.transformer.embeddings.word_embeddings.weight"].shape[0])
    text = from_transformers(BertModel, config, text_tower(state), card, add_pooling_layer=False)
    module.text = text
    module.text_proj = torch.nn.Sequential(
        linear(state["text.proj.0.weight"]), torch.nn.GELU(), linear(state["text.proj.2.weight"])
    )

    def encode(tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        hidden = module.text(input_ids=tokens["ids"], attention_mask=(tokens["ids"] != 0).long())
        return module.text_proj(hidden.last_hidden_state[:, 0])

    def tokenizer() -> Tokenizer:
        file = find_vocabulary(card.id, weights.folder, ("tokenizer.json", "vocab.txt"), _HUB)
        return WordPiece(file, context=card.text, padding="context", lowercase=True)

    tower = TextTower(tokenizer, encode, float(state["logit_scale"].float().exp()))
    heads: dict[str, Any] = {"projected": lambda x: module.head(module.trunk(x)), "cls": module.trunk}
    return Network(module.eval(), heads, preprocess, tower)


def text_tower(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The BERT of the file; its pooler, which the embedding does not use, is left where a file has one."""
    own = part(state, "text.transformer.")
    return {name: tensor for name, tensor in own.items() if not name.startswith("pooler.")}


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.nn.Linear:
    """A frozen linear layer that has these weights."""
    import torch

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight.float(), **({} if bias is None else {"bias": bias.float()})})
    return layer.requires_grad_(False)
