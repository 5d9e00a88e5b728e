"""Vision transformers pre-trained as masked autoencoders: MedMAE (radiographs), RETFound (fundus, OCT).

The decoder in the file is left. The embedding is the class token after the last norm, as FairMedFM takes it, or the
mean of the patch tokens after it (the official fine-tuning pools before a norm of its own, which these files lack).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly
from fmcache.extract.preprocess import IMAGENET, resize_and_crop

if TYPE_CHECKING:
    import torch

    from fmcache.extract.preprocess import Preprocess

_GATED = "Accept the terms (a form) at https://huggingface.co/YukunZhou/{}."
_RETFOUND = (
    "Zhou et al., A foundation model for generalizable disease detection from retinal images, Nature 2023"
)


def _retfound(id: str, title: str, hub: str, file: str) -> Card:
    return Card(
        id=id,
        title=title,
        family="mae",
        architecture="vit_large_patch16_224",
        dim=1024,
        licence="CC BY-NC 4.0",
        non_commercial=True,
        pools=("cls", "mean"),
        preprocess=resize_and_crop(256, 224, IMAGENET),
        published=Published(hub=f"YukunZhou/{hub}", file=file, gated=_GATED.format(hub)),
        paper=_RETFOUND,
    )


CARDS = (
    Card(
        id="medmae",
        title="Medical MAE ViT-B/16 (0.5 M chest radiographs)",
        family="mae",
        architecture="vit_base_patch16_224",
        dim=768,
        licence="Apache-2.0",
        pools=("cls", "mean"),
        preprocess=resize_and_crop(256, 224, ((0.5056,) * 3, (0.252,) * 3), "bilinear"),
        published=Published(
            url="https://github.com/lambert-x/Medical_MAE (vit-b_CXR_0.5M_mae.pth, on Google Drive)"
        ),
        paper="Xiao et al., Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification, WACV 2023",
    ),
    _retfound(
        "retfound-mae-cfp", "RETFound MAE ViT-L/16, colour fundus", "RETFound_mae_natureCFP",
        "RETFound_mae_natureCFP.pth",
    ),
    _retfound("retfound-mae-oct", "RETFound MAE ViT-L/16, OCT", "RETFound_mae_natureOCT", "RETFound_mae_natureOCT.pth"),
)  # fmt: skip
ALIASES = {"retfound": "retfound-mae-cfp"}
_UNUSED = ("decoder_", "decoder.", "mask_token", "head.", "fc_norm.")


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """The encoder."""
    import timm

    module: Any = timm.create_model(card.architecture, pretrained=False, num_classes=0)
    load_strictly(module, weights.state, card, may_be_unused=_UNUSED)

    def cls(x: torch.Tensor) -> torch.Tensor:
        return module.forward_features(x)[:, 0]

    def mean(x: torch.Tensor) -> torch.Tensor:
        return module.forward_features(x)[:, 1:].mean(1)

    return Network(module, {"cls": cls, "mean": mean}, preprocess)
