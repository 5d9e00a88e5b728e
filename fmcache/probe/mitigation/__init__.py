"""Mitigation methods, one file each; `METHODS` is what ``--method`` may name beside ``erm``.

A method is data and one function (`fmcache.probe.problem`)::

    METHOD = Method(name="reweighing", fit=fit, summary="…", source="Kamiran & Calders 2012, eq. 4",
                    needs_attribute=True, attribute_at_test=False, grid={}, protocols=("convex", "paper"))

    def fit(problem: Problem) -> Solution: ...

`Problem` holds the training rows ``problem.train`` (x [n, d] float32 as stored; y [n, c] 0, 1 or NaN: NaN does not
train that column; group [n] with -1 unknown; sample, patient), the validation rows ``problem.val`` alike, ``weights``
[n, c], ``groups`` (names), ``columns`` (label and seed of each of the c columns), ``penalties`` [m], ``grid``, and
``data``: the rows centred with their eigenbasis, made once for all methods.

`Solution` holds ``hyper`` (m dicts) and either ``w`` [m, c, d] and ``b`` [m, c], or a function ``logits(x, group)``
→ [n, m, c]. The engine scores validation, chooses a hyper-parameter a column, stores the front where ``hyper`` has a
``coefficient`` (`fmcache.probe.mitigation.front`: ``choose_front`` with ``Method.criterion``, then ``front_rows``),
and scores the test rows. Methods that only weigh rows are one call::

    from fmcache.probe.erm import fit_weighted
    return fit_weighted(problem, weights * problem.weights)     # weights [n, c]; every penalty, any protocol
"""

from __future__ import annotations

from collections.abc import Mapping

from fmcache.probe.mitigation.constraints import DP, EQODDS
from fmcache.probe.mitigation.dfr import DFR
from fmcache.probe.mitigation.group_dro import GROUP_DRO, GROUP_DRO_LABEL
from fmcache.probe.mitigation.ind import IND
from fmcache.probe.mitigation.jtt import JTT
from fmcache.probe.mitigation.laftr import LAFTR
from fmcache.probe.mitigation.leace import LEACE
from fmcache.probe.mitigation.post import EQODDS_POST, GROUP_THRESHOLDS
from fmcache.probe.mitigation.resampling import BY_CELL, BY_GROUP
from fmcache.probe.mitigation.reweighing import REWEIGHING
from fmcache.probe.problem import Method

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        *(BY_GROUP, BY_CELL, REWEIGHING, GROUP_DRO, GROUP_DRO_LABEL, LAFTR, IND, DP, EQODDS),
        *(JTT, DFR, LEACE, GROUP_THRESHOLDS, EQODDS_POST),
    )
}
