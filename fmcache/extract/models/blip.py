"""BLIP: ViT-B/16 and a BERT that are contrasted in 256 dimensions (``model_base_capfilt_large.pth`` of LAVIS).

The file also holds momentum twins, a captioner and a matching head; none of them makes an embedding. The image goes to
224 × 224 without regard to its proportions. Layer norms of the image tower have eps 1e-6, of the text tower 1e-12.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fmcache.extract.models.bert import from_transformers, part
from fmcache.extract.models.biomedclip import linear
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import check_names, load_strictly
from fmcache.extract.models.text import TextTower, Tokenizer, WordPiece, find_vocabulary
from fmcache.extract.preprocess import CLIP, Geometry, Normalise, Preprocess

if TYPE_CHECKING:
    import torch

CARDS = (
    Card(
        id="blip",
        title="BLIP ViT-B/16 (CapFilt-L, 129 M)",
        family="blip",
        architecture="vit_base_patch16_224",
        dim=768,
        licence="BSD-3-Clause",
        pools=("cls", "projected"),
        preprocess=Preprocess(Geometry("squash", 224, "bicubic", None), Normalise(*CLIP)),
        published=Published(
            url="https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_base_capfilt_large.pth"
        ),
        text=512,
        paper="Li et al., BLIP, ICML 2022",
        notes="`projected` (256) is what lies beside the texts: extract with --pool projected for clip-zs. "
        "Salesforce/blip-itm-base-coco on the hub is fine-tuned on COCO and another model. "
        "FairMedFM feeds the dataset's mean and std and does not squash.",
    ),
)
ALIASES: dict[str, str] = {}
VOCABULARY = ("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594")
_USED = ("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj.", "temp")
_UNUSED = ("text_decoder.", "itm_head.", "image_queue", "text_queue", "queue_ptr", "ptr_queue",
           "visual_encoder_m.", "text_encoder_m.", "vision_proj_m.", "text_proj_m.")  # fmt: skip


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """Both towers and their projections; ``cls`` is the image token before the projection."""
    import timm
    import torch
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    state = weights.state
    wanted = ("vision_proj.weight", "vision_proj.bias", "text_proj.weight", "text_proj.bias", "temp")
    extra = [name for name in state if not name.startswith(_USED + _UNUSED)]
    check_names(card, [name for name in wanted if name not in state], extra)
    module: Any = torch.nn.Module()
    module.vision = timm.create_model(card.architecture, pretrained=False, num_classes=0)
    load_strictly(module.vision, part(state, "visual_encoder."), card)
    module.vision_projection = linear(state["vision_proj.weight"], state["vision_proj.bias"])
    words = state["text_encoder.embeddings.word_embeddings.weight"].shape[0]
    config = BlipTextConfig(
        vocab_size=words, hidden_size=768, encoder_hidden_size=768, num_attention_heads=12, num_hidden_layers=12,
        intermediate_size=3072, layer_norm_eps=1e-12, is_decoder=True,
    )  # fmt: skip
    module.text = from_transformers(
        BlipTextModel, config, part(state, "text_encoder."), card, add_pooling_layer=False
    )
    module.text_projection = linear(state["text_proj.weight"], state["text_proj.bias"])

    def cls(x: torch.Tensor) -> torch.Tensor:
        return module.vision.forward_features(x)[:, 0]

    def encode(tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        hidden = module.text(input_ids=tokens["ids"], attention_mask=tokens["mask"], is_decoder=False)
        return module.text_projection(hidden.last_hidden_state[:, 0])

    tower = TextTower(vocabulary(card, weights), encode, 1 / float(state["temp"]))
    heads = {"cls": cls, "projected": lambda x: module.vision_projection(cls(x))}
    return Network(module.eval(), heads, preprocess, tower)


def vocabulary(card: Card, weights: Weights):  # type: ignore[no-untyped-def]
    """What makes the tokenizer: bert-base-uncased, whose two added words never occur in a plain sentence."""

    def tokenizer() -> Tokenizer:
        hub, revision = VOCABULARY
        file = find_vocabulary(card.id, weights.folder, ("vocab.txt",), hub, revision)
        return WordPiece(file, context=card.text, padding="longest", lowercase=True)

    return tokenizer
