"""The SAM family on volumes: SAM-Med3D and FastSAM3D.

A volume is a cube of 128 voxels, [b, 1, 128, 128, 128]; the encoder gives [b, 384, 8, 8, 8] and the decoder masks of
32³. Points are array indices of the cube. Module names are those of the published files; attention of the decoder and
its small layers come from the `segment-anything` package.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmcache.extract.torchvision_fix import make_torchvision_importable

make_torchvision_importable()  # segment_anything imports torchvision

from segment_anything.modeling import TwoWayTransformer  # noqa: E402
from segment_anything.modeling.common import MLPBlock  # noqa: E402
from segment_anything.modeling.image_encoder import get_rel_pos  # noqa: E402
from segment_anything.modeling.mask_decoder import MLP  # noqa: E402

SIDE, PATCH, WIDTH, OUT = 128, 16, 768, 384
GRID = SIDE // PATCH
WINDOW, EVERYWHERE = 14, (2, 5, 8, 11)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [b, c, …]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class Attention(nn.Module):
    """Attention over a cube of tokens, with relative positions along each axis. [b, s, s, s, c] → the same."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        for axis in "dhw":
            setattr(self, f"rel_pos_{axis}", nn.Parameter(torch.zeros(2 * side - 1, width // heads)))

    def forward(self, x: Tensor) -> Tensor:
        b, *sides, c = x.shape
        n = math.prod(sides)
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).flatten(1, 2)
        cube = q.view(-1, *sides, c // self.heads)
        d, h, w = (
            torch.einsum(
                f"ndhwc,{axis}kc->ndhwk", cube, get_rel_pos(side, side, getattr(self, f"rel_pos_{axis}"))
            )
            for axis, side in zip("dhw", sides, strict=True)
        )
        # [n, query d, h, w, key d, h, w]: the published code sets the three terms one axis too far to the right (all
        # sides are equal, so nothing complains), and the weights were trained with that
        bias = d[:, :, :, :, None, None] + h[:, :, :, None, :, None] + w[:, :, :, None, None, :]
        bias = bias.expand(len(q), *sides, *sides).reshape(len(q), n, n)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.view(b, self.heads, n, -1).transpose(1, 2).reshape(b, *sides, c))


class Block(nn.Module):
    """A block of SAM-Med3D: within windows of 14 (the grid of 8 padded to that), or over the whole grid."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.attn = Attention(WIDTH, 12, window or GRID)
        self.mlp = MLPBlock(WIDTH, 4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        seen, pad = self.norm1(x), max(0, self.window - GRID)
        seen = self.attn(F.pad(seen, (0, 0, *(0, pad) * 3)))[:, :GRID, :GRID, :GRID]
        x = x + seen
        return x + self.mlp(self.norm2(x))


class StudentBlock(nn.Module):
    """A block of FastSAM3D's student: six heads, and the second norm is on the residual path; `attends` or MLP only."""

    def __init__(self, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        if attends:
            self.norm1 = nn.LayerNorm(WIDTH, 1e-6)
            self.attn = Attention(WIDTH, 6, GRID)
        self.norm2 = nn.LayerNorm(WIDTH, 1e-6)
        self.mlp = MLPBlock(WIDTH, 4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.attends:
            x = x + self.attn(self.norm1(x))
        x = self.norm2(x)
        return x + self.mlp(x)


class Patches(nn.Module):
    """Cubes of 16 voxels → tokens, [b, 8, 8, 8, 768]."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, WIDTH, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).movedim(1, -1)


class Encoder(nn.Module):
    """[b, 1, 128, 128, 128] → [b, 384, 8, 8, 8]."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.patch_embed = Patches()
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID, GRID, GRID, WIDTH))
        self.blocks = nn.Sequential(*blocks)
        self.neck = nn.Sequential(
            nn.Conv3d(WIDTH, OUT, 1, bias=False),
            ChannelNorm(OUT),
            nn.Conv3d(OUT, OUT, 3, padding=1, bias=False),
            ChannelNorm(OUT),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.blocks(self.patch_embed(x) + self.pos_embed).movedim(-1, 1))


class FourierPositions(nn.Module):
    """Random Fourier features of a position in the unit cube; with `again` the sines once more, as SAM-Med3D has it."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int, again: bool) -> None:
        super().__init__()
        self.again = again
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(3, features))

    def forward(self, places: Tensor) -> Tensor:
        """[…, 3] in [0, 1] → […, 2 · features or 3 · features]."""
        angle = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        parts = [angle.sin(), angle.cos(), angle.sin()]
        return torch.cat(parts if self.again else parts[:2], -1)

    def grid(self, sides: tuple[int, ...]) -> Tensor:
        """[1, features, *sides]: every cell's centre. The first two axes change places, as in the official code."""
        axes = [
            (torch.arange(side, device=self.positional_encoding_gaussian_matrix.device) + 0.5) / side
            for side in sides
        ]
        first, second, third = torch.meshgrid(*axes, indexing="ij")
        return self(torch.stack([second, first, third], -1)).movedim(-1, 0)[None]


class PromptEncoder(nn.Module):
    """Points (and an earlier low-resolution mask) → tokens [p, k + 1, c] and a dense prompt [p, c, 8, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = FourierPositions(OUT // 3, again=True)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, OUT) for _ in range(2))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, OUT), nn.Embedding(1, OUT)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, 4, 2, 2),
            ChannelNorm(4),
            nn.GELU(),
            nn.Conv3d(4, 16, 2, 2),
            ChannelNorm(16),
            nn.GELU(),
            nn.Conv3d(16, OUT, 1),
        )

    def forward(self, points: Tensor, labels: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kinds = torch.stack([embedding.get_parameter("weight")[0] for embedding in self.point_embeddings])
        tokens = self.pe_layer((points + 0.5) / SIDE) + kinds[labels]
        end = self.not_a_point_embed.weight[None].expand(len(points), -1, -1)
        if mask is None:  # the official inference begins with an empty mask, not with `no_mask_embed`
            mask = points.new_zeros((1, 1, *(4 * GRID,) * 3))
        return torch.cat([tokens, end], 1), self.mask_downscaling(mask)


class MaskDecoder(nn.Module):
    """SAM's decoder with one more axis: [p, c, 8, 8, 8] and tokens → logits [p, 4, 32, 32, 32] and IoU [p, 4]."""

    def __init__(self, width: int, upscaling: nn.Sequential) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=2048, num_heads=8)
        self.iou_token, self.mask_tokens = nn.Embedding(1, width), nn.Embedding(4, width)
        self.output_upscaling = upscaling
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(width, width, width // 8, 3) for _ in range(4))
        self.iou_prediction_head = MLP(width, 256, 4, 3)

    def forward(self, maps: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Also returns the upscaled map [p, c / 8, …]."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(tokens), -1, -1)
        tokens = torch.cat([own, tokens], 1)
        sides = maps.shape[2:]
        # the transformer takes pictures and flattens them: a volume is a picture one pixel wide to it
        flat, flat_positions = maps.flatten(2)[..., None], positions.flatten(2)[..., None]
        tokens, seen = self.transformer(flat, flat_positions.expand(len(flat), -1, -1, -1), tokens)
        upscaled = self.output_upscaling(seen.transpose(1, 2).reshape(len(seen), -1, *sides))
        weights = torch.stack(
            [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], 1
        )
        logits = (weights @ upscaled.flatten(2)).view(len(seen), -1, *upscaled.shape[2:])
        return logits, self.iou_prediction_head(tokens[:, 0]), upscaled


def upscaling(width: int, norm: nn.Module) -> nn.Sequential:
    """Twice the side, twice: width → width / 4 → width / 8 channels."""
    return nn.Sequential(
        nn.ConvTranspose3d(width, width // 4, 2, 2),
        norm,
        nn.GELU(),
        nn.ConvTranspose3d(width // 4, width // 8, 2, 2),
        nn.GELU(),
    )


class Sam3D(nn.Module):
    """SAM-Med3D, or FastSAM3D with the student's encoder."""

    def __init__(self, student: bool = False) -> None:
        super().__init__()
        if student:
            blocks: list[nn.Module] = [StudentBlock(attends=index >= 2) for index in range(6)]
        else:
            blocks = [Block(0 if index in EVERYWHERE else WINDOW) for index in range(12)]
        self.image_encoder = Encoder(blocks)
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder(OUT, upscaling(OUT, ChannelNorm(OUT // 4)))

    def decode(
        self, maps: Tensor, points: Tensor, labels: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [p, 1, 32, 32, 32] and predicted IoU [p, 1] for points [p, k, 3] (array indices), labels [p, k]."""
        tokens, dense = self.prompt_encoder(points, labels, mask)
        positions = self.prompt_encoder.pe_layer.grid(tuple(maps.shape[2:]))
        logits, iou, _ = self.mask_decoder(maps + dense, positions, tokens)
        return logits[:, :1], iou[:, :1]
