"""BERT encoders inside published files: the names of transformers 4 in, its present module out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fmcache.extract.models.loading import check_names, quiet, some

if TYPE_CHECKING:
    import torch

    from fmcache.extract.models.card import Card

# buffers that transformers before 4.31 saved; the module computes them
COMPUTED = (".position_ids", ".relative_position_index")


def from_transformers(
    model: Any, config: Any, state: Mapping[str, torch.Tensor], card: Card, **options: Any
) -> Any:
    """A module of transformers with the weights of `state`, through that library's own renaming of old names.

    Parameters
    ----------
    model : the class. config : its configuration.
    state : names as the published file has them, without the prefix of the part.

    Raises
    ------
    ModelError : a name is missing or left over, or a shape differs.
    """
    from fmcache.errors import ModelError

    given = {name: tensor for name, tensor in state.items() if not f".{name}".endswith(COMPUTED)}
    from transformers.utils import logging

    logging.disable_progress_bar()
    with quiet():
        try:
            module, told = model.from_pretrained(
                None, config=config, state_dict=given, output_loading_info=True, dtype="float32", **options
            )
        except RuntimeError as error:  # shapes that differ
            raise ModelError(
                f"The checkpoint is not one of {card.id} ({card.architecture}): shapes differ.",
                next(
                    (
                        line.strip()
                        for line in str(error).splitlines()
                        if "size mismatch" in line or "vs" in line
                    ),
                    "",
                ),
                "Name the model that the file belongs to; `fmcache models` lists them.",
            ) from None
    check_names(card, sorted(told["missing_keys"]), sorted(told["unexpected_keys"]))
    if told["mismatched_keys"]:
        raise ModelError(
            f"The checkpoint is not one of {card.id} ({card.architecture}): shapes differ.",
            some([str(of[0] if isinstance(of, tuple) else of) for of in told["mismatched_keys"]]),
            "Name the model that the file belongs to; `fmcache models` lists them.",
        )
    return module.float().eval().requires_grad_(False)


def part(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors below `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
