"""What is known of a published model before a weight is read. Importing a card imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmcache.extract.cubes import CubePreprocess
from fmcache.extract.frame import FramePreprocess
from fmcache.extract.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

    from fmcache.extract.models.segmenter import Segmenter
    from fmcache.extract.models.text import TextTower


@dataclass(frozen=True)
class Published:
    """Where the weights are, in the order in which they are looked for: a package, then the hub; `url` is for people.

    Attributes
    ----------
    package, package_file, package_sha256 : a requirement ``name==version`` of the Python package index that carries the
        weights as a data file, the file's name, and its hash.
    hub, file, revision, sha256 : repository of the Hugging Face hub, file in it, commit, hash of the file ("" where it
        was never known). Without a commit the head is taken, and what it was is recorded.
    url : the page or file from which people fetch it.
    gated : what has to be accepted, and where.
    """

    package: str = ""
    package_file: str = ""
    package_sha256: str = ""
    hub: str = ""
    file: str = "model.safetensors"
    revision: str = ""
    sha256: str = ""
    url: str = ""
    gated: str = ""


@dataclass(frozen=True)
class Card:
    """A model that can be asked for by name.

    Attributes
    ----------
    id : the name on the command line and in the cache.
    family : the module in ``fmcache.extract.models`` that builds it.
    architecture : what that module calls the architecture (timm's or open_clip's name where it is theirs).
    dim : width of the default embedding; None where only the weights tell.
    pools : embeddings that can be asked for with ``--pool``; the first is the default. Empty: the weights tell.
    preprocess : the model's own; None where only a configuration file tells.
    licence : of the weights. ``non_commercial`` is true where it forbids commercial use.
    published : where the weights are.
    files : names of the published files where there are several; a folder that holds one has to hold all.
    text : context length of the text side in tokens; 0 where there is none.
    options : whatever else the builder wants to know.
    notes : departures of papers and benchmarks, and traps.
    version : a change of what this card computes needs the next number; it is in the cache key.
    """

    id: str
    title: str
    family: str
    architecture: str
    dim: int | None
    licence: str
    pools: tuple[str, ...] = ()
    preprocess: Preprocess | FramePreprocess | CubePreprocess | None = None
    published: Published = Published()
    files: tuple[str, ...] = ()
    text: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    non_commercial: bool = False
    paper: str = ""
    notes: str = ""
    version: int = 1


@dataclass(frozen=True)
class Network:
    """A built model with its weights: what a family's ``build`` gives.

    Attributes
    ----------
    module : frozen, in evaluation mode, float32, on the CPU.
    heads : name of a pooling → function from the model's input [b, 3, s, s] to [b, d]; the first is the default.
    preprocess : as the weights' own configuration says, or the card's.
    text : the text side, or None.
    segmenter : what masks are made with, or None.
    """

    module: torch.nn.Module
    heads: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
    preprocess: Preprocess | FramePreprocess | CubePreprocess
    text: TextTower | None = None
    segmenter: Segmenter | None = None


@dataclass(frozen=True)
class Weights:
    """Tensors as the file names them, where they came from, and the folder with the files beside them, if any."""

    state: dict[str, torch.Tensor]
    source: str
    folder: Path | None = None
