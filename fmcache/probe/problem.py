"""What a method is given and what it gives back: the whole contract between the engine and a method.

The engine (`fmcache.probe.run`) draws splits and subsets, builds a `Problem`, calls ``method.fit(problem)``, scores the
validation rows with the `Solution`, chooses one hyper-parameter a column on validation patients only, and scores all
other rows with it. A method trains; it never chooses and never sees a test row.

A *column* is one label under one seed (``columns[j]`` names them). Columns share the rows x; which rows train a column
is told by y: a row that does not (unknown label, another seed's split, not in the subset) has NaN there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmcache.probe.centred import Centred
from fmcache.shapes import Bool, Float, Int


@dataclass(frozen=True)
class Column:
    """One thing to be predicted: a label under a seed."""

    label: str
    seed: int


@dataclass(frozen=True)
class Rows:
    """Embeddings with what is known of each; a row is an image, or one slice of a volume.

    Attributes
    ----------
    x : [n, d] float32, as stored (not centred).
    y : [n, c] float32: 0, 1, or NaN where the row does not count in the column.
    group : [n], index into `Problem.groups`; -1 where the attribute is unknown (or none was asked for).
    sample, patient : [n], numbers; the slices of a volume share their sample, the images of a person their patient.
    """

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n c"]
    group: Int[np.ndarray, " n"]
    sample: Int[np.ndarray, " n"]
    patient: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Prototypes:
    """Text embeddings of the two classes of every column, for the usages clip-zs and clip-adapt.

    Attributes
    ----------
    start : [m, c, 2, d], as the model gives them; [..., 1, :] is the finding. templates : m numbers, -1 the ensemble.
    scale : of the cosine. tokens : vectors in one image row.
    """

    start: Float[np.ndarray, "m c 2 d"]
    templates: tuple[int, ...]
    scale: float
    tokens: int


@dataclass(frozen=True)
class Problem:
    """Everything a method may use.

    Attributes
    ----------
    train, val : training rows, and validation rows (for methods that adjust thresholds or refit on a part of them).
    weights : [n, c] ≥ 0, of each training row in each column's mean loss (class weights; else all 1).
    data : the training rows centred, in blocks, with their eigenbasis: made once, for `fit_logistic(data, …)`.
    groups : names of the attribute's groups; empty if no ``--attribute`` was given.
    attribute : its name, "" if none.
    penalties : [m] λ, ascending, on the scale of x: what `fit_logistic` takes.
    grid : the method's own hyper-parameters, ``Method.grid`` with what the user put in its place.
    protocol : ``convex``, ``ridge``, ``paper`` or ``fairmedfm``.
    volume : ``max`` or ``mean``: how the logits of a volume's slices become one (`fmcache.probe.pooling.pool`).
    precision : of the rows in products, ``float32`` or ``bfloat16``.
    prototypes : for clip-zs and clip-adapt; else None.
    """

    train: Rows
    val: Rows
    weights: Float[np.ndarray, "n c"]
    data: Centred
    columns: tuple[Column, ...]
    groups: tuple[str, ...]
    attribute: str
    penalties: Float[np.ndarray, " m"]
    grid: Mapping[str, tuple[float, ...]]
    protocol: str = "convex"
    volume: str = "max"
    precision: str = "float32"
    prototypes: Prototypes | None = None


@dataclass(frozen=True)
class Solution:
    """One probe for every hyper-parameter (m) and column (c).

    Attributes
    ----------
    hyper : m dicts of what was tried, e.g. ``{"penalty": 0.01, "coefficient": 1.0}``, from the least to the most
        regularised: among equals the last one wins. Where ``coefficient`` is a key, the engine stores the front:
        utility against fairness over the coefficients.
    w, b : [m, c, d] and [m, c]: logits ``x @ w[j, l] + b[j, l]`` of rows as stored. Or else
    logits : (x [n, d], group [n]) → [n, m, c] float64. `group` holds the attribute only if the method's
        ``attribute_at_test`` is true; else it is -1 everywhere. With w and b beside it, those choose the
        hyper-parameter (they are what was trained) and this function scores (it is what was made of it).
    unit_norm : rows are scaled to unit norm before w and b apply.
    converged : [m, c], or None where the word has no meaning.
    val_used : [nv], validation rows that the method was fitted on; the choice is made on the others.
    prevalence : [c], share of positives that the logits were trained at, in (0, 1); None where there is no such number.
    facts : JSON-able remarks, stored in the run. parameters : arrays, stored beside w and b.
    """

    hyper: tuple[Mapping[str, float], ...]
    w: Float[np.ndarray, "m c d"] | None = None
    b: Float[np.ndarray, "m c"] | None = None
    logits: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    unit_norm: bool = False
    converged: Bool[np.ndarray, "m c"] | None = None
    val_used: Bool[np.ndarray, " nv"] | None = None
    prevalence: Float[np.ndarray, " c"] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A way to train: one entry of `fmcache.probe.methods.METHODS`.

    Attributes
    ----------
    name : of the ``method`` column and of ``--method``.
    fit : the work.
    summary, source : one line each, shown by ``fmcache probe --list-methods`` (paper or code).
    needs_attribute : training needs ``--attribute``; the engine refuses without it.
    attribute_at_test : scoring needs it too; recorded in the run.
    grid : own hyper-parameters and the values tried, e.g. ``{"coefficient": (0.0, 0.1, 1.0)}``.
    protocols : those it knows; the engine refuses others. adapts : those under which it trains prototypes
        (clip-adapt); none for most.
    criterion : what chooses the coefficient on validation, of `fmcache.probe.mitigation.front.CRITERIA`.
    stochastic : whether another seed gives another result even under ``convex``; if not, one seed says it all.
    streams : whether it reads ``train.x`` and ``val.x`` by slices only, so that rows larger than memory can be probed.
    trains : whether it looks at training rows at all.
    has_prior : whether its logits are trained at one prevalence (`Solution.prevalence`): ``--prior`` can move them.
    class_weights : whether `Problem.weights` make a difference; the engine refuses ``--class-weight`` otherwise.
    version : part of the run's key; raise it when results change.
    """

    name: str
    fit: Callable[[Problem], Solution]
    summary: str
    source: str = ""
    needs_attribute: bool = True
    attribute_at_test: bool = False
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    protocols: tuple[str, ...] = ("convex",)
    adapts: tuple[str, ...] = ()
    criterion: str = "auc"
    stochastic: bool = False
    streams: bool = False
    trains: bool = True
    has_prior: bool = False
    class_weights: bool = True
    version: int = 1
