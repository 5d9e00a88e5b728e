"""CLIP and the models that were trained from it: two transformers and two projections into one space.

Files come as OpenAI published them (``visual.transformer.resblocks…``, a TorchScript archive with three extra
integers), or with the names of transformers (``vision_model.encoder.layers…``); both are read. All cards here use
QuickGELU, as OpenAI's weights do: the ordinary GELU would move an embedding by up to 0.04.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly, quiet
from fmcache.extract.models.text import ClipTokenizer, TextTower
from fmcache.extract.preprocess import CLIP, IMAGENET, Geometry, Normalise, Preprocess, resize_and_crop

if TYPE_CHECKING:
    import torch

_NATIVE = resize_and_crop(224, 224, CLIP)
_PAPER = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"
_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_FAIRMEDFM = "FairMedFM uses ViT-B/32; its zero-shot scale is 100."


def _openai(size: str, arch: str, dim: int, url: str, revision: str, side: int = 224) -> Card:
    return Card(
        id=f"clip-vit-{size}",
        title=f"CLIP ViT-{size[0].upper()}/{size[1:].removeprefix('-')}",
        family="clip",
        architecture=arch,
        dim=dim,
        licence="MIT",
        pools=("projected", "cls"),
        preprocess=_NATIVE if side == 224 else resize_and_crop(side, side, CLIP),
        published=Published(
            hub=f"openai/clip-vit-{'base' if size[0] == 'b' else 'large'}-patch{size[1:]}",
            revision=revision,
            url=f"{_OPENAI}/{url}",
        ),
        text=77,
        paper=_PAPER,
        notes=_FAIRMEDFM,
    )


def _tuned(id: str, title: str, arch: str, licence: str, where: Published, **more: object) -> Card:
    dim = 768 if "L-14" in arch else 512
    facts: dict[str, object] = {"preprocess": _NATIVE, **more}
    return Card(
        id=id, title=title, family="clip", architecture=arch, dim=dim, licence=licence, pools=("projected", "cls"),
        published=where, text=77, **facts,  # type: ignore[arg-type]
    )  # fmt: skip


CARDS = (
    _openai(
        "b32", "ViT-B-32-quickgelu", 512,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    ),
    _openai(
        "b16", "ViT-B-16-quickgelu", 512,
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
        "57c216476eefef5ab752ec549e440a49ae4ae5f3",
    ),
    _openai(
        "l14", "ViT-L-14-quickgelu", 768,
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        "32bd64288804d66eefd0ccbe215aa642df71cc41",
    ),
    _tuned(
        "pubmedclip",
        "PubMedCLIP ViT-B/32 (ROCO)",
        "ViT-B-32-quickgelu",
        "MIT",
        Published(
            hub="flaviagiammarino/pubmed-clip-vit-base-patch32",
            file="pytorch_model.bin",
            url="https://huggingface.co/sarahESL/PubMedCLIP (PubMedCLIP_ViT32.pth)",
        ),
        paper="Eslami et al., PubMedCLIP, Findings of EACL 2023",
        notes="It was fine-tuned with ImageNet's mean and std; the published usage, as here, is CLIP's. "
        "FairMedFM scales its logits by exp(0.01) / exp(0.07) more.",
    ),
    _tuned(
        "chexzero",
        "CheXzero ViT-B/32 (MIMIC-CXR)",
        "ViT-B-32-quickgelu",
        "MIT",
        Published(url="https://github.com/rajpurkarlab/CheXzero (a folder on Google Drive, best_64_….pt)"),
        preprocess=Preprocess(
            Geometry("fit-square", 320, "lanczos", None, grey=True),
            Normalise((101.48761,) * 3, (83.43944,) * 3, 1.0),
            float_side=224,
        ),
        paper="Tiu et al., Expert-level detection of pathologies, Nature Biomedical Engineering 2022",
        notes="The paper averages ten checkpoints: give them one by one. Prompts in pairs: --prompts chexzero. "
        "Its data_process.py fits the whole radiograph into a black square of 320 pixels; zero_shot.py normalises that "
        "and resizes it to 224 in floating point, without antialiasing (torchvision 0.11).",
        version=2,
    ),
    _tuned(
        "monet",
        "MONET ViT-L/14 (dermatology)",
        "ViT-L-14-quickgelu",
        "CC BY-NC-SA 4.0",
        Published(
            hub="chanwkim/monet",
            file="pytorch_model.bin",
            url="https://aimslab.cs.washington.edu/MONET/weight_clip.pt",
        ),
        preprocess=resize_and_crop(224, 224, IMAGENET),
        non_commercial=True,
        paper="Kim et al., Transparent medical image AI via an image-text foundation model, Nature Medicine 2024",
        notes="Its own code normalises with ImageNet's mean and std, not CLIP's.",
    ),
    _tuned(
        "plip",
        "PLIP ViT-B/32 (pathology)",
        "ViT-B-32-quickgelu",
        "see its page",
        Published(hub="vinid/plip", file="pytorch_model.bin", url="https://huggingface.co/vinid/plip"),
        paper="Huang et al., A visual-language foundation model for pathology image analysis, Nature Medicine 2023",
    ),
)  # fmt: skip
ALIASES = {"clip": "clip-vit-b32", "clip-vitb32": "clip-vit-b32", "clip-vitb16": "clip-vit-b16"}
# integers in OpenAI's archives that describe the model; tables of positions that transformers used to save
_NOT_WEIGHTS = re.compile(r"^(input_resolution|context_length|vocab_size|.*\.position_ids)$")


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """Both towers of CLIP; ``projected`` is what the contrastive loss saw, ``cls`` the token before the projection."""
    import open_clip

    with quiet():
        module = open_clip.create_model(card.architecture, load_weights=False)
    state = openai_names(weights.state)
    load_strictly(module, state, card, may_be_missing=("attn_mask",))
    visual = module.visual

    def cls(x: torch.Tensor) -> torch.Tensor:
        pooled, _ = visual._pool(visual.transformer(visual._embeds(x)))
        return pooled

    tower = TextTower(
        tokenizer=lambda: ClipTokenizer(card.text),
        encode=lambda tokens: module.encode_text(tokens["ids"]),
        logit_scale=float(module.logit_scale.exp()),
    )
    return Network(module, {"projected": visual, "cls": cls}, preprocess, tower)


def openai_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's names from its own or from those of transformers; what is not a weight is left out."""
    kept = {name: tensor for name, tensor in state.items() if not _NOT_WEIGHTS.match(name)}
    if "vision_model.embeddings.class_embedding" not in kept:
        return kept
    import torch

    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in kept.items():
        new = name
        for pattern, by in _FROM_TRANSFORMERS:
            new = re.sub(pattern, by, new)
        renamed[new] = tensor
    for name in [name for name in renamed if ".q_proj." in name]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        renamed[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    for old, by in (
        ("visual_projection.weight", "visual.proj"),
        ("text_projection.weight", "text_projection"),
    ):
        if old in renamed:
            renamed[by] = renamed.pop(old).T.contiguous()
    return renamed


_FROM_TRANSFORMERS = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),  # spelled so in transformers
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
