"""EVA-X: EVA-02 transformers with 16-pixel patches and rotary positions, pre-trained on chest radiographs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly
from fmcache.extract.preprocess import resize_and_crop

if TYPE_CHECKING:
    import torch

    from fmcache.extract.preprocess import Preprocess

# mean and std of its fine-tuning on radiographs
_NATIVE = resize_and_crop(256, 224, ((0.49185243,) * 3, (0.28509309,) * 3))


def _card(size: str, dim: int) -> Card:
    return Card(
        id=f"eva-x-{size}",
        title=f"EVA-X ViT-{size[0].upper()}/16 (chest radiographs)",
        family="eva_x",
        architecture=f"eva02_{size}_patch14_224",
        dim=dim,
        licence="MIT",
        pools=("mean", "cls"),
        preprocess=_NATIVE,
        published=Published(
            hub="MapleF/eva_x",
            file=f"eva_x_{size}_patch16_merged520k_mim.pt",
            url="https://huggingface.co/MapleF/eva_x",
        ),
        paper="Yao et al., EVA-X, npj Digital Medicine 2025",
        notes="The keys of the base model were matched with its code's; no weights of it were seen.",
    )


CARDS = (_card("tiny", 192), _card("small", 384), _card("base", 768))
ALIASES = {"eva-x": "eva-x-base"}
_UNUSED = ("mask_token", "lm_head.", "head.", "rope.")


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """The transformer. Files of the pre-training end in ``norm``, those of a fine-tuning in ``fc_norm``."""
    import timm
    from timm.models.eva import checkpoint_filter_fn

    tuned = any(name.endswith("fc_norm.weight") for name in weights.state)
    module: Any = timm.create_model(
        card.architecture, pretrained=False, num_classes=0, patch_size=16, img_size=preprocess.geometry.side,
        ref_feat_shape=(14, 14), global_pool="avg" if tuned else "token",
    )  # fmt: skip
    state = checkpoint_filter_fn(dict(weights.state), module)
    state = {
        name: tensor
        for name, tensor in state.items()
        if not name.endswith((".rope.freqs_cos", ".rope.freqs_sin"))
    }
    load_strictly(module, state, card, may_be_unused=_UNUSED)

    def mean(x: torch.Tensor) -> torch.Tensor:
        return module.fc_norm(module.forward_features(x)[:, 1:].mean(1))

    def cls(x: torch.Tensor) -> torch.Tensor:
        return module.forward_features(x)[:, 0]

    return Network(module, {"mean": mean, "cls": cls}, preprocess)
