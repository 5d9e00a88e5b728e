"""The SAM family on pictures: SAM, MedSAM, MobileSAM, TinySAM, SAM-Med2D and FT-SAM.

All have the prompt encoder and the mask decoder of SAM, which the `segment-anything` package brings; they differ in the
image encoder and in the side of the picture. Module names are those of the published files.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fmcache.extract.torchvision_fix import make_torchvision_importable

make_torchvision_importable()  # segment_anything imports torchvision

from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

PATCH, OUT = 16, 256
# width, depth, heads, blocks that see the whole picture
VIT: Mapping[str, tuple[int, int, int, tuple[int, ...]]] = {
    "b": (768, 12, 12, (2, 5, 8, 11)),
    "l": (1024, 24, 16, (5, 11, 17, 23)),
    "h": (1280, 32, 16, (7, 15, 23, 31)),
}


def build_sam(encoder: str, side: int = 1024) -> Sam:
    """An untrained member of the family.

    Parameters
    ----------
    encoder : "b", "l", "h" (SAM's ViT), "b-adapters" (SAM-Med2D), "tiny" (MobileSAM, TinySAM).
    side : of the square picture, in pixels.
    """
    if encoder == "tiny":
        from fmcache.extract.models.tiny_vit import TinyViT

        image_encoder: Any = TinyViT(OUT)
    else:
        image_encoder = _vit(encoder.removesuffix("-adapters"), side)
        if encoder.endswith("-adapters"):
            width = VIT[encoder[0]][0]
            for block in image_encoder.blocks:
                block.__class__ = AdaptedBlock
                block.Adapter = Adapter(width)
    grid = (side // PATCH, side // PATCH)
    return Sam(
        image_encoder,
        PromptEncoder(OUT, grid, (side, side), 16),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=OUT, mlp_dim=2048, num_heads=8),
            transformer_dim=OUT,
        ),
    )


def _vit(size: str, side: int) -> ImageEncoderViT:
    width, depth, heads, everywhere = VIT[size]
    return ImageEncoderViT(
        img_size=side,
        patch_size=PATCH,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        out_chans=OUT,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=everywhere,
    )


class Adapter(nn.Module):
    """SAM-Med2D's adapter beside the MLP of a block: channels reweighted, then a bottleneck of half the side.

    [b, h, w, c] → the same: norm(x + up(relu(down(s · x)))), with s one weight a channel (squeeze and excitation).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.channel = nn.Sequential(
            nn.Linear(width, width // 4, bias=False),
            nn.ReLU(),
            nn.Linear(width // 4, width, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weighted = x * self.channel(x.mean((1, 2)))[:, None, None]
        return self.norm(x + self.spatial(weighted.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class AdaptedBlock(Block):  # type: ignore[misc]
    """A block of SAM's ViT with an adapter beside its MLP."""

    Adapter: Adapter

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm1(x)
        if self.window_size > 0:
            size = seen.shape[1:3]
            seen, padded = window_partition(seen, self.window_size)
            seen = window_unpartition(self.attn(seen), self.window_size, padded, size)
        else:
            seen = self.attn(seen)
        x = x + seen
        y = self.norm2(x)
        return x + self.mlp(y) + self.Adapter(y)


def decode(
    sam: Sam, maps: Tensor, points: Tensor | None, boxes: Tensor | None, multimask: bool
) -> tuple[Tensor, Tensor]:
    """Masks for one kind of prompt, one prompt a row; rows may belong to different pictures.

    Parameters
    ----------
    maps : [p, 256, g, g], the encoder's map of each row's picture.
    points : [p, k, 2] (x, y) in pixels of the model's square, all of them inside the object; or None.
    boxes : [p, 4] XYXY in the same pixels; or None.
    multimask : three masks, for a prompt that may mean several things; else the one.

    Returns
    -------
    low-resolution logits [p, m, 4g, 4g] and predicted IoU [p, m], with m = 3 or 1.
    """
    inside = None if points is None else (points, torch.ones(points.shape[:2], device=points.device))
    sparse, dense = sam.prompt_encoder(points=inside, boxes=boxes, masks=None)
    # the decoder repeats one picture over its prompts; giving it the sum of map and dense prompt instead lets the
    # prompts of several pictures share a batch, and is the very same sum
    nothing = maps.new_zeros((1, *maps.shape[1:]))
    return sam.mask_decoder(
        image_embeddings=nothing,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense + maps,
        multimask_output=multimask,
    )
