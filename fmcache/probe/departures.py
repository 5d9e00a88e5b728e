"""What a call asked for beside the defaults, as it stands behind the method's name: ``erm[protocol=paper]``.

A table of numbers holds the model, dataset, usage and method of each. If the recipe, the solver or the prior were not
in the name, a published recipe far from its optimum and the optimum would be averaged, compared and ranked as one.
"""

from __future__ import annotations

from collections.abc import Collection

from fmcache.probe.options import Options

DEFAULT_PROTOCOL = {"clip-adapt": "paper"}  # of the others: convex


def departures(options: Options, hyper: Collection[str] = ()) -> list[str]:
    """``name=value`` of each option that changes what is trained or measured and is not at its default.

    Parameters
    ----------
    hyper : the method's own hyper-parameters; only of these does a ``--grid`` stand in the name.
    """
    usual = Options()
    parts = [f"train={options.train_dataset}"] if options.train_dataset else []
    if options.protocol != DEFAULT_PROTOCOL.get(options.usage, usual.protocol):
        parts.append(f"protocol={options.protocol}")
    for name in (
        "solver", "volume", "select", "class_weight", "uncertain", "precision", "prior", "pca", "prompts", "template",
    ):  # fmt: skip
        value = getattr(options, name)
        if value != getattr(usual, name):
            parts.append(f"{name.replace('_', '-')}={value}")
    if options.standardize and not options.fuse:  # fused embeddings always are
        parts.append("standardize")
    for name, values in options.grid.items():
        if name in hyper:
            parts.append(f"{name}={'/'.join(f'{value:g}' for value in values)}")
    return parts
