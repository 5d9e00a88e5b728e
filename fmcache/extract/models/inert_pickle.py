"""Tensors out of a pickle of which nothing else is believed.

A pickle names functions and asks for them to be called. Here every name means one of a handful of pure constructors
below, and any other name means `Inert`, an object that swallows its arguments. So no code of the file, and none it
points to, runs. Three layouts hold PyTorch tensors: zip archives (``archive/data.pkl`` and ``archive/data/KEY``),
TorchScript archives (the same, with modules instead of a dictionary), and the stream of pickles from before
version 1.6.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_BYTES = 1 << 40


class Malformed(Exception):
    """The file is not what it says it is. The message is one line."""


class Inert:
    """Stands for any object that is not a tensor. Whatever is done to it has no effect but on itself."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.state: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Inert:
        return Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class _DType:
    """A numpy dtype: kind and byte order, nothing structured."""

    def __init__(self, code: str = "", *rest: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = str(state[1])

    def numpy(self) -> np.dtype[Any]:
        dtype = np.dtype(self.code)
        if dtype.kind not in "fiub":
            raise Malformed(f"It holds a numpy array of type {self.code!r}.")
        return dtype.newbyteorder("<" if self.order == "<" else ">" if self.order == ">" else "=")


class _Array:
    """A numpy array that is filled after it was made."""

    def __init__(self, *arguments: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(dtype, _DType) and isinstance(data, bytes):
            flat = np.frombuffer(data, dtype.numpy())
            self.value = flat.reshape(tuple(map(int, shape)), order="F" if fortran else "C")


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *rest: Any) -> Any:
    if not isinstance(storage, torch.Tensor):
        return Inert()
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    last = int(offset) + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and not (offset >= 0 and min((0, *stride)) == 0 and last < len(storage)):
        raise Malformed("A tensor reaches beyond its data.")
    return torch.as_strided(storage, size, stride, int(offset))


def _text_bytes(text: str, encoding: str = "latin1") -> Any:
    return text.encode("latin1") if isinstance(text, str) else Inert()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if isinstance(dtype, _DType) and isinstance(data, bytes) and len(data) == dtype.numpy().itemsize:
        return np.frombuffer(data, dtype.numpy())[0].item()
    return Inert()


class _Storage:
    """The name of a storage class, as the pickle gives it; tells the dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
}  # fmt: skip
_KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *rest: data,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *arguments: OrderedDict(),
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _text_bytes,
}
for _numpy in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN[(_numpy, "_reconstruct")] = _Array
    _KNOWN[(_numpy, "scalar")] = _scalar


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, load: Callable[[tuple[Any, ...]], Any]) -> None:
        super().__init__(file, encoding="latin1")
        self._load = load

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Storage(_STORAGES[name])
        return _KNOWN.get((module, name), Inert)

    def persistent_load(self, identity: Any) -> Any:
        if not (isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage"):
            raise Malformed("It refers to something other than tensor data.")
        return self._load(identity)


def read_inert(path: Path) -> Any:
    """The object of a PyTorch file: dictionaries, lists, numbers, text, tensors, arrays; everything else `Inert`.

    A TorchScript archive gives a flat dictionary of its parameters and buffers.

    Raises
    ------
    Malformed, pickle.UnpicklingError, zipfile.BadZipFile, EOFError : truncated, damaged, or something else entirely.
    """
    try:
        return _plain(_read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path))
    except RecursionError:
        raise Malformed("It is nested too deeply.") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, MemoryError) as error:
        raise Malformed(f"It is damaged ({type(error).__name__}).") from None


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        main = next((name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")), None)
        if main is None:
            raise Malformed("It is a zip archive without PyTorch data.")
        folder = main.removesuffix("data.pkl")
        if folder + "byteorder" in names and archive.read(folder + "byteorder").decode() != sys.byteorder:
            raise Malformed("It was written on a machine of the other byte order.")
        storages: dict[str, torch.Tensor] = {}

        def load(identity: tuple[Any, ...]) -> Any:
            _, kind, key, _, count = identity[:5]
            if key not in storages:
                dtype = _dtype(kind)
                data = bytearray(archive.read(f"{folder}data/{key}"))
                if len(data) != int(count) * dtype.itemsize:
                    raise Malformed("The length of a tensor's data is wrong.")
                storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return storages[key]

        with archive.open(main) as file:
            content = _Unpickler(file, load).load()  # type: ignore[arg-type]
        if folder + "constants.pkl" in names:
            return _flatten_module(content)
        return content


def _read_stream(path: Path) -> Any:
    storages: dict[str, torch.Tensor] = {}

    def load(identity: tuple[Any, ...]) -> Any:
        _, kind, key, _, count, *view = identity
        dtype = _dtype(kind)
        if not 0 <= int(count) * dtype.itemsize <= min(_MOST_BYTES, path.stat().st_size):
            raise Malformed("The length of a tensor's data is wrong.")
        storage = storages.setdefault(key, torch.empty(int(count), dtype=dtype))
        if view and view[0] is not None:
            _, start, size = view[0]
            return storage[int(start) : int(start) + int(size)]
        return storage

    def one(file: BinaryIO) -> Any:
        return _Unpickler(file, load).load()

    with path.open("rb") as file:
        if one(file) != _MAGIC:
            raise Malformed("It is a pickle, but not of PyTorch tensors.")
        one(file)
        one(file)
        content, keys = one(file), one(file)
        if not isinstance(keys, list):
            raise Malformed("The list of its tensors is damaged.")
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storage = storages[key]
            data = bytearray(file.read(count * storage.element_size()))
            if count != len(storage) or len(data) != count * storage.element_size():
                raise Malformed("It is truncated.")
            if data:
                storage.copy_(torch.frombuffer(data, dtype=storage.dtype))
    return content


def _dtype(kind: Any) -> torch.dtype:
    if not isinstance(kind, _Storage):
        raise Malformed("A tensor has an unknown type.")
    return kind.dtype


def _plain(value: Any) -> Any:
    """Finished arrays in place of the ones that were being made."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _flatten_module(module: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    state = module.state if isinstance(module, Inert) else None
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Inert):
            found.update(_flatten_module(value, f"{prefix}{name}."))
    return found
