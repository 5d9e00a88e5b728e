"""What a usage predicts and how: labels by a probe, by neighbours or by text; or the attributes themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fmcache.errors import AmbiguousEntry, MissingEntry, UsageError
from fmcache.probe.methods import METHODS
from fmcache.probe.neighbours import KNN
from fmcache.probe.options import Options
from fmcache.probe.problem import Method
from fmcache.probe.prototypes import ZERO_SHOT
from fmcache.store.cache import Cache
from fmcache.store.entries import SHORT, Entry
from fmcache.store.texts import Texts

FIXED: Mapping[str, Method] = {"knn": KNN, "clip-zs": ZERO_SHOT}
"""Usages that come with their own way of training (or of not training)."""
WITH_TEXTS = ("clip-zs", "clip-adapt")


def methods_of(options: Options) -> list[Method]:
    """The methods of a call, in the order in which they were named.

    Raises
    ------
    UsageError : ``--prior`` or ``--class-weight`` with a method for which it means nothing.
    """
    if options.usage in FIXED:
        methods = [FIXED[options.usage]]
    else:
        methods = [METHODS[name] for name in dict.fromkeys(options.methods)]
    for method in methods:
        name = options.usage if options.usage in FIXED else f"The method {method.name}"
        if options.prior and not method.has_prior:
            raise UsageError(
                f"--prior cannot move the scores of {name[0].lower() + name[1:]}.",
                "Its logits are not those of one prevalence of training.",
                f"--prior goes with {_named(lambda method: method.has_prior)}.",
            )
        if options.class_weight != "none" and not _weighs(method, options.usage):
            raise UsageError(
                f"--class-weight changes nothing of {name[0].lower() + name[1:]}.",
                "It does not weigh classes, or balances them by itself.",
                f"--class-weight goes with {_named(lambda method: _weighs(method, options.usage))}.",
            )
    return methods


def _weighs(method: Method, usage: str) -> bool:
    """Whether class weights reach the training; prototypes that take steps of their own have none."""
    return method.class_weights and (usage != "clip-adapt" or "fairmedfm" in method.adapts)


def _named(goes: Callable[[Method], bool]) -> str:
    return ", ".join(name for name, method in METHODS.items() if goes(method))


def texts_of(cache: Cache, entry: Entry, prompts: str) -> Texts:
    """The prompts that go with an image entry: the same weights, and the pooling that lies beside texts.

    Parameters
    ----------
    prompts : the prompt set, "" if there is only one.

    Raises
    ------
    MissingEntry : none was extracted. AmbiguousEntry : several prompt sets. UsageError : another pooling.
    """
    weights = _of_model(entry, "weights_sha256")
    every = [
        text
        for text in cache.entries(entry.model, entry.dataset, "text")
        if _of_model(text, "weights_sha256") == weights
    ]
    found = [text for text in every if not prompts or text.document.get("prompt_set") == prompts]
    sets = sorted({str(text.document.get("prompt_set")) for text in every})
    if not found:
        raise MissingEntry(
            f"The cache holds no text embeddings of {entry.model} on {entry.dataset}"
            + (f" for the prompt set {prompts}." if prompts and every else "."),
            f"It holds {', '.join(sets)}." if every else "",
            f"Type: fmcache extract --kind text --model {entry.model} --dataset {entry.dataset}"
            + (f" --prompts {prompts}" if prompts else ""),
        )
    if len(found) > 1 and len(sets) > 1:
        raise AmbiguousEntry(
            f"{entry.model} has text embeddings of several prompt sets on {entry.dataset}.",
            f"They are {', '.join(sets)}.",
            f"Type: --prompts {sets[0]}",
        )
    texts = cache.texts(entry.model, entry.dataset, key=found[-1].key)
    if entry.shape[0] != texts.d * texts.image_tokens or not _lies_beside(entry, texts):
        pool = _of_model(entry, "pool")
        raise UsageError(
            f"The image embeddings {entry.model}@{entry.key[:SHORT]} do not lie beside its texts.",
            f"They are pooled as {pool} ({entry.shape[0]} values); texts go with {texts.image_pool}.",
            f"Type: fmcache extract --model {entry.model} --dataset {entry.dataset} --pool {texts.image_pool}",
        )
    return texts


def _lies_beside(entry: Entry, texts: Texts) -> bool:
    return _of_model(entry, "pool") in (None, texts.image_pool)


def _of_model(entry: Entry, name: str) -> Any:
    """What the key document says of the model; None where it says nothing."""
    model = entry.document.get("model")
    return model.get(name) if isinstance(model, Mapping) else None
