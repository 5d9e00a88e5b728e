"""BLIP-2: EVA-CLIP's ViT-g/14 read by 32 queries of a Q-Former, a BERT with cross-attention in every other layer.

LAVIS publishes two files: ``blip2_pretrained.pth`` (the Q-Former and the projections) and ``eva_vit_g.pth`` (the image
tower, float16); ``--checkpoint`` takes the folder that holds both. One file that holds everything is taken as well. The
number of layers is read from the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fmcache.extract.models.bert import from_transformers
from fmcache.extract.models.blip import vocabulary
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.text import TextTower
from fmcache.extract.preprocess import CLIP, Geometry, Normalise, Preprocess

if TYPE_CHECKING:
    import torch

CARDS = (
    Card(
        id="blip2",
        title="BLIP-2 ViT-g/14 + Q-Former (pretrain)",
        family="blip2",
        architecture="blip2_pretrain_vitg",
        dim=768,
        licence="BSD-3-Clause",
        pools=("query0", "mean", "projected", "vit-cls"),
        preprocess=Preprocess(Geometry("squash", 224, "bicubic", None), Normalise(*CLIP)),
        published=Published(
            hub="Salesforce/blip2-itm-vit-g",
            file="",
            url="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/ "
            "(blip2_pretrained.pth and eva_vit_g.pth)",
        ),
        files=("blip2_pretrained.pth", "eva_vit_g.pth"),
        text=512,
        paper="Li et al., BLIP-2, ICML 2023",
        notes="The default is the first query, as FairMedFM takes it. `projected` (32 × 256) lies beside the texts; "
        "a logit is the largest over the queries. 1.2 B parameters: 4.7 GB in float32. The hub's copy lacks the learnt "
        "temperature: 0.07 is taken.",
    ),
)
ALIASES: dict[str, str] = {}
_EVA_BLOCKS = 39  # what BLIP-2 uses; eva_vit_g.pth may hold one more, and a head
_UNUSED = (
    "norm.",
    "fc_norm.",
    "head.",
    "mask_token",
    "Qformer.cls.",
    "language_projection.",
    "language_model.",
    "qformer.cls.",
)


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """Image tower, Q-Former and projections, as transformers builds them."""
    import torch
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    state = transformers_names(weights.state)
    vision_layers = _layers(state, r"vision_model\.encoder\.layers\.(\d+)\.")
    query_layers = _layers(state, r"qformer\.encoder\.layer\.(\d+)\.")
    words = (
        state["embeddings.word_embeddings.weight"].shape[0]
        if "embeddings.word_embeddings.weight" in state
        else 1
    )
    config = Blip2Config(
        vision_config={
            "num_hidden_layers": vision_layers, "hidden_size": 1408, "intermediate_size": 6144,
            "num_attention_heads": 16, "patch_size": 14, "image_size": 224, "layer_norm_eps": 1e-6, "qkv_bias": True,
        },
        qformer_config={
            "num_hidden_layers": query_layers, "vocab_size": words, "use_qformer_text_input": True,
            "cross_attention_frequency": 2, "encoder_hidden_size": 1408,
        },
        num_query_tokens=32,
        image_text_hidden_size=256,
    )  # fmt: skip
    module: Any = from_transformers(Blip2ForImageTextRetrieval, config, state, card)
    module.vision_model.post_layernorm.eps = 1e-5  # LAVIS's ln_vision; transformers has 1e-6

    def queries(x: torch.Tensor) -> torch.Tensor:
        seen = module.vision_model(pixel_values=x).last_hidden_state
        tokens = module.query_tokens.expand(x.shape[0], -1, -1)
        mask = torch.ones(seen.shape[:-1], dtype=torch.long, device=x.device)
        return module.qformer(
            query_embeds=tokens, encoder_hidden_states=seen, encoder_attention_mask=mask
        ).last_hidden_state

    def projected(x: torch.Tensor) -> torch.Tensor:
        return module.vision_projection(queries(x)).flatten(1)

    def encode(tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        embedded = module.embeddings(input_ids=tokens["ids"])
        hidden = module.qformer(query_embeds=embedded, query_length=0, attention_mask=tokens["mask"])
        return module.text_projection(hidden.last_hidden_state[:, 0])

    scale = 1 / float(weights.state["temp"]) if "temp" in weights.state else 1 / 0.07
    tower = TextTower(
        vocabulary(card, weights), encode, scale, image_tokens=int(module.query_tokens.shape[1])
    )
    heads = {
        "query0": lambda x: queries(x)[:, 0],
        "mean": lambda x: queries(x).mean(1),
        "projected": projected,
        "vit-cls": lambda x: module.vision_model(pixel_values=x).last_hidden_state[:, 0],
    }
    return Network(module, heads, preprocess, tower)


def transformers_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of transformers, from those of LAVIS (one file or both) or its own; parts without an embedding are left."""
    import torch

    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_UNUSED) or name == "temp" or name.endswith("position_ids"):
            continue
        if (block := re.match(r"blocks\.(\d+)\.", name)) and int(block[1]) >= _EVA_BLOCKS:
            continue
        new = (
            f"visual_encoder.{name}"
            if re.match(r"(cls_token|pos_embed|patch_embed|blocks)\b", name)
            else name
        )
        for pattern, by in _RENAMED:
            new = re.sub(pattern, by, new)
        out[new] = tensor
    for name in [name for name in out if name.endswith("self_attn.q_bias")]:
        q, v = out.pop(name), out.pop(name.replace("q_bias", "v_bias"))
        out[name.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.zeros_like(q), v])
    return out


def _layers(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for name in state if (match := re.match(pattern, name))), default=0)


_RENAMED = (
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (
        r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.",
        r"vision_model.encoder.layers.\1.self_attn.projection.",
    ),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
    (r"^visual_encoder\.blocks\.", "vision_model.encoder.layers."),
    (r"^ln_vision\.", "vision_model.post_layernorm."),
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"^Qformer\.bert\.embeddings\.", "embeddings."),
    (r"^Qformer\.bert\.", "qformer."),
    (r"^(qformer\..*)\.attention\.self\.", r"\1.attention.attention."),
    (r"^(qformer\..*)\.crossattention\.self\.", r"\1.crossattention.attention."),
    (r"^vision_proj\.", "vision_projection."),
    (r"^text_proj\.", "text_projection."),
)
