"""How a volume becomes what a 3-D model sees, and where its voxels are then.

Volumes come as slices [s, h, w], shown as on a light box. 3-D models take the axes of RAS+: x to the patient's right, y
to the front, z to the head, [x, y, z] (SAM-Med3D, FastSAM3D) or [z, y, x] (SegVol).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from fmcache.extract.reader import ReaderOptions


@dataclass(frozen=True)
class CubePreprocess:
    """Everything between a volume and a 3-D model; stands where a classifier's Preprocess stands.

    Attributes
    ----------
    fit : "crop" (`size` voxels around the middle of the object's box, zeros outside of the volume: SAM-Med3D), or
        "resize" (the whole volume to `size`, by nearest voxels: SegVol).
    size : of what the model sees, in its own order of axes.
    shades : "positive" (zero mean and unit variance over the voxels above 0), or "foreground" (clipped to the 0.05 and
        99.95 percentiles of the voxels above the mean, then from 0 to 1).
    """

    fit: str
    size: tuple[int, int, int]
    shades: str

    def document(self) -> dict[str, Any]:
        """The part of an entry's key that names this preprocessing."""
        return {"geometry": {"fit": self.fit, "size": list(self.size)}, "normalise": {"shades": self.shades}}

    def view(self, values: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """What the model sees of slices [s, h, w] (float32, `size`), with the object `inside` [s, h, w]."""
        if self.fit == "crop":
            cube, start = to_ras(values), crop_start(to_ras(inside), self.size)
            out = np.zeros(self.size, np.float32)
            ours, theirs = _overlap(start, self.size, cube.shape)
            out[ours] = cube[theirs]
            above = out[out > 0]
            std = float(above.std(ddof=1)) if above.size > 1 else 0.0
            return (out - above.mean()) / std if std else np.zeros_like(out)
        cube = _stretched(to_ras(values).transpose(2, 1, 0).astype(np.float32))
        for axis, new in enumerate(self.size):
            cube = cube.take(nearest_exact(cube.shape[axis], new), axis)
        return cube

    def within(self, inside: np.ndarray) -> np.ndarray:
        """The part of an object [s, h, w] that lies in its crop; all of it unless it is larger than `size`."""
        cube = to_ras(inside)
        _, theirs = _overlap(crop_start(cube, self.size), self.size, cube.shape)
        part = np.zeros_like(cube)
        part[theirs] = cube[theirs]
        return part[::-1, ::-1].transpose(2, 1, 0)

    def into(self, points: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Points [..., 3] (x, y, z) of the slices (column, row, slice) as array indices of what the model sees."""
        slices, height, width = inside.shape
        ras = np.stack([width - 1 - points[..., 0], height - 1 - points[..., 1], points[..., 2]], -1)
        if self.fit == "crop":
            return ras - crop_start(to_ras(inside), self.size)
        shape = np.array([slices, height, width])
        return np.floor((ras[..., ::-1] + 0.5) * np.array(self.size) / shape)

    def batch(self, views: Sequence[np.ndarray], device: str | torch.device) -> torch.Tensor:
        """float32 [b, 1, *size] on the device."""
        import torch

        return torch.from_numpy(np.stack(views))[:, None].float().to(device)


def read_volume(data: bytes, reader: ReaderOptions) -> np.ndarray:
    """The stored values of all slices, [s, h, w].

    Raises
    ------
    Undecodable : it is a picture, or damaged.
    """
    from fmcache.extract import volumes
    from fmcache.extract.decode import FORMATS, guarded, sniff
    from fmcache.extract.reader import Undecodable

    if sniff(data) in (*FORMATS, "DICOM"):
        raise Undecodable("It is a picture; this model takes volumes.")
    values = guarded(lambda: volumes.stored_slices(data, reader))
    if values.ndim != 3:
        raise Undecodable("It is a picture; this model takes volumes.")
    return values


def to_ras(slices: np.ndarray) -> np.ndarray:
    """[s, h, w] on the light box → [x, y, z]: the patient's right is left, the front is on top."""
    return slices.transpose(2, 1, 0)[::-1, ::-1]


def crop_start(inside: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """First index, along each axis, of the crop of `size` around the middle of the box of `inside`; may be negative."""
    places = np.argwhere(inside)
    middle = (places.min(0) + places.max(0) + 1) // 2
    return middle - np.array(size) // 2


def nearest_exact(old: int, new: int) -> np.ndarray:
    """The voxel in whose range the centre of each new voxel lies."""
    return np.minimum(np.floor((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)


def _overlap(
    start: np.ndarray, size: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    ours, theirs = [], []
    for first, length, limit in zip(start.tolist(), size, shape, strict=True):
        low, high = max(0, first), min(limit, first + length)
        ours.append(slice(low - first, max(low, high) - first))
        theirs.append(slice(low, max(low, high)))
    return tuple(ours), tuple(theirs)


def _stretched(cube: np.ndarray) -> np.ndarray:
    above = cube[cube > cube.mean()]
    if not above.size:
        return np.zeros_like(cube)
    low, high = np.percentile(above, (0.05, 99.95))
    clipped = np.clip(cube, low, high)
    return (clipped - low) / max(high - low, 1e-8)
