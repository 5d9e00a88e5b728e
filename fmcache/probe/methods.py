"""Every training method by its name."""

from __future__ import annotations

from collections.abc import Mapping

from fmcache.probe.erm import ERM
from fmcache.probe.mitigation import METHODS as MITIGATION
from fmcache.probe.problem import Method

METHODS: Mapping[str, Method] = {ERM.name: ERM, **MITIGATION}
