"""Models by name: cards, and any model of timm, open_clip or the hub. No torch until one is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmcache.errors import MissingExtra, ModelError, UsageError
from fmcache.extract.cubes import CubePreprocess
from fmcache.extract.frame import FramePreprocess
from fmcache.extract.models.card import Card, Network, Weights
from fmcache.extract.preprocess import Preprocess, resized

if TYPE_CHECKING:
    import torch

# modules of fmcache.extract.models that hold cards, in the order in which they are listed
FAMILIES = (
    "dinov2",
    "clip",
    "biomedclip",
    "medclip",
    "mae",
    "resnet",
    "lvm_med",
    "blip",
    "blip2",
    "segmentation",
    "sam2",
    "eva_x",
    "timm_names",
    "open_clip_names",
    "hf_names",
    "efficientnet",
)
# prefix of a name → the module that makes a card of what follows
OPEN = {"timm": "timm_names", "open_clip": "open_clip_names", "hf": "hf_names"}


@dataclass(frozen=True)
class LoadedModel:
    """A frozen model on a device, and everything that names it.

    Attributes
    ----------
    pool : the embedding it gives. preprocess : what it wants to see. d : width of the embedding.
    weights_sha256 : over the tensors of the file, by name. source : where they came from, for people.
    network : the built network; its ``module`` is on `device`.
    """

    card: Card
    pool: str
    preprocess: Any
    d: int
    weights_sha256: str
    source: str
    network: Network
    device: str = "cpu"

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """[b, 3, s, s], normalised → [b, d]."""
        return self.network.heads[self.pool](x)

    def document(self) -> dict[str, Any]:
        """The part of an entry's key that names this model."""
        return {
            "id": self.card.id,
            "version": self.card.version,
            "architecture": self.card.architecture,
            "weights_sha256": self.weights_sha256,
            "pool": self.pool,
            "preprocess": self.preprocess.document(),
        }


def list_models() -> list[Card]:
    """Every card, in the order of the families."""
    return [card for family in FAMILIES for card in _family(family).CARDS]


def aliases() -> dict[str, str]:
    """Short names → ids."""
    return {alias: to for family in FAMILIES for alias, to in _family(family).ALIASES.items()}


def resolve_model(name: str) -> Card:
    """The card of a name: a card's id or alias, ``timm/NAME``, ``open_clip/NAME[@TAG]``, ``hf/ORG/NAME``.

    Raises
    ------
    ModelError : no such name, with the nearest ones.
    """
    prefix, slash, rest = name.partition("/")
    if slash:
        if prefix in OPEN and rest:
            return _family(OPEN[prefix]).named(name, rest)
        raise ModelError(
            f"There is no model {name!r}.",
            f"Names with a slash begin with {', '.join(f'{known}/' for known in OPEN)}.",
            f"Did you mean hf/{name}?",
        )
    cards = {card.id: card for card in list_models()}
    others = aliases()
    wanted = name.lower().replace("_", "-")
    wanted = others.get(wanted, wanted)
    if wanted in cards:
        return cards[wanted]
    near = get_close_matches(wanted, [*cards, *others], n=3, cutoff=0.5)
    raise ModelError(
        f"There is no model {name!r}.",
        f"Nearest names: {', '.join(near)}." if near else f"There are {len(cards)} cards.",
        f"Did you mean {near[0]}? `fmcache models` lists them." if near else "Type: fmcache models",
    )


def load_model(
    card: Card,
    *,
    checkpoint: str | Path | None = None,
    pool: str | None = None,
    device: str = "cpu",
    preprocess: Any = None,
    side: int | None = None,
) -> LoadedModel:
    """Read the weights, build the network, and put it on a device.

    Parameters
    ----------
    checkpoint : a file or folder with the weights. None: the package or the hub that the card names.
    pool : one of the card's pools. None: its default.
    preprocess : in place of the model's own.
    side : of the model's input, in pixels, in place of the published one.

    Raises
    ------
    ModelError : the weights are not there, cannot be read, or are not this model's. UsageError : no such pool.
    MissingExtra : torch, or a package that carries the weights, is not installed.
    """
    _require_torch(card)
    from fmcache.extract.checkpoints import weights_digest
    from fmcache.extract.models.loading import without_random_weights
    from fmcache.extract.torchvision_fix import make_torchvision_importable
    from fmcache.extract.weights import find_weights

    if card.pools and pool is not None and pool not in card.pools:
        raise _no_such_pool(card, pool, card.pools)
    make_torchvision_importable()
    family = _family(card.family)
    complete: Callable[[Card], Card] | None = getattr(family, "complete", None)
    if complete is not None:
        card = complete(card)
    wanted = preprocess or card.preprocess
    if side is not None:
        wanted = _with_side(card, wanted, side)
    weights: Weights = find_weights(card, Path(checkpoint) if checkpoint is not None else None)
    digest = weights_digest(weights.state)
    with without_random_weights():
        network: Network = family.build(card, weights, wanted)
    heads = tuple(network.heads)
    chosen = pool or (card.pools or heads)[0]
    if chosen not in heads:
        raise _no_such_pool(card, chosen, heads)
    network.module.to(device)
    network = replace(network, preprocess=wanted or network.preprocess)
    d = card.dim if network.segmenter is not None and card.dim else _width(network, chosen, device)
    return LoadedModel(card, chosen, network.preprocess, d, digest, weights.source, network, device)


def _with_side(card: Card, preprocess: Any, side: int) -> Any:
    if preprocess is None:
        raise UsageError(
            f"{card.id} says only with its weights what it wants to see.",
            "",
            "Leave --side out for this model.",
        )
    if isinstance(preprocess, (FramePreprocess, CubePreprocess)):
        raise UsageError(f"{card.id} takes inputs of one size only.", "", "Leave --side out.")
    patch = int(card.options.get("patch", 1))
    if side % patch:
        near = max(patch, round(side / patch) * patch)
        raise UsageError(
            f"--side {side} does not fit {card.id}.",
            f"Its patches are {patch} pixels wide.",
            f"Type: --side {near}",
        )
    return resized(preprocess, side)


def _width(network: Network, pool: str, device: str) -> int:
    """Width of an embedding: one black image tells, and shows that the network takes the size of its input."""
    import torch

    seen: Any = network.preprocess  # of pictures: networks of volumes say their width in the card
    side = seen.side if isinstance(seen, Preprocess) else seen.geometry.side
    with torch.inference_mode():
        return int(network.heads[pool](torch.zeros(1, 3, side, side, device=device)).shape[1])


def _no_such_pool(card: Card, pool: str, known: tuple[str, ...]) -> UsageError:
    near = get_close_matches(pool, known, n=1, cutoff=0.3)
    return UsageError(
        f"{card.id} has no embedding {pool!r}.",
        f"It has: {', '.join(known)}.",
        f"Type: --pool {(near or known)[0]}",
    )


def _family(name: str) -> Any:
    return import_module(f"fmcache.extract.models.{name}")


def _require_torch(card: Card) -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise MissingExtra(
            f"Loading {card.id} needs torch.",
            "It is not installed.",
            'Type: python -m pip install "fmcache[extract]"',
        )
