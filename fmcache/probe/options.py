"""What a user may ask of a probe, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from fmcache.errors import UsageError
from fmcache.probe.logistic import PRECISIONS
from fmcache.probe.methods import METHODS
from fmcache.probe.pooling import check as check_volume

USAGES = ("lp", "knn", "clip-zs", "clip-adapt", "attribute")
PROTOCOLS = ("convex", "paper", "fairmedfm")
SOLVERS = ("lbfgs", "ridge")
SELECT = ("auc", "worst")
UNCERTAIN = ("", "u-ignore", "u-zero", "u-one")
CLASS_WEIGHTS = ("none", "balanced")
SAVE = ("scores", "none")


@dataclass(frozen=True)
class Options:
    """One call of ``fmcache probe``.

    Attributes
    ----------
    usage : `USAGES`. models, datasets, labels : names, None for all; a model may carry the first characters of a key.
    methods : of `fmcache.probe.methods.METHODS`. attribute : whose groups the methods know ("" for none).
    seeds : 0 … seeds-1, for what is random: splits that the dataset does not give, subsets, minibatches.
    protocol : ``convex`` (the optimum), ``paper`` (AdamW as published) or ``fairmedfm`` (SGD as that code has it).
    solver : of the convex protocol, ``lbfgs`` (logistic) or ``ridge`` (least squares, closed form).
    volume : ``max`` or ``mean`` of its slices. select : validation criterion, ``auc`` or ``worst`` (group's AUC).
    class_weight : ``balanced`` gives both classes of a label the same weight.
    uncertain : what a label of -1 means: ``u-ignore`` (unknown), ``u-zero``, ``u-one``; "" refuses it.
    standardize : features by the mean and deviation of the training rows. precision : of the rows in the products.
    prior : "" as trained; ``em`` or a share: scores moved to that prevalence in the measured rows.
    fractions : shares of the training patients. balance : "" or ``sex`` or ``label*sex``, with its control.
    fuse : models whose embeddings are joined. pca : of the joined embedding, keep so many components (0: all).
    train_dataset, eval_dataset : train on one, measure on the other.
    grid : values in place of a method's own hyper-parameters. save : ``scores`` or ``none``.
    memory : GB that rows may take before they are streamed; None: 0.3 of what is free.
    prompts : the set of text prompts, "" if the cache holds one. template : "" the ensemble of all, a number, or
        ``val`` (the ensemble or one of them, chosen on validation). draws : permutations of the attribute baseline.
    """

    usage: str = "lp"
    models: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ("erm",)
    attribute: str = ""
    seeds: int = 1
    protocol: str = "convex"
    solver: str = "lbfgs"
    volume: str = "max"
    select: str = "auc"
    class_weight: str = "none"
    uncertain: str = ""
    standardize: bool = False
    precision: str = "float32"
    prior: str = ""
    fractions: tuple[float, ...] = (1.0,)
    balance: str = ""
    fuse: tuple[str, ...] = ()
    pca: int = 0
    train_dataset: str = ""
    eval_dataset: str = ""
    allow_leakage: bool = False
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    save: str = "scores"
    memory: float | None = None
    prompts: str = ""
    template: str = ""
    draws: int = 20

    def check(self) -> None:
        """Refuse what means nothing.

        Raises
        ------
        UsageError : with the nearest name, or the flag to type.
        """
        for name, known in (
            ("usage", USAGES), ("protocol", PROTOCOLS), ("solver", SOLVERS), ("select", SELECT),
            ("uncertain", UNCERTAIN), ("class_weight", CLASS_WEIGHTS), ("precision", PRECISIONS), ("save", SAVE),
        ):  # fmt: skip
            _one_of(name, getattr(self, name), known)
        check_volume(self.volume)
        for name in self.methods:
            if name not in METHODS:
                near = get_close_matches(name, METHODS, n=1, cutoff=0.4)
                raise UsageError(
                    f"There is no method {name}.", f"Methods: {', '.join(METHODS)}.",
                    f"Did you mean {near[0]}?" if near else "Type: fmcache probe methods",
                )  # fmt: skip
            self._check_method(name)
        if self.usage == "clip-adapt":
            self._check_adapt()
        if self.template not in ("", "val") and not self.template.isdigit():
            raise UsageError(
                f"--template {self.template} means nothing.",
                "It is a number from 0, or val; without it, all together.",
                "Type: --template 0",
            )  # fmt: skip
        if self.seeds < 1:
            raise UsageError(f"seeds={self.seeds} means nothing.", "", "Type: --seeds 1")
        if wrong := [value for value in self.fractions if not 0 < value <= 1]:
            raise UsageError(
                f"A fraction of {wrong[0]:g} means nothing.", "It is more than 0 and at most 1.",
                "Type: --fraction 0.1,1",
            )  # fmt: skip
        if self.select == "worst" and not self.attribute:
            raise UsageError(
                "select=worst needs groups.", "No attribute is named.", "Type: --select worst --attribute sex"
            )
        if bool(self.train_dataset) != bool(self.eval_dataset):
            raise UsageError(
                "--train-dataset and --eval-dataset belong together.", "One of them is missing.",
                "Type: --train-dataset A --eval-dataset B",
            )  # fmt: skip
        if self.train_dataset and self.train_dataset == self.eval_dataset:
            raise UsageError(
                f"--train-dataset and --eval-dataset are both {self.train_dataset}.",
                "Where it gives no split, its training patients would be measured.",
                f"Type: --dataset {self.train_dataset}",
            )
        if len(self.fuse) == 1:
            raise UsageError(
                f"--fuse {self.fuse[0]} joins nothing.", "It takes two models or more.", "Type: --fuse a,b"
            )  # fmt: skip
        if self.prior not in ("", "em"):
            try:
                share = float(self.prior)
            except ValueError:
                share = float("nan")
            if not 0 < share < 1:
                raise UsageError(
                    f"--prior {self.prior} means nothing.", "It is em, or a prevalence between 0 and 1.",
                    "Type: --prior em",
                )  # fmt: skip

    def _check_adapt(self) -> None:
        if self.protocol == "convex":
            raise UsageError(
                "clip-adapt has no protocol convex.", "Prototypes of unit norm have no convex problem.",
                "Type: --protocol paper",
            )  # fmt: skip
        for name in self.methods:
            if not METHODS[name].adapts:
                known = ", ".join(other for other, method in METHODS.items() if method.adapts)
                raise UsageError(
                    f"The method {name} does not train prototypes.", f"clip-adapt knows {known}.",
                    f"Type: fmcache probe lp --method {name}",
                )  # fmt: skip
            if self.protocol not in METHODS[name].adapts:
                raise UsageError(
                    f"The method {name} trains no prototypes under protocol {self.protocol}.",
                    f"It does under {', '.join(METHODS[name].adapts)}.", f"Type: --method {name} --protocol paper",
                )  # fmt: skip

    def _check_method(self, name: str) -> None:
        method = METHODS[name]
        if method.needs_attribute and not self.attribute:
            raise UsageError(
                f"The method {name} needs an attribute.", "None is named.", f"Type: --method {name} --attribute sex"
            )  # fmt: skip
        if self.usage != "clip-adapt" and self.protocol not in method.protocols:
            raise UsageError(
                f"The method {name} has no protocol {self.protocol}.", f"It has {', '.join(method.protocols)}.",
                f"Type: --method {name} --protocol {method.protocols[0]}",
            )  # fmt: skip
        if name != "erm" and self.solver == "ridge":
            raise UsageError(
                f"The ridge solver does not know the method {name}.", "It screens with erm.", "Type: --solver lbfgs"
            )  # fmt: skip


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        flag = name.replace("_", "-")
        named = [one for one in known if one]
        near = get_close_matches(value, named, n=1)
        raise UsageError(
            f"{name}={value!r} means nothing.",
            f"It is {', '.join(named[:-1])} or {named[-1]}.",
            f"Type: --{flag} {near[0] if near else named[0]}",
        )
