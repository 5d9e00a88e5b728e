"""Deterministic pseudo-random weights and inputs for loader parity tests (numpy only, no torch needed).

Bit-exact by construction: Philox4x64 raw words keyed with crc32 of the published state-dict key (no SeedSequence,
no numpy distribution code), the top 24 bits give a uniform in [0, 1), centred and scaled to unit variance in
float64, then multiplied by the std of the rule below, and rounded once to float32 (and from there to the
checkpoint's own dtype, if that is a half type).

Rules, first match wins (the key is the state-dict key exactly as in the published file, wrapper prefix included,
outer container such as 'model' or 'state_dict' not included):
  1 integer / bool tensors    position_ids -> arange; num_batches_tracked -> 0; else "computed" (see CONST)
  2 logit_scale 0-d           ln(1/0.07);  logit_bias -10;  temp 0.07
  3 running_var               1 + 0.05 * |u|        running_mean   0.05 * u
  4 1-d ...weight / gamma*    1 + 0.1 * u           (norm weights, LayerScale)
  5 ...bias (any dim)         0.05 * u
  6 ...proj, text_projection  u / sqrt(shape[0])    (CLIP-style x @ P)
  7 n-d ...weight, n >= 2     u / sqrt(prod(shape[1:]))
  8 anything else             0.2 * u               (tokens, position tables, rel_pos, class_embedding ...)
"""

from __future__ import annotations

import math
import zlib

import numpy as np

PART = 1 << 15  # values at once: what is in the processor's cache is not fetched from memory again


def units(name: str, n: int):
    """n values, uniform with mean 0 and variance 1, from the name alone: parts of PART, float64, in one array."""
    bg = np.random.Philox(key=zlib.crc32(name.encode("utf-8")))
    u = np.empty(min(n, PART))
    for start in range(0, n, PART):
        raw = bg.random_raw(min(PART, n - start))
        raw >>= np.uint64(40)
        part = u[: len(raw)]
        np.multiply(raw, 1 / (1 << 24), out=part)  # a power of two: the product is exact
        part -= 0.5
        part *= math.sqrt(12.0)
        yield start, part


def unit(name: str, n: int) -> np.ndarray:
    """The values of `units` as one array, float64."""
    out = np.empty(n)
    for start, part in units(name, n):
        out[start : start + len(part)] = part
    return out


def is_int(dtype: str) -> bool:
    return dtype.startswith(("int", "uint", "bool"))


def computed(key: str, dtype: str) -> bool:
    """True for integer buffers whose value the architecture computes (relative_position_index and the like)."""
    return is_int(dtype) and not key.endswith(("num_batches_tracked", "position_ids"))


def tensor(key: str, shape, dtype: str = "float32") -> np.ndarray:
    shape = tuple(int(s) for s in shape)
    n = int(np.prod(shape, dtype=np.int64)) if shape else 1
    leaf = key.rsplit(".", 1)[-1]
    if is_int(dtype):
        if leaf == "position_ids":
            return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
        return np.zeros(shape, dtype=dtype)
    if leaf == "logit_scale":
        v = np.full(shape, math.log(1 / 0.07))
    elif leaf == "logit_bias":
        v = np.full(shape, -10.0)
    elif leaf == "temp":
        v = np.full(shape, 0.07)
    else:
        v = np.empty(n, np.float32)
        for start, u in units(key, n):
            v[start : start + len(u)] = scaled(leaf, shape, u)
        v = v.reshape(shape)
    out = v.astype(np.float32, copy=False)
    return out.astype(np.float16) if dtype == "float16" else out


def scaled(leaf: str, shape: tuple, u: np.ndarray) -> np.ndarray:
    """Values of unit variance → those of a tensor of this name and shape, float64."""
    if leaf == "running_var":
        return 1 + 0.05 * np.abs(u)
    if leaf == "running_mean":
        return 0.05 * u
    if len(shape) == 1 and (leaf == "weight" or leaf.startswith("gamma")):
        return 1 + 0.1 * u
    if leaf.endswith("bias"):
        return 0.05 * u
    if leaf.endswith("proj") or leaf == "text_projection":
        return u / math.sqrt(max(1, shape[0]))
    if leaf.endswith("weight") and len(shape) >= 2:
        return u / math.sqrt(max(1, int(np.prod(shape[1:], dtype=np.int64))))
    return 0.2 * u


def image(name: str, shape) -> np.ndarray:
    """Model-space float32 input of unit variance (already 'normalised'), from a name."""
    shape = tuple(shape)
    return unit("input/" + name, int(np.prod(shape))).reshape(shape).astype(np.float32)


def image_u8(name: str, h: int, w: int, c: int = 3) -> np.ndarray:
    """Smooth-ish uint8 HxWxC picture for preprocessing parity: a coarse random grid, nearest-upsampled, plus noise."""
    gh, gw = (h + 15) // 16, (w + 15) // 16
    g = (unit("grid/" + name, gh * gw * c).reshape(gh, gw, c) / math.sqrt(12.0) + 0.5) * 200
    g = g.repeat(16, 0).repeat(16, 1)[:h, :w]
    n = (unit("noise/" + name, h * w * c).reshape(h, w, c) / math.sqrt(12.0) + 0.5) * 55
    return np.floor(g + n).clip(0, 255).astype(np.uint8)
