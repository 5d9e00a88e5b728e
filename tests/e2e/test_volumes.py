"""A real brain through the 3-D models at the command line, and its Dice worked out again from the files alone.

The weights are seeded; the head and the labelled regions are those that the Debian package mricron-data carries. What
is worked out again shares the network with fmcache (tests/parity holds it to the official code), and nothing else:
axes, crop, intensities, the way back and the overlap are written down here after the official inference scripts.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fmcache.store.cache import open_cache
from tests.e2e.command import fmcache
from tests.golden.mkckpt import make

torch = pytest.importorskip("torch")

MRICRON = Path("/usr/share/mricron/templates")
REGIONS = {"left_hippocampus": (37,), "cerebellum": (91, 92)}
CARD = """
name = "brain"
title = "A head with labelled regions"
query = '''SELECT 'ch2' AS sample_id, 'ch2' AS patient_id, 'ch2.nii.gz' AS path, 'aal.nii.gz' AS mask_path,
'M' AS "attribute.sex" FROM rows'''
[tables]
rows = "rows.csv"
[attributes.sex]
codes = { M = "male", F = "female" }
[masks]
classes = ["left_hippocampus", "cerebellum"]
values = { left_hippocampus = [37], cerebellum = [91, 92] }
ignore = "others"
"""
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not MRICRON.is_dir(), reason="apt-get install mricron-data (16 MB)"),
]


def published(model: str, folder: Path) -> Path:
    """The file or folder of a model, laid out as its owner publishes it."""
    folder.mkdir()
    if model == "segvol":
        return Path(make("segvol_v1", folder / "SegVol_v1.pth"))
    make("sam_med3d_vit_b_ori", folder / "sam_med3d_turbo.pth")
    if model == "fastsam3d":
        make("fastsam3d_student_encoder", folder / "student.pth")
        return folder
    return folder / "sam_med3d_turbo.pth"


def ras(name: str) -> np.ndarray:
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(MRICRON / name)).dataobj)


def cube_again(module, head, inside, voxels):
    """SAM-Med3D and FastSAM3D: bool [x, y, z]; `voxels` are the clicks, [k, 3] of the head."""
    places = np.argwhere(inside)
    start = (places.min(0) + places.max(0) + 1) // 2 - 64
    padded = np.pad(head.astype(np.float32), 128)
    cube = padded[tuple(slice(first + 128, first + 256) for first in start)]
    cube = (cube - cube[cube > 0].mean()) / cube[cube > 0].std(ddof=1)
    maps = module.image_encoder(torch.from_numpy(cube)[None, None])
    clicks = torch.from_numpy(voxels - start)[None].float()
    low, _ = module.decode(maps, clicks, torch.ones(clicks.shape[:2], dtype=torch.long))
    full = torch.nn.functional.interpolate(low, (128,) * 3, mode="trilinear", align_corners=False)[0, 0]
    out = np.zeros(padded.shape, bool)
    out[tuple(slice(first + 128, first + 256) for first in start)] = full.numpy() > 0
    return out[tuple(slice(128, 128 + n) for n in head.shape)]


def whole_again(module, head, sentence, box):
    """SegVol, asked by name: bool [x, y, z]; `box` is the region's, [2, 3], in voxels of the head."""
    import open_clip

    values = head.astype(np.float32)
    above = values[values > values.mean()]
    low, high = np.percentile(above, (0.05, 99.95))
    values = ((np.clip(values, low, high) - low) / (high - low)).astype(np.float32)
    size = (32, 256, 256)
    x = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 1, 0)))[None, None]
    maps = module.image_encoder(torch.nn.functional.interpolate(x, size, mode="nearest-exact"))
    text = module.text_encoder(open_clip.get_tokenizer("ViT-B-32")([sentence]))
    boxes = None
    if box is not None:
        zyx = (box[:, ::-1] + 0.5) * np.array(size) / np.array(head.shape[::-1])
        boxes = torch.from_numpy(np.sort(np.floor(zyx), 0)).float().reshape(1, 6)
    small, _ = module.decode(maps, boxes=boxes, text=text)
    full = torch.nn.functional.interpolate(small, size, mode="trilinear", align_corners=False)
    return torch.nn.functional.interpolate(full, head.shape[::-1], mode="nearest")[0, 0].numpy().T > 0


@pytest.mark.parametrize("model", ["sam-med3d", "fastsam3d", "segvol"])
def test_dice_of_a_real_brain(model: str, tmp_path: Path) -> None:
    from fmcache.extract.registry import load_model, resolve_model

    for name in ("ch2.nii.gz", "aal.nii.gz"):
        shutil.copy(MRICRON / name, tmp_path)
    (tmp_path / "rows.csv").write_text("row\n1\n")
    (tmp_path / "brain.toml").write_text(CARD)
    weights = published(model, tmp_path / "weights")
    prompts = ("rands", "bbox", "text", "text-bbox") if model == "segvol" else ("rands",)
    words = ["extract", "--model", model, "--checkpoint", str(weights), "--dataset", "brain.toml"]
    words += [word for prompt in prompts for word in ("--prompt", prompt)]
    done = fmcache(*words, "--root", str(tmp_path), "--kind", "mask", "--cache", "cache", cwd=tmp_path)
    (row,) = done.rows
    assert (row["embedded"], row["rejected"]) == (1, 0)
    told = fmcache(
        "dice", "--model", model, "--dataset", "brain", "--cache", "cache", "--format", "json", cwd=tmp_path
    )
    dice = {(one["class"], one["prompt"]): one["dice"] for one in told.rows}
    assert set(dice) == {(name, prompt) for name in REGIONS for prompt in prompts}
    head, labels = ras("ch2.nii.gz"), ras("aal.nii.gz")
    module = load_model(resolve_model(model), checkpoint=weights).network.module
    clicked = {
        (one.name, one.prompt): one.coordinates
        for one in open_cache(tmp_path / "cache").masks(model, "brain")
    }
    for (name, prompt), value in dice.items():
        inside = np.isin(labels, REGIONS[name])
        xyz = clicked[name, prompt].astype(int).reshape(-1, 3)  # column, row, slice; as on a light box
        voxels = np.stack([head.shape[0] - 1 - xyz[:, 0], head.shape[1] - 1 - xyz[:, 1], xyz[:, 2]], 1)
        with torch.inference_mode():
            if model == "segvol":
                if "text" not in prompt:
                    continue
                sentence = f"A computerized tomography of a {name.replace('_', ' ')}."
                found = whole_again(module, head, sentence, voxels if prompt == "text-bbox" else None)
            else:
                assert inside[tuple(voxels.T)].all()
                found = cube_again(module, head, inside, voxels)
        again = 2 * (found & inside).sum() / (found.sum() + inside.sum())
        assert 0 < again < 1
        assert value == pytest.approx(again, abs=2e-3), (name, prompt)
