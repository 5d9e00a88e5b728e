"""SegVol: masks of a volume from points, a box or a sentence.

A volume is [b, 1, 32, 256, 256]; the encoder gives [b, 768, 8, 16, 16], the decoder masks of 32 x 64 x 64. Points and
boxes are array indices of the resized volume. Module names are those of the published file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmcache.extract.models.sam3d import FourierPositions, MaskDecoder, upscaling

SIZE, PATCH, WIDTH, HEADS = (32, 256, 256), (4, 16, 16), 768, 12
GRID = (8, 16, 16)
LOW = (32, 64, 64)
UNUSED = (
    "prompt_encoder.mask_downscaling.",
    "text_encoder.clip_text_model.embeddings.position_ids",
)
SENTENCE = "A computerized tomography of a {}."


class Attention(nn.Module):
    """Multi-head attention, without a bias on query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x)))


class Block(nn.Module):
    """A block of the ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Cut(nn.Module):
    """A volume → its patches, one a row: [b, 1, 32, 256, 256] → [b, 2048, 1024], in array order."""

    def forward(self, x: Tensor) -> Tensor:
        cells = [size for pair in zip(GRID, PATCH, strict=True) for size in pair]
        x = x[:, 0].view(len(x), *cells)
        return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(x), 2048, -1)


class PatchEmbedding(nn.Module):
    """Patches → tokens with their places."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embeddings = nn.Sequential(Cut(), nn.Linear(1024, WIDTH))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 2048, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.patch_embeddings(x) + self.position_embeddings


class Encoder(nn.Module):
    """[b, 1, 32, 256, 256] → [b, 768, 8, 16, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding()
        self.blocks = nn.Sequential(*(Block() for _ in range(12)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.patch_embedding(x)))
        return x.transpose(1, 2).reshape(len(x), WIDTH, *GRID)


class PromptEncoder(nn.Module):
    """Points, a box and a sentence → tokens [p, k, 768]."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = FourierPositions(WIDTH // 2, again=False)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, WIDTH) for _ in range(4))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, WIDTH), nn.Embedding(1, WIDTH)

    def forward(
        self, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, text: Tensor | None
    ) -> Tensor:
        kinds = torch.stack([embedding.get_parameter("weight")[0] for embedding in self.point_embeddings])
        tokens = []
        if points is not None:
            assert labels is not None
            tokens.append(self._places(points) + kinds[labels])
            if boxes is None:
                tokens.append(self.not_a_point_embed.weight[None].expand(len(points), -1, -1))
        if boxes is not None:
            tokens.append(self._places(boxes.view(-1, 2, 3)) + kinds[2:])
        if text is not None:
            tokens.append(text[:, None])
        return torch.cat(tokens, 1)

    def _places(self, indices: Tensor) -> Tensor:
        # each index is divided by the size of the axis that the published code takes, the first two changed
        size = indices.new_tensor([SIZE[1], SIZE[0], SIZE[2]])
        return self.pe_layer((indices + 0.5) / size)


class TextEncoder(nn.Module):
    """CLIP's text tower, and one linear layer to the width of the decoder."""

    def __init__(self) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        self.clip_text_model = CLIPTextModel(CLIPTextConfig())
        self.dim_align = nn.Linear(512, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [p, t] of CLIP's vocabulary → [p, 768]."""
        return self.dim_align(self.clip_text_model(input_ids=ids).pooler_output)


class TextMaskDecoder(MaskDecoder):
    """The decoder; a sentence also adds how alike it is to every place of the upscaled map."""

    def __init__(self) -> None:
        super().__init__(WIDTH, upscaling(WIDTH, nn.LayerNorm((WIDTH // 4, 16, 32, 32))))
        self.txt_align_upscaled_embedding = nn.Linear(WIDTH, WIDTH // 8)


class SegVol(nn.Module):
    """The model; `text` is None where no sentence is used."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = Encoder()
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = TextMaskDecoder()
        self.text_encoder = TextEncoder()

    def decode(
        self,
        maps: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        text: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits [p, 1, 32, 64, 64] and predicted IoU [p, 1].

        Parameters
        ----------
        points, labels : [p, k, 3] array indices and [p, k] (1 inside, 0 outside). boxes : [p, 6], the smallest index
            along each axis, then the largest. text : [p, 768] from the text encoder.
        """
        tokens = self.prompt_encoder(points, labels, boxes, text)
        dense = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1, 1)
        positions = self.prompt_encoder.pe_layer.grid(GRID)
        decoder = self.mask_decoder
        logits, iou, upscaled = decoder(maps + dense, positions, tokens)
        if text is not None:
            alike = decoder.txt_align_upscaled_embedding(text)[:, None] @ upscaled.flatten(2)
            logits = logits + alike.view(-1, 1, *LOW)
        return logits[:, :1], iou[:, :1]
