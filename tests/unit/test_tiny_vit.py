"""TinyViT's window attention against attention written out pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fmcache.extract.models.tiny_vit import Block, WindowAttention  # noqa: E402

WINDOW, HEADS, WIDTH = 3, 2, 8


def randomised(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    return module.eval()


def test_a_bias_for_every_distance():
    attention = randomised(WindowAttention(WIDTH, HEADS, WINDOW))
    x = torch.randn(2, WINDOW * WINDOW, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got = attention(x)
        qkv = attention.qkv(attention.norm(x)).numpy()
    biases, head = attention.attention_biases.detach().numpy(), WIDTH // HEADS
    places = [(i // WINDOW, i % WINDOW) for i in range(WINDOW * WINDOW)]
    mixed = np.zeros((2, WINDOW * WINDOW, WIDTH))
    for b in range(2):
        for h in range(HEADS):
            q, k, v = (qkv[b, :, h * 3 * head + part * head :][:, :head] for part in range(3))
            for i, (y, x_) in enumerate(places):
                scores = [
                    q[i] @ k[j] / math.sqrt(head) + biases[h, abs(y - v_) * WINDOW + abs(x_ - u)]
                    for j, (v_, u) in enumerate(places)
                ]
                weights = np.exp(scores - np.max(scores))
                mixed[b, i, h * head : (h + 1) * head] = weights / weights.sum() @ v
    weight, bias = attention.proj.weight.detach().numpy(), attention.proj.bias.detach().numpy()
    np.testing.assert_allclose(got, mixed @ weight.T + bias, atol=1e-4)


def test_windows_do_not_see_each_other():
    """A change in one window changes no other, but for the pixel that the 3 x 3 convolution reaches over the edge."""
    block = randomised(Block(WIDTH, HEADS, WINDOW))
    x = torch.randn(1, 6, 7, WIDTH, generator=torch.Generator().manual_seed(2))
    other = x.clone()
    other[0, 4, 6] += 1.0  # the window of rows 3-5 and column 6, padded
    with torch.inference_mode():
        changed = (block(x) - block(other)).abs().amax(-1)[0] > 1e-6
    assert changed[4, 6]
    assert not changed[:2].any()
    assert not changed[:, :5].any()
