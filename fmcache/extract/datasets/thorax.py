"""Draws one chest-radiograph-like image: soft tissue, lungs, ribs, spine, heart, noise, and perhaps a lesion.

Coordinates are (x, y) in [-1, 1], y downwards, the patient's right on the left, as a radiograph is hung. Everything is
computed on a 256 grid and enlarged; grain is added at full size. It is no simulation of X-rays: it has just enough
anatomy and variation that a model must find the lesion among things that differ from patient to patient.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 512
_GRID = 256
_FIELDS = 8
_AXIS = np.linspace(-1, 1, _GRID, dtype=np.float32)


def noise_bank(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Smooth fields [8, 256, 256] float32 and grain [4, 512, 512] int8, drawn once and then shifted and flipped."""
    fields = np.zeros((_FIELDS, _GRID, _GRID), np.float32)
    for field in fields:
        for cells, weight in ((8, 0.5), (20, 0.6), (48, 0.5)):
            coarse = np.tile(
                rng.standard_normal((cells, cells), dtype=np.float32), (3, 3)
            )  # no seam when rolled
            smooth = Image.fromarray(coarse).resize((3 * _GRID, 3 * _GRID), Image.Resampling.BICUBIC)
            field += weight * np.asarray(smooth)[_GRID : 2 * _GRID, _GRID : 2 * _GRID]
        field -= field.mean()
        field /= field.std()
    grain = np.round(rng.standard_normal((4, SIDE, SIDE), dtype=np.float32) * 1.6).astype(np.int8)
    return fields, grain


