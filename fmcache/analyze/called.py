"""What of a run's usage and method is worth a word: a linear probe by erm is what a reader expects."""

from __future__ import annotations

PLAIN_USAGES = ("", "lp", "external")
PLAIN_METHODS = ("", "erm", "none")


def beyond_plain(usage: str, method: str) -> list[str]:
    """Those of the two that are not plain, in that order."""
    return [part for part, plain in ((usage, PLAIN_USAGES), (method, PLAIN_METHODS)) if part not in plain]
