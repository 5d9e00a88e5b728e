"""docs/adding.md, "A model": its card, as it is printed there, makes a model that is not in the list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fmcache.extract.models import dinov2
from fmcache.extract.models.card import Card, Published
from fmcache.extract.preprocess import HALF, Geometry, Normalise, Preprocess
from fmcache.extract.registry import list_models, load_model, resolve_model

PAGE = (Path(__file__).parents[2] / "docs" / "adding.md").read_text(encoding="utf-8")


def card_of_the_page() -> Card:
    block = re.search(r"```python\n(.*?)```", PAGE.split("## A dataset")[0], re.DOTALL)
    assert block is not None
    code = "\n".join(line[3:] for line in block[1].splitlines()).strip()
    names = {"Card": Card, "Published": Published, "Preprocess": Preprocess, "Geometry": Geometry,
             "Normalise": Normalise, "HALF": HALF}  # fmt: skip
    card = eval(code, names)
    assert isinstance(card, Card)
    return card


def test_the_example_is_not_in_the_list() -> None:
    assert card_of_the_page().id not in {card.id for card in list_models()}


def test_one_card_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fmcache.extract.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    import timm

    monkeypatch.setattr(dinov2, "CARDS", (*dinov2.CARDS, card_of_the_page()))
    torch.manual_seed(0)
    theirs = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=392, num_classes=0).eval()
    torch.save(theirs.state_dict(), tmp_path / "retfoundgreen_statedict.pth")
    ours = load_model(resolve_model("retfound-green"), checkpoint=tmp_path / "retfoundgreen_statedict.pth")
    assert (ours.d, ours.pool, ours.preprocess.geometry.side) == (384, "mean", 392)
    x = torch.randn(1, 3, 392, 392)
    with torch.inference_mode():
        tokens = theirs.forward_features(x)
        assert float((ours.encode(x) - tokens[:, theirs.num_prefix_tokens :].mean(1)).abs().max()) <= 1e-6
