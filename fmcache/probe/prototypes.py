"""Probes whose classes are sentences: zero-shot (clip-zs), and prototypes trained from them (clip-adapt).

With image rows x and a text embedding t₁ for the finding, t₀ for its absence (u = t / |t|)::

    logit = scale · (max_k cos(x_k, t₁) - max_k cos(x_k, t₀))       the log-odds of a softmax over the two classes

``scale`` is the model's own; k runs over the vectors of one image (one, but for BLIP-2's 32 queries); a model's bias
cancels. Several templates: u is the mean over templates of the unit embeddings, scaled to unit norm (CLIP's ensemble).

clip-adapt trains t₁ and t₀ by a published recipe (`fmcache.probe.minibatch.RECIPES`), all else frozen. They begin as
the text embeddings as the model gives them and are scaled to unit norm in every step, as FairMedFM's wrapper does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.problem import Column, Method, Problem, Prototypes, Solution
from fmcache.shapes import Float
from fmcache.store.texts import Texts

ENSEMBLE = ""
CHOSEN = "val"


def unit(x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Scaled to unit norm; a zero vector stays."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / np.where(norm > 0, norm, 1))


def prototypes_of(texts: Texts, columns: Sequence[Column], template: str) -> Prototypes:
    """What the columns begin with: one set, or with ``val`` the ensemble and every template beside it."""
    arrays = {label: texts.array(label)[:, :2].astype(np.float64) for label in {c.label for c in columns}}
    most = max(len(array) for array in arrays.values())
    sets: list[list[np.ndarray]] = []
    names: list[int] = []
    wanted = [*range(most), -1] if template == CHOSEN else [-1 if template == ENSEMBLE else int(template)]
    for t in wanted:
        chosen = []
        for column in columns:
            array = arrays[column.label]
            if t >= 0:
                chosen.append(array[min(t, len(array) - 1)])
            else:
                chosen.append(array[0] if len(array) == 1 else unit(unit(array).mean(axis=0)))
        sets.append(chosen)
        names.append(t)
    return Prototypes(np.array(sets), tuple(names), texts.logit_scale, texts.image_tokens)


def fit_zero_shot(problem: Problem) -> Solution:
    """Nothing is trained; with several sets of prototypes validation chooses (``template`` -1 is the ensemble)."""
    of = problem.prototypes
    assert of is not None
    return solution_of(of.start, of, tuple({"template": float(t)} for t in of.templates))


def solution_of(
    start: Float[np.ndarray, "m c 2 d"],
    of: Prototypes,
    hyper: tuple[dict[str, float], ...],
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> Solution:
    """The probe that these prototypes are: linear on unit rows, or the maximum over an image's vectors."""
    u = unit(start)
    if of.tokens == 1:
        w = of.scale * (u[:, :, 1] - u[:, :, 0])
        return Solution(hyper, w, np.zeros(w.shape[:2]), unit_norm=True, facts=facts)

    def logits(x: np.ndarray, group: np.ndarray) -> np.ndarray:
        parts = unit(x.reshape(len(x), of.tokens, -1).astype(np.float64))
        cosine = np.einsum("nkd,mctd->nkmct", parts, u).max(axis=1)
        return of.scale * (cosine[..., 1] - cosine[..., 0])

    return Solution(hyper, logits=logits, facts=facts)


def adapted(kept: Sequence[tuple[int, Any]], problem: Problem) -> Solution:
    """The trained prototypes [c, 2, d] of every epoch that validation may choose."""
    assert problem.prototypes is not None
    start = np.stack([np.asarray(p, np.float64) for _, p in kept])
    return solution_of(start, problem.prototypes, tuple({"epoch": float(epoch)} for epoch, _ in kept))


@dataclass(frozen=True)
class Loss:
    """The cross-entropy of prototypes p [t, l, 2, d]; hashable, so that it compiles once."""

    scale: float
    tokens: int

    def __call__(self, p: Any, x: Any, truth: Any, share: Any) -> Any:
        """Summed over streams and columns; x [t, B, tokens · d], truth [t, B, l], share [t, B] sums to 1 over B."""
        u = p / jnp.maximum(jnp.linalg.norm(p, axis=-1, keepdims=True), 1e-12)
        rows = x.reshape(*x.shape[:2], self.tokens, -1)
        rows = rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        cosine = jnp.einsum("tbkd,tlcd->tbklc", rows, u).max(axis=2)
        z = self.scale * (cosine[..., 1] - cosine[..., 0])
        return ((jax.nn.softplus(z) - truth * z) * share[:, :, None]).sum()


ZERO_SHOT = Method(
    name="none",
    fit=fit_zero_shot,
    summary="Text prompts as classes, nothing trained.",
    source="Radford et al. 2021, CLIP; FairMedFM, section 3.2",
    needs_attribute=False,
    trains=False,
    class_weights=False,
)
