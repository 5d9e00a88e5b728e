"""TinyViT as MobileSAM and TinySAM use it: an image encoder of 5 million parameters for SAM's decoder.

Four stages of 64, 128, 160 and 320 channels at 1/4, 1/8, 1/16 and again 1/16 of the side (the last merge does not
halve), so that a picture of 1024 pixels becomes the map of 64 x 64 x 256 that SAM's decoder expects.

Source: Wu et al., TinyViT (ECCV 2022); Zhang et al., MobileSAM (2023). Module names are those of the published files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
UNUSED = ("norm_head.", "head.")  # the classifier of its pre-training, in the published files


class ConvNorm(nn.Sequential):
    """A convolution without bias, then batch normalisation."""

    def __init__(
        self, channels: int, out: int, kernel: int = 1, stride: int = 1, pad: int = 0, groups: int = 1
    ):
        super().__init__()
        self.add_module("c", nn.Conv2d(channels, out, kernel, stride, pad, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out))


class Stem(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, out // 2, 3, 2, 1), nn.GELU(), ConvNorm(out // 2, out, 3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted residual of expansion 4; the activation comes after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv1 = ConvNorm(channels, wide)
        self.conv2 = ConvNorm(wide, wide, 3, 1, 1, groups=wide)
        self.conv3 = ConvNorm(wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Merge(nn.Module):
    """To the next stage: more channels, and half the side, except before the last stage."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, out)
        self.conv2 = ConvNorm(out, out, 3, 1 if out == WIDTHS[-1] else 2, 1, groups=out)
        self.conv3 = ConvNorm(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Attention within a window, with a learnt bias for every |dy|, |dx|; its layer norm is inside."""

    offsets: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        place = torch.stack([y.flatten(), x.flatten()])
        away = (place[:, :, None] - place[:, None, :]).abs()  # [2, window², window²]
        self.register_buffer("offsets", away[0] * window + away[1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, window², c] → the same."""
        b, n, c = x.shape
        # head by head, query, key and value lie beside each other
        qkv = self.qkv(self.norm(x)).view(b, n, self.heads, 3, c // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.offsets].to(q.dtype)[None]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    """Layer norm and two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """Window attention, a 3 x 3 convolution channel by channel, an MLP. [b, h, w, c] → the same."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.mlp = Mlp(channels)
        self.local_conv = ConvNorm(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(x)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)

    def _attend(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        s = self.window
        x = F.pad(x, (0, 0, 0, -w % s, 0, -h % s))
        down, across = x.shape[1] // s, x.shape[2] // s
        x = x.view(b, down, s, across, s, c).transpose(2, 3).reshape(b * down * across, s * s, c)
        x = self.attn(x).view(b, down, across, s, s, c).transpose(2, 3).reshape(b, down * s, across * s, c)
        return x[:, :h, :w]


class Stage(nn.Module):
    """The blocks of one width and the merge after them. [b, c, h, w] → the same or the next width."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width = WIDTHS[index]
        self.convolutional = index == 0
        self.blocks = nn.Sequential(
            *(
                MBConv(width) if self.convolutional else Block(width, HEADS[index], WINDOWS[index])
                for _ in range(DEPTHS[index])
            )
        )
        last = index == len(WIDTHS) - 1
        self.downsample = nn.Identity() if last else Merge(width, WIDTHS[index + 1])

    def forward(self, x: Tensor) -> Tensor:
        if self.convolutional:
            return self.downsample(self.blocks(x))
        return self.downsample(self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class TinyViT(nn.Module):
    """[b, 3, 1024, 1024] → [b, 256, 64, 64]."""

    img_size = 1024

    def __init__(self, out: int = 256) -> None:
        from segment_anything.modeling.common import LayerNorm2d

        super().__init__()
        self.patch_embed = Stem(WIDTHS[0])
        self.layers = nn.Sequential(*(Stage(index) for index in range(len(WIDTHS))))
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], out, 1, bias=False),
            LayerNorm2d(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            LayerNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.layers(self.patch_embed(x)))
