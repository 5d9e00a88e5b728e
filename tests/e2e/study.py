"""A small study on disk and a small real architecture, so that an extraction takes a second."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODEL = "timm/test_vit.r160_in1k"
OTHER = "timm/test_efficientnet.r160_in1k"
FIELDS = ("sample_id", "path", "patient_id", "split", "label.finding", "attribute.sex")


def draw(path: Path, number: int, side: int = 96) -> None:
    """A grey picture of its own for every number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 6), np.uint8)
    picture = Image.fromarray(coarse).resize((side, side + 8), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def study_rows(n: int) -> list[dict[str, Any]]:
    """Rows of the table: two images a patient, ids that a careless reader would turn into numbers."""
    return [
        {
            "sample_id": f"{i:03d}",
            "path": f"images/{i}.png",
            "patient_id": f"{i // 2:04d}",
            "split": ("train", "train", "val", "test")[i // 2 % 4],
            "label.finding": i * 7 % 3 % 2,
            "attribute.sex": ("F", "M")[i // 2 % 2],
        }
        for i in range(n)
    ]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_study(folder: Path, n: int = 40) -> Path:
    """`n` images and study.csv; returns the table's path."""
    for i in range(n):
        draw(folder / "images" / f"{i}.png", i)
    return write_table(folder / "study.csv", study_rows(n))


def make_weights(path: Path, model: str = MODEL, seed: int = 0) -> Path:
    """The architecture's own initial weights, as a file a user would have."""
    from fmcache.extract.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    network = timm.create_model(model.removeprefix("timm/").split(".")[0], pretrained=False)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path
