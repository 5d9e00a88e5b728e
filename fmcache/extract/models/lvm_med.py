"""LVM-Med: SAM's image encoder without a table of positions, pre-trained on 1.3 M medical images.

The embedding is the mean over the tokens before the neck. Relative positions are interpolated to any input size.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly
from fmcache.extract.preprocess import IMAGENET, resize_and_crop

if TYPE_CHECKING:
    import torch

    from fmcache.extract.preprocess import Preprocess

CARDS = (
    Card(
        id="lvm-med",
        title="LVM-Med ViT-B/16",
        family="lvm_med",
        architecture="sam_vit_b_without_positions",
        dim=768,
        licence="CC BY-NC-SA 4.0",
        non_commercial=True,
        pools=("mean", "neck"),
        preprocess=resize_and_crop(224, 224, IMAGENET),
        published=Published(
            url="https://drive.google.com/file/d/1DOM3uyK8SGE5XRF1L6K6K_BWPfpPePRD (lvmmed_vit.pth)"
        ),
        paper="Nguyen et al., LVM-Med, NeurIPS 2023",
        notes="Its own segmentation code feeds 1,024 pixels; FairMedFM feeds 224. The repository ngctnnnn/lvmmed_vit "
        "on the hub has other names and is not this file.",
    ),
)
ALIASES = {"lvmmed": "lvm-med", "medlvm": "lvm-med"}


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """The encoder; ``mean`` before the neck (768), ``neck`` after it (256)."""
    import torch
    from segment_anything.modeling import ImageEncoderViT

    module = ImageEncoderViT(
        depth=12,
        embed_dim=768,
        img_size=1024,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=12,
        patch_size=16,
        qkv_bias=True,
        use_abs_pos=False,
        use_rel_pos=True,
        global_attn_indexes=[2, 5, 8, 11],
        window_size=14,
        out_chans=256,
    )
    load_strictly(module, weights.state, card)

    def tokens(x: torch.Tensor) -> torch.Tensor:
        y = module.patch_embed(x)
        for block in module.blocks:
            y = block(y)
        return y

    def mean(x: torch.Tensor) -> torch.Tensor:
        return tokens(x).mean((1, 2))

    def neck(x: torch.Tensor) -> torch.Tensor:
        return module.neck(tokens(x).permute(0, 3, 1, 2)).mean((2, 3))

    return Network(module, {"mean": mean, "neck": neck}, preprocess)
