"""Where the weights of a card come from: a file that the user names, a Python package, or the hub. Never random."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fmcache.errors import ModelError
from fmcache.extract.checkpoints import SUFFIXES, read_checkpoint
from fmcache.extract.hub import hub_file, hub_folder
from fmcache.extract.models.card import Card, Weights
from fmcache.extract.packages import read_onnx, weights_file

if TYPE_CHECKING:
    import torch


def _read(checkpoint: Path, files: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A file or folder; of a model that is published in several files, all of them together (``*``: whatever names)."""
    if files == ("*",) and checkpoint.is_dir():
        files = tuple(sorted(file.name for file in checkpoint.iterdir() if file.suffix in SUFFIXES))
    if files and checkpoint.is_dir() and any((checkpoint / name).is_file() for name in files):
        merged: dict[str, torch.Tensor] = {}
        for name in files:
            merged.update(read_checkpoint(checkpoint / name))
        return merged
    return read_checkpoint(checkpoint)


def find_weights(card: Card, checkpoint: Path | None) -> Weights:
    """Read the weights of `card`.

    Raises
    ------
    ModelError, MissingExtra : not there, not readable, not the published ones.
    """
    where = card.published
    if checkpoint is not None:
        checkpoint = checkpoint.expanduser()
        state = _read(checkpoint, card.files)
        return Weights(state, checkpoint.name, checkpoint if checkpoint.is_dir() else checkpoint.parent)
    if where.package:
        path = weights_file(card)
        state = read_onnx(path) if path.suffix == ".onnx" else read_checkpoint(path)
        package, version = where.package.split("==")
        return Weights(state, f"{card.id} ({package} {version})")
    if where.hub and not where.file:
        folder, commit = hub_folder(card)
        return Weights(read_checkpoint(folder), f"{where.hub}@{commit[:12]}", folder)
    if where.hub:
        path, commit = hub_file(card)
        return Weights(read_checkpoint(path), f"{where.hub}@{commit[:12]}", path.parent)
    raise ModelError(
        f"The weights of {card.id} cannot be downloaded by fmcache.",
        f"They are at {where.url}" + (f"; {where.gated}" if where.gated else "."),
        "Download them and type: --checkpoint FILE",
    )
