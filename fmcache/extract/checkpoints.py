"""Weights from a file or a folder, without ever running what a file says.

Three readers, tried in this order: safetensors; PyTorch's own reader restricted to tensors (``weights_only=True``, said
explicitly, because an environment variable can switch the default off); and for files which that one refuses because
they also hold a training state (argument namespaces, optimisers, numpy scalars, TorchScript modules), ``inert_pickle``,
which puts an inert object in the place of everything that is not a tensor.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcache.errors import ModelError
from fmcache.extract.models.inert_pickle import Malformed, read_inert

CONTAINERS = ("model_state_dict", "state_dict", "model", "teacher")
PREFIXES = ("module.", "_orig_mod.", "backbone.")
FILES_OF_A_FOLDER = (
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")
_SHOWN = 8

State = dict[str, torch.Tensor]


def read_checkpoint(path: str | Path) -> State:
    """The named tensors of a checkpoint, on the CPU.

    Parameters
    ----------
    path : a file (safetensors, PyTorch zip, legacy or TorchScript, npz), or a folder that holds one, sharded or not.

    Returns
    -------
    name → tensor, in the order of the file. The usual containers (``state_dict``, ``model``, ``teacher`` …) are opened;
    prefixes which every name carries (``module.``, ``backbone.`` …) are removed. What is not an array is left out.

    Raises
    ------
    ModelError : not there, not a checkpoint, truncated, empty.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ModelError(
            f"There is no checkpoint {path}.", "Neither a file nor a folder has that name.", "Check the path."
        )
    return _state(_read_file(path), path)


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, in order of the names; 64 hex digits.

    The container does not enter: the same tensors in a .pth and a .safetensors file have one digest.
    """
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        sha.update(json.dumps(head, separators=(",", ":")).encode() + b"\n")
        data: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        sha.update(data)
    return sha.hexdigest()


def _read_file(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ModelError(f"The checkpoint {path} is empty.", "It has 0 bytes.", "Download it again.")
    if head.startswith(b"version https://git-lfs"):
        what = f"The checkpoint {path} is a Git LFS pointer."
        raise ModelError(what, "The weights themselves were not downloaded.", "Type: git lfs pull")
    if head.lstrip()[:1] == b"<":
        what = f"The checkpoint {path} is a web page."
        raise ModelError(what, "A download saved an answer of the server.", "Download it again.")
    if head[8:9] == b"{" and (path.suffix == ".safetensors" or b'"dtype"' in head or b"__metadata__" in head):
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04") and path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        raise _unreadable(path, "It does not begin as a safetensors file does.")
    return _read_torch(path, zipped=head.startswith(b"PK\x03\x04"))


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, str(error)) from None


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, str(error)) from None


def _read_torch(path: Path, zipped: bool) -> Any:
    first: Exception | str = "It is a TorchScript archive that cannot be read."
    if not (zipped and _is_torchscript(path)):  # torch.load would refuse it with a warning
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except Exception as refused:  # whatever it was, the second reader decides
            first = refused
    try:
        return read_inert(path)
    except (Malformed, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError) as error:
        reason = str(error) or str(first)
    raise _unreadable(path, reason)


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _read_folder(folder: Path) -> State:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    chosen = next((name for name in FILES_OF_A_FOLDER if name in names), None)
    if chosen is None:
        weights = [name for name in names if Path(name).suffix in SUFFIXES]
        if len(weights) != 1:
            raise ModelError(
                f"The folder {folder} has {'no' if not weights else 'more than one'} checkpoint.",
                f"It holds: {_some(weights or names) or 'nothing'}.",
                "Type: --checkpoint FILE",
            )
        chosen = weights[0]
    if chosen.endswith(".index.json"):
        return _read_shards(folder, chosen)
    return read_checkpoint(folder / chosen)


def _read_shards(folder: Path, index: str) -> State:
    try:
        where = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(folder / index, f"It is not an index of shards: {error}") from None
    absent = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    if absent:
        what = f"The checkpoint {folder} is incomplete: {len(absent)} of {len(shards)} shards are not there."
        raise ModelError(what, f"Missing: {_some(absent)}.", "Download them into that folder.")
    merged: dict[str, Any] = {}
    for name in shards:
        merged.update(_read_file(folder / name))
    if lacking := sorted(set(where) - set(merged)):
        what = f"The shards in {folder} lack {len(lacking)} tensors of their index."
        raise ModelError(what, f"Missing: {_some(lacking)}.", "Download them again.")
    return _state(merged, folder)


def _state(content: Any, path: Path) -> State:
    """Open the containers, keep the tensors, remove what every name begins with."""
    opened = True
    while opened and isinstance(content, Mapping):
        opened = False
        for container in CONTAINERS:
            if isinstance(content.get(container), Mapping):
                content, opened = content[container], True
                break
    if not isinstance(content, Mapping):
        raise _unreadable(path, f"It holds a {type(content).__name__}, not named tensors.")
    state = {str(name): tensor for name, value in content.items() if (tensor := _tensor(value)) is not None}
    if not state:
        raise _unreadable(path, f"It holds no tensors, but: {_some([str(name) for name in content])}.")
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
                stripped = True
    return state


def _tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    return None


def _unreadable(path: Path, reason: str) -> ModelError:
    first = reason.strip().splitlines()[0][:200] if reason.strip() else "It is truncated or damaged."
    return ModelError(
        f"{path} cannot be read as a checkpoint.",
        first,
        "It has to be safetensors, a PyTorch file or npz; download it again if it should be one.",
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
