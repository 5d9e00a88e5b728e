"""What a usage predicts and how: labels by a probe, by neighbours or by text; or the attributes themselves."""

from __future__ import annotations

from collections.abc import Mapping

from fmcache.probe.methods import METHODS
from fmcache.probe.neighbours import KNN
from fmcache.probe.options import Options
from fmcache.probe.problem import Method

FIXED: Mapping[str, Method] = {"knn": KNN}
"""Usages that come with their own way of training (or of not training)."""


def methods_of(options: Options) -> list[Method]:
    """The methods of a call, in the order in which they were named."""
    if options.usage in FIXED:
        return [FIXED[options.usage]]
    return [METHODS[name] for name in dict.fromkeys(options.methods)]
