"""Which runs a call stands for: usage × entry × subset × method, each over label × seed × hyper-parameter.

A run has a key: the digest of all that its predictions depend on (the data, the configuration, the versions of engine
and method). A run that is in the cache under its key is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from fmcache.errors import MissingEntry, UsageError
from fmcache.probe.asked import entries_of, is_called, labels_of
from fmcache.probe.attribute import labels_of_attributes
from fmcache.probe.departures import departures
from fmcache.probe.minibatch import RECIPES
from fmcache.probe.neighbours import NEIGHBOURS
from fmcache.probe.options import Options
from fmcache.probe.penalties import GRID
from fmcache.probe.problem import Method
from fmcache.probe.source import Source, one_dataset, two_datasets
from fmcache.probe.study import Study
from fmcache.probe.subsets import Subset, bracketed, subsets_of
from fmcache.probe.truth import groups_of, truth_of
from fmcache.probe.usage import WITH_TEXTS, methods_of, texts_of
from fmcache.store.cache import Cache
from fmcache.store.entries import Entry
from fmcache.store.keys import digest
from fmcache.store.runs import ID_LENGTH

ENGINE = 5  # raised when the same configuration gives other numbers
COLUMNS = 2048  # trained together, at most: labels × seeds × penalties


@dataclass(frozen=True)
class Job:
    """One run to be made.

    Attributes
    ----------
    method : what trains. subset : of the training samples. seeds : which; labels : fitted; skipped : name → reason.
    config : all that the result depends on beside the data. key : of both.
    """

    study: Study
    method: Method
    subset: Subset
    seeds: tuple[int, ...]
    labels: tuple[str, ...]
    skipped: Mapping[str, str]
    config: Mapping[str, Any]
    key: str

    @property
    def run_id(self) -> str:
        return self.key[:ID_LENGTH]

    @property
    def name(self) -> str:
        """Of the ``method`` column: two runs of one model that were asked for differently are never called the same."""
        return self.method.name + bracketed(
            [*self.subset.parts, *departures(self.study.options, self.method.grid)]
        )

    @property
    def blocks(self) -> list[tuple[str, ...]]:
        """The labels in blocks that are trained together."""
        each = max(1, COLUMNS // (len(self.seeds) * len(GRID)))
        return [self.labels[start : start + each] for start in range(0, len(self.labels), each)]

    @property
    def probes(self) -> int:
        """How many are trained."""
        own = int(np.prod([len(values) for values in self.grid.values()])) if self.grid else 1
        usual = len(GRID) if self.study.options.protocol == "convex" else 1
        many = {"knn": len(NEIGHBOURS), "none": 1}.get(self.method.name, own * usual)
        return len(self.labels) * len(self.seeds) * many

    @property
    def grid(self) -> Mapping[str, tuple[float, ...]]:
        """The method's own hyper-parameters, with the user's values in their place."""
        given = self.study.options.grid
        return {name: tuple(given.get(name, values)) for name, values in self.method.grid.items()}


def make_plan(cache: Cache, options: Options, note: Callable[[str], None]) -> list[Job]:
    """All runs of a call; nothing but tables is read.

    Raises
    ------
    MissingEntry, UsageError : an unknown name, a patient in two splits, no label that can be fitted.
    """
    options.check()
    note = _once(note)
    methods = methods_of(options)
    if stray := sorted(set(options.grid) - {name for method in methods for name in method.grid}):
        known = sorted({name for method in methods for name in method.grid})
        near = get_close_matches(stray[0], known, n=1)
        raise UsageError(
            f"No method has the hyper-parameter {stray[0]}.",
            f"These have {', '.join(known) or 'none'}.",
            f"Did you mean --grid {near[0]}=…?"
            if near
            else "Type: --grid NAME=… with one of them, or name its method: --method NAME",
        )
    jobs: list[Job] = []
    for source in _sources(cache, options):
        study = _study(cache, source, options, note)
        if study is None:
            continue
        for subset in subsets_of(options.fractions, options.balance):
            jobs += _jobs(study, subset, methods, note)
    if not jobs:
        raise UsageError(
            "There is nothing to probe.",
            "No dataset has any of these labels.",
            'List the labels with: fmcache sql "DESCRIBE samples"',
        )
    return jobs


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """The same remark is made once."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            note(text)

    return say


