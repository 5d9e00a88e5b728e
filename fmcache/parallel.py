"""Labels or columns side by side: one thread a core, one BLAS thread each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

One = TypeVar("One")
Result = TypeVar("Result")
MOST = 8  # threads; each holds what one item needs


def side_by_side(work: Callable[[One], Result], items: Sequence[One]) -> list[Result]:
    """[work(item) for item in items], several at a time; nearly all of the work is in compiled loops that let go of
    the GIL. BLAS is held to one thread, so that the results do not depend on the number of cores, and because its
    own threads wait for each other while spinning, which on a busy machine is many times slower."""
    with threadpool_limits(limits=1, user_api="blas"):
        threads = min(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST
        )
        if threads == 1 or len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(threads, len(items))) as pool:
            return list(pool.map(work, items))
