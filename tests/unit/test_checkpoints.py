"""Reading weights: every published layout, nothing of a file ever runs, clear words for what is no checkpoint."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fmcache.errors import ModelError
from fmcache.extract.checkpoints import read_checkpoint, weights_digest
from tests.golden import mkckpt

NAMES = sorted(file.stem for file in Path(mkckpt.__file__).parent.glob("*.json"))
WRAPPERS = ("module.encoder_q.", "encoder.module.", "module.")


def state_of(seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(4, 3, generator=random),
        "a.bias": torch.randn(4, generator=random).half(),
        "b.count": torch.tensor(7),
        "b.brain": torch.randn(2, generator=random).bfloat16(),
        "b.view": torch.randn(6, 5, generator=random).T[1:4],
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


# ------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("name", NAMES)
def test_every_published_layout_gives_its_tensors(name: str, tmp_path: Path) -> None:
    """Containers, Namespaces, an optimizer object, TorchScript: names, shapes and values come back as they went in."""
    _, expected = mkckpt.state(name, shrink=True)
    file = mkckpt.make(name, str(tmp_path / "weights.pth"), shrink=True)
    read = read_checkpoint(file)
    stripped = {key.removeprefix("module."): tensor for key, tensor in expected.items()}
    wanted = stripped if all(key.startswith("module.") for key in expected) else expected
    assert same(read, wanted)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "npz"])
def test_the_digest_is_the_same_in_every_container(form: str, tmp_path: Path) -> None:
    state = {name: tensor.float().contiguous() for name, tensor in state_of().items()}
    file = tmp_path / f"weights.{'pth' if form in ('zip', 'legacy') else form}"
    if form == "safetensors":
        save_file(state, file)
    elif form == "npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=form == "zip")
    assert weights_digest(read_checkpoint(file)) == weights_digest(state)


def test_the_digest_changes_with_a_value_a_name_a_shape_and_a_dtype() -> None:
    state = state_of()
    one_bit = {**state, "a.weight": state["a.weight"].clone()}
    one_bit["a.weight"][0, 0] = torch.nextafter(one_bit["a.weight"][0, 0], torch.tensor(9.0))
    renamed = {name.replace("a.", "c."): tensor for name, tensor in state.items()}
    reshaped = {**state, "a.weight": state["a.weight"].reshape(3, 4)}
    retyped = {**state, "a.bias": state["a.bias"].view(torch.bfloat16)}
    digests = [weights_digest(of) for of in (state, one_bit, renamed, reshaped, retyped)]
    assert len(set(digests)) == 5
    assert weights_digest(dict(reversed(state.items()))) == digests[0]


def test_shards_are_put_together(tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in state_of().items()}
    first = dict(list(state.items())[:2])
    save_file(first, tmp_path / "model-1.safetensors")
    save_file({name: of for name, of in state.items() if name not in first}, tmp_path / "model-2.safetensors")
    index = {name: "model-1.safetensors" if name in first else "model-2.safetensors" for name in state}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert same(read_checkpoint(tmp_path), state)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"1 of 2 shards are not there"):
        read_checkpoint(tmp_path)
    index["a.bias"] = "../../etc/passwd"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ModelError, match="shards are not there"):
        read_checkpoint(tmp_path)


# ------------------------------------------------------------------------------------------------- payloads


class Payload:
    """Makes a file when it is unpickled, or when anything that came out of it is called."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside-weights", "in-place-of-weights"])
def test_a_malicious_pickle_does_not_run(legacy: bool, beside: bool, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "weights.pth"
    state = state_of()
    content = {"state_dict": state, "optimizer": Payload(mark)} if beside else {"state_dict": Payload(mark)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    if beside:
        assert same(read_checkpoint(file), state)
    else:
        with pytest.raises(ModelError, match="cannot be read"):
            read_checkpoint(file)
    assert not mark.exists()


def test_the_payload_is_a_real_one(tmp_path: Path) -> None:
    """The control: the same bytes run where pickle is trusted."""
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()


def test_code_in_a_torchscript_archive_does_not_run(tmp_path: Path) -> None:
    """The weights are read from the pickle; the archive's code is replaced by what would raise, and never looked at."""
    mark, file, evil = tmp_path / "ran", tmp_path / "model.pt", tmp_path / "evil.pt"
    mkckpt.make("clip_vitb32", str(file), shrink=True)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(evil, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith(".py"):
                data = b"this is not code"
            if item.filename.endswith("/constants.pkl"):
                data = pickle.dumps(Payload(mark))
            target.writestr(item, data)
    assert same(read_checkpoint(evil), mkckpt.state("clip_vitb32", shrink=True)[1])
    assert not mark.exists()


def test_an_object_with_a_setstate_of_its_own_stays_inert(tmp_path: Path) -> None:
    """A NumPy scalar and a Namespace are training state; names that mean harm are dropped with them."""
    file = tmp_path / "weights.pth"
    state = state_of()
    torch.save({"model": state, "best": np.float64(0.5), "sub": {"deep": [np.int64(3), {1, 2}]}}, file)
    assert same(read_checkpoint(file), state)


# ------------------------------------------------------------------------------------------------- not weights


def whole(tmp_path: Path, legacy: bool = False) -> Path:
    file = tmp_path / "whole.pth"
    torch.save(
        {"state_dict": state_of(), "n": np.float64(1)}, file, _use_new_zipfile_serialization=not legacy
    )
    return file


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_a_truncated_file_says_so(share: float, legacy: bool, tmp_path: Path) -> None:
    data = whole(tmp_path, legacy).read_bytes()
    file = tmp_path / "cut.pth"
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be read as a checkpoint"),
        (pickle.dumps({"a": 1}), "cannot be read as a checkpoint"),
        (bytes(4096), "cannot be read as a checkpoint"),
    ],
    ids=["empty", "lfs", "html", "png", "pickle", "zeros"],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz", "bin"])
def test_what_is_no_checkpoint_is_named(data: bytes, says: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(data)
    with pytest.raises(ModelError, match=says):
        read_checkpoint(file)


def test_a_checkpoint_without_tensors_shows_what_it_holds(tmp_path: Path) -> None:
    torch.save({"state_dict": {"epoch": 3, "lr": 0.1}}, tmp_path / "w.pth")
    with pytest.raises(ModelError) as error:
        read_checkpoint(tmp_path / "w.pth")
    assert "epoch, lr" in error.value.found


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no checkpoint"):
        read_checkpoint(tmp_path)
    for name in ("one.pth", "two.pth"):
        torch.save(state_of(), tmp_path / name)
    with pytest.raises(ModelError) as error:
        read_checkpoint(tmp_path)
    assert "one.pth, two.pth" in error.value.found
    with pytest.raises(ModelError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "three.pth")


def test_a_flipped_bit_is_refused_or_changes_the_digest(tmp_path: Path) -> None:
    """Whatever is damaged: a clear error, or other weights, which are another key. Never a crash of another kind."""
    file = whole(tmp_path)
    data = bytearray(file.read_bytes())
    before = weights_digest(read_checkpoint(file))
    random = np.random.default_rng(0)
    outcomes = set()
    for position in random.integers(0, len(data), 120).tolist():
        data[position] ^= 0x10
        file.write_bytes(data)
        try:
            outcomes.add("same" if weights_digest(read_checkpoint(file)) == before else "another key")
        except ModelError:
            outcomes.add("refused")
        data[position] ^= 0x10
    assert "refused" in outcomes