def _jobs(study: Study, subset: Subset, methods: Sequence[Method], note: Callable[[str], None]) -> list[Job]:
    source, options = study.source, study.options
    random = source.policy != "given" or options.protocol != "convex" or bool(subset.name)
    jobs = []
    _check_size(source, options)
    _check_balance(source, subset)
    fitted: dict[tuple[int, ...], tuple[list[str], dict[str, str]]] = {}
    _tell_of_the_start(study, subset, note)
    for method in methods:
        _check_groups(study, method, note)
        wanted = options.seeds if random or method.stochastic else 1
        if wanted < options.seeds:
            note(f"{source.dataset} gives its own splits: one seed says it all.")
        seeds = tuple(range(wanted))
        if seeds not in fitted:
            fitted[seeds] = study.fitted(subset, seeds) if method.trains else (list(study.labels), {})
            for name, reason in fitted[seeds][1].items():
                note(f"{source.name}{subset.name}: {name} is skipped, {reason}.")
        labels, skipped = fitted[seeds]
        if not labels:
            within = f" with {subset.name}" if subset.name else ""
            raise UsageError(
                f"No label of {source.train_dataset or source.dataset} can be fitted{within}.",
                "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3]) + ".",
                "A label needs both classes among the training patients that have an embedding.",
            )
        config = _config(study, method, subset, seeds, labels)
        key = digest({"config": config, "data": source.digest})
        jobs.append(Job(study, method, subset, seeds, tuple(labels), skipped, config, key))
    return jobs


def _check_size(source: Source, options: Options) -> None:
    d = source.x.shape[1]
    if options.pca > d:
        raise UsageError(
            f"--pca {options.pca} asks for more components than there are features.",
            f"{source.name} has {d:,} features.",
            f"Type: --pca {min(d, max(1, d // 4))}   or leave --pca out to keep all",
        )


def _check_balance(source: Source, subset: Subset) -> None:
    if not subset.attribute:
        return
    groups = groups_of(source.table, subset.attribute, "--balance")[1]
    if len(groups) < 2:
        raise UsageError(
            f"--balance {subset.balance} needs two groups.",
            f"{subset.attribute} of {source.name} has {_groups(groups)}.",
            "Name another attribute, or leave --balance out.",
        )


def _check_groups(study: Study, method: Method, note: Callable[[str], None]) -> None:
    """A method that tells groups apart needs two; with one it would be erm under another name."""
    source, options = study.source, study.options
    worst = options.select == "worst"
    if not (method.needs_attribute or method.attribute_at_test or worst):
        return
    who = method.name if method.needs_attribute or method.attribute_at_test else "select=worst"
    if len(study.groups) < 2:
        raise UsageError(
            f"{who} needs two groups.",
            f"{options.attribute} of {source.name} has {_groups(study.groups)}.",
            f"Name another attribute, or {'leave --select out' if who != method.name else 'type: --method erm'}",
        )
    training = source.splits[0] == "train"
    there = [study.groups[code] for code in np.unique(study.group[training & (study.group >= 0)])]
    if len(there) < 2:
        note(
            f"warning: {source.name}: its training samples have {_groups(there)}, of {options.attribute}; "
            f"what {method.name} does about groups while it trains is without effect."
        )


def _groups(names: Sequence[str]) -> str:
    return f"one group, {names[0]}" if len(names) == 1 else f"{len(names) or 'no'} groups"


def _tell_of_the_start(study: Study, subset: Subset, note: Callable[[str], None]) -> None:
    """A recipe that begins anywhere and then hardly moves measures where it began."""
    source, recipe = study.source, RECIPES.get(study.options.protocol)
    if recipe is None or not recipe.adam or study.options.usage not in ("lp", "attribute"):
        return
    trained: np.ndarray = np.any(study.training(subset, 0, study.y), axis=1)
    rows, bound = int(trained[source.sample].sum()), 1 / source.x.shape[1] ** 0.5
    if 0 < (reach := recipe.reach(rows)) < bound:
        note(
            f"{source.name}{subset.name}: protocol {study.options.protocol} moves a coefficient by {reach:.2g} at most "
            f"with {rows:,} training rows, from a start drawn in ±{bound:.2g}; the start may say more than the images. "
            "--protocol convex has no start."
        )


def _config(
    study: Study, method: Method, subset: Subset, seeds: Sequence[int], labels: Sequence[str]
) -> dict[str, Any]:
    """All that the numbers depend on, beside the data."""
    options = study.options
    own = {name: list(options.grid.get(name, values)) for name, values in method.grid.items()}
    return {
        "engine": ENGINE,
        "usage": options.usage,
        "method": method.name,
        "method_version": method.version,
        "grid": own,
        "attribute": options.attribute if knows_groups(method, options) else "",
        "labels": list(labels),
        "seeds": list(seeds),
        "protocol": options.protocol,
        "solver": options.solver,
        "penalties": list(GRID),
        "volume": options.volume,
        "select": options.select,
        "class_weight": options.class_weight,
        "uncertain": options.uncertain,
        "standardize": options.standardize or bool(options.fuse),
        "precision": options.precision,
        "prior": options.prior,
        "fraction": subset.fraction,
        "balance": subset.balance,
        "control": subset.control,
        "pca": options.pca,
        "text": "" if study.texts is None else study.texts.entry.key,
        "template": options.template,
        "draws": options.draws if options.usage == "attribute" else 0,
        "save": options.save,
        "allow_leakage": options.allow_leakage,
        "split_policy": study.source.policy,
    }


