"""Weights into a module, strictly: nothing stays random, and nothing of the file is dropped unless the card says so."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fmcache.errors import ModelError

if TYPE_CHECKING:
    import torch

    from fmcache.extract.models.card import Card

_SHOWN = 5


def load_strictly(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    card: Card,
    *,
    may_be_unused: Iterable[str] = (),
    may_be_missing: Iterable[str] = (),
) -> torch.nn.Module:
    """Copy `state` into `module` and freeze it.

    Parameters
    ----------
    state : names as the module has them.
    may_be_unused : beginnings of names which a published file holds and the embedding does not need.
    may_be_missing : beginnings of names which the module computes by itself.

    Returns
    -------
    The module, in evaluation mode, float32, without gradients.

    Raises
    ------
    ModelError : a name is missing or left over, or a shape differs; the first five of each are listed.
    """
    unused, missing = tuple(may_be_unused), tuple(may_be_missing)
    own = module.state_dict()
    absent = [name for name in own if name not in state and not name.startswith(missing)]
    extra = [name for name in state if name not in own and not name.startswith(unused)]
    check_names(card, absent, extra)
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if shapes:
        raise ModelError(
            f"The checkpoint is not one of {card.id} ({card.architecture}): {len(shapes)} tensors have another shape.",
            some(shapes),
            "Name the model that the file belongs to; `fmcache models` lists them.",
        )
    module.load_state_dict({name: state[name] for name in own if name in state}, strict=not missing)
    return module.float().eval().requires_grad_(False)


def check_names(card: Card, absent: list[str], extra: list[str]) -> None:
    """Raise if names are missing or left over.

    Raises
    ------
    ModelError : with the first five of each.
    """
    if absent or extra:
        found = [f"missing: {some(absent)}"] if absent else []
        found += [f"not known to the model: {some(extra)}"] if extra else []
        raise ModelError(
            f"The checkpoint is not one of {card.id} ({card.architecture}): "
            f"{len(absent)} tensors are missing, {len(extra)} are left over.",
            "; ".join(found),
            "Name the model that the file belongs to; `fmcache models` lists them.",
        )


@contextmanager
def without_random_weights() -> Iterator[None]:
    """Modules are built without drawing random numbers: all of them would be overwritten, which takes seconds.

    Memory stays as it comes; that no weight keeps it is what `load_strictly` sees to.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    skipped = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_}

    class Skip(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return args[0] if func in skipped else func(*args, **(kwargs or {}))

    with Skip():
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries warn that a model without weights is random; here the weights follow, strictly."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def some(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