def thorax(
    body: np.random.Generator,
    view: np.random.Generator,
    bank: tuple[np.ndarray, np.ndarray],
    *,
    female: bool,
    age: int,
    lesion: bool,
    lucent: bool = False,
    drain: np.random.Generator | None = None,
) -> np.ndarray:
    """One image, uint8 [512, 512].

    Parameters
    ----------
    body : draws what belongs to the patient (the same at each visit).
    view : draws what belongs to the visit: position, exposure, grain, and where a lesion lies. It is asked for the
        same numbers whether or not `lesion` is set, so that an image without a visible lesion tells nothing of it.
    lucent : the lesion is darker than the lung around it (a cavity or bulla) instead of brighter.
    drain : draws the course of a chest drain; None for no drain.
    """
    fields, grain = bank
    p = body.uniform(-1, 1, 24).astype(np.float32)  # the patient
    q = view.uniform(-1, 1, 16).astype(np.float32)  # the visit
    x, y = _placed(q, scale=1.0 + 0.06 * p[0])

    torso_width = 0.86 + 0.07 * p[1] - (0.05 if female else 0.0)
    torso = _inside(
        np.abs(x / (torso_width + 0.08 * y)) ** 3 + np.maximum(0, -y - 0.72 + 0.35 * x * x) * 3, 0.15
    )
    texture = _pick(fields, body)
    image = 0.03 + torso * (0.60 + 0.05 * p[2] + 0.025 * texture)

    air = np.zeros_like(image)
    for side in (-1, 1):
        centre = side * (0.37 + 0.03 * p[3])
        across = 0.26 + 0.03 * p[4] + (0.0 if female else 0.02)
        width = across * (0.60 + 0.40 * np.clip((y + 0.75) / 0.9, 0, 1))
        dome = 0.50 + 0.08 * p[5] - 0.04 * (side < 0) + 0.16 * ((x - centre) / across) ** 2
        shape = _inside(((x - centre) / width) ** 2 + ((y + 0.05) / (0.66 + 0.05 * p[6])) ** 4, 0.25)
        air = np.maximum(air, shape * np.clip((dome - y) / 0.05 + 0.5, 0, 1))
    heart = _inside(((x - 0.12) / (0.27 + 0.05 * p[7])) ** 2 + ((y - 0.26) / (0.27 + 0.04 * p[8])) ** 2, 0.4)
    mediastinum = np.clip((0.15 + 0.03 * p[9] + 0.04 * np.cos(5 * y + p[10]) - np.abs(x)) / 0.06 + 0.5, 0, 1)
    air *= (1 - 0.85 * heart) * (1 - 0.9 * mediastinum)
    vessels = np.abs(_pick(fields, body))
    image -= air * (0.40 + 0.05 * p[11] - 0.035 * vessels)

    # posterior ribs fall outwards, anterior ones rise: two families of curves, each one cosine of a bent phase
    reach = np.abs(x)
    cage = torso * np.clip((0.80 - reach) / 0.1, 0, 1) * np.clip((0.75 - y) / 0.2, 0, 1)
    spacing = 0.155 + 0.012 * p[12]
    for bend, strength in ((0.45 + 0.1 * p[13], 0.085), (-0.55 + 0.1 * p[14], 0.045)):
        wave = np.cos(2 * np.pi * ((y - bend * reach * reach) / spacing + p[15]))
        image += (strength + 0.02 * p[16]) * np.maximum(wave, 0) ** 3 * cage
    spine = np.clip((0.075 - reach) / 0.03 + 0.5, 0, 1) * torso
    image += spine * (0.05 + 0.03 * np.cos(2 * np.pi * y / (0.115 + 0.008 * p[17])))
    clavicle = np.exp(-(((y + 0.60 + 0.03 * p[18] + 0.18 * (reach - 0.35)) / 0.035) ** 2))
    image += 0.12 * clavicle * np.clip((reach - 0.1) / 0.05, 0, 1) * np.clip((0.75 - reach) / 0.1, 0, 1)
    if female:
        size = 0.27 + 0.05 * p[19]
        for side in (-1, 1):
            fold = ((x - side * 0.42) / size) ** 2 + ((y - 0.33 - 0.06 * p[20]) / (0.85 * size)) ** 2
            image += (0.07 + 0.03 * p[21]) * _inside(fold, 0.25) * torso
    image += 0.0006 * (age - 55) * vessels * air

    lung = 1.0 if q[8] > 0 else -1.0
    centre_x, centre_y = lung * (0.38 + 0.06 * q[9]), -0.10 + 0.30 * q[10]
    radius = 0.135 + 0.025 * q[11]
    distance = ((x - centre_x) / radius) ** 2 + ((y - centre_y) / (radius * (1 + 0.15 * q[12]))) ** 2
    if lesion and lucent:
        image -= (0.20 + 0.05 * q[13]) * _inside(distance, 0.5)
    elif lesion:
        image += (0.42 + 0.05 * q[13]) * _inside(distance, 0.5)

    if drain is not None:
        image += 0.30 * _tube(x, y, drain) * torso

    exposure, contrast = 0.04 * q[6], 1.0 + 0.12 * q[7]
    image = np.clip((image - 0.45) * contrast + 0.45 + exposure, 0, 1) ** (1.0 + 0.15 * q[5])
    large = np.asarray(Image.fromarray(image * 245).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    speck = np.roll(grain[view.integers(len(grain))], tuple(view.integers(0, SIDE, 2)), (0, 1))
    return np.clip(large + speck, 0, 255).astype(np.uint8)


def _placed(q: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The patient's coordinates of each pixel: turned by up to 4 degrees, moved, enlarged."""
    angle, zoom = 0.07 * q[0], scale * (1.0 + 0.05 * q[1])
    x, y = _AXIS[None, :] - 0.06 * q[2], _AXIS[:, None] - 0.06 * q[3]
    cos, sin = np.float32(np.cos(angle) / zoom), np.float32(np.sin(angle) / zoom)
    return cos * x + sin * y, cos * y - sin * x


def _tube(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A drain from the lower chest wall up to the apex of either lung, [256, 256] in [0, 1]: a curve of 64 points."""
    side, t = rng.choice([-1.0, 1.0]), np.linspace(0, 1, 64)[:, None]
    wall, bend, tip = (np.array(at) * (side, 1) for at in ((0.85, 0.35), (0.35, 0.30), (0.33, -0.55)))
    points = (1 - t) ** 2 * wall + 2 * t * (1 - t) * (bend + rng.uniform(-0.08, 0.08, 2)) + t**2 * tip
    points = (points + rng.uniform(-0.06, 0.06, 2)).astype(np.float32)
    distance = np.full(x.shape, np.inf, np.float32)
    for at in points:
        distance = np.minimum(distance, (x - at[0]) ** 2 + (y - at[1]) ** 2)
    return _inside(np.sqrt(distance) / np.float32(0.022), 0.6)


def _inside(q: np.ndarray, softness: float) -> np.ndarray:
    """1 where q < 1, 0 where q > 1, a ramp of `softness` between."""
    return np.clip((1 - q) / np.float32(softness) + 0.5, 0, 1)


def _pick(fields: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    field = fields[rng.integers(len(fields))]
    if rng.integers(2):
        field = field[:, ::-1]
    return np.roll(field, tuple(rng.integers(0, _GRID, 2)), (0, 1))