def knows_groups(method: Method, options: Options) -> bool:
    """Whether the attribute makes a difference: the same erm is then one run, whatever attribute stands beside it."""
    uses = method.needs_attribute or method.attribute_at_test or method.criterion != "auc"
    return uses or options.select == "worst"


def _sources(cache: Cache, options: Options) -> list[Source]:
    how = (options.seeds, options.allow_leakage)
    if options.usage in WITH_TEXTS and (options.train_dataset or options.fuse):
        raise UsageError(
            f"{options.usage} works on one model and one dataset.",
            "Texts lie beside the images of one model.",
            "Leave --fuse and --train-dataset out, or type: fmcache probe lp",
        )
    if options.train_dataset:
        measured = entries_of(cache, options.models, [options.eval_dataset])
        pairs = []
        for first in entries_of(cache, options.models, [options.train_dataset]):
            mine = [other for other in measured if other.model == first.model]
            pairs += [(first, other) for other in mine if other.key == first.key] or [
                (first, other) for other in mine[:1]
            ]
        if not pairs:
            raise MissingEntry(
                f"No model has embeddings of {options.train_dataset} and of {options.eval_dataset}.",
                f"{options.eval_dataset} has {', '.join(sorted({entry.model for entry in measured}))}.",
                f"Type: fmcache extract --model MODEL --dataset {options.eval_dataset}",
            )
        return [two_datasets(cache, first, second, *how) for first, second in pairs]
    if options.fuse:
        every = entries_of(cache, options.fuse, options.datasets)
        sources = []
        for dataset in dict.fromkeys(entry.dataset for entry in every):
            chosen = [_only(every, model, dataset) for model in options.fuse]
            sources.append(one_dataset(cache, chosen, *how))
        return sources
    entries = entries_of(cache, options.models, options.datasets)
    if options.usage in WITH_TEXTS:
        entries = _beside_texts(cache, entries, options)
    return [one_dataset(cache, [entry], *how) for entry in entries]


def _beside_texts(cache: Cache, entries: Sequence[Entry], options: Options) -> list[Entry]:
    """Those whose rows lie beside texts; all if none do, or models that were named, for the error that says so."""
    good = []
    for entry in entries:
        try:
            texts_of(cache, entry, options.prompts)
        except (UsageError, MissingEntry):
            continue
        good.append(entry)
    named = [entry for entry in entries if options.models and entry.model not in {one.model for one in good}]
    return good + named or list(entries)


def _only(entries: Sequence[Entry], model: str, dataset: str) -> Entry:
    found = [entry for entry in entries if is_called(entry, model) and entry.dataset == dataset]
    if len(found) != 1:
        keys = ", ".join(entry.key[:12] for entry in found)
        raise MissingEntry(
            f"{len(found) or 'No'} entries of {model} on {dataset} can be fused.",
            f"Their keys are {keys}." if found else "",
            f"Type: --fuse {model}@KEY,…"
            if found
            else f"Type: fmcache extract --model {model} --dataset {dataset}",
        )
    return found[0]


def _study(cache: Cache, source: Source, options: Options, note: Callable[[str], None]) -> Study | None:
    if options.usage == "attribute":
        options = replace(options, attribute="")
        names, y = labels_of_attributes(source.table, options.labels)
        return Study(source, options, tuple(names), y, np.full(len(y), -1), ())
    names = labels_of(cache, source.train_dataset or source.dataset, options.labels)
    if source.train_dataset:
        names = [name for name in names if f"label.{name}" in source.table.columns]
        if not names:
            raise UsageError(
                f"{source.train_dataset} and {source.dataset} share no label.",
                "Labels are matched by name.",
                "Rename them in the datasets' tables or cards.",
            )
    if not names:
        note(f"{source.dataset} has none of the labels asked for.")
        return None
    texts = None
    if options.usage in WITH_TEXTS:
        texts = texts_of(cache, source.entries[0], options.prompts)
        without = [name for name in names if name not in texts.labels]
        if without and options.labels is not None:
            texts.array(without[0])  # says what is there
        if without:
            note(f"{source.name}: no prompts for {', '.join(without)}.")
        names = [name for name in names if name in texts.labels]
        if many := [name for name in names if len(texts.labels[name]) != 2]:
            raise UsageError(
                f"The prompts of {many[0]} have {len(texts.labels[many[0]])} classes.",
                "A label has two: its absence and itself.",
                "Correct `classes` in the dataset's card.",
            )
        most = max((len(texts.templates(name)) for name in names), default=1)
        if options.template.isdigit() and int(options.template) >= most:
            raise UsageError(
                f"There is no template {options.template}.", f"There are {most}, from 0 to {most - 1}.",
                "Type: --template 0",
            )  # fmt: skip
    y = truth_of(source.table, names, options.uncertain)
    if options.attribute:
        group, groups = groups_of(source.table, options.attribute)
    else:
        group, groups = np.full(source.table.height, -1), ()
    return Study(source, options, tuple(names), y, group, groups, texts)
