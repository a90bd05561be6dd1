"""kvevolve: discover KV prefix-cache policies, with an engine-exact block-level simulator as the fitness function.

`simulate(trace, policy, capacity)` replays, `sweep` at many capacities, `stream` from a file larger than memory;
`optimum` and `ceiling` bound; `compare` sets policies side by side on a panel, `evaluate_many` scores candidates;
`explain` says where a policy loses hits; `check_policy` says why a policy would be refused. Names are imported when
first used, so that a process that runs candidates loads no more than it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.batch import evaluate_many
    from sim.bounds import Bound, ceiling, optimum
    from sim.check import check_policy
    from sim.comparison import Comparison, compare
    from sim.curves import Sweep
    from sim.estimate import sampling_error
    from sim.explanation import Explanation, explain
    from sim.integrity import IntegrityError, check_integrity
    from sim.policy.language import PolicyRejected
    from sim.policy.program import Policy
    from sim.registry import load_policy, policies
    from sim.result import Latency, Result
    from sim.simulation import Options, PolicyError, simulate
    from sim.streaming import stream
    from sim.sweeper import sweep
    from sim.weighted import WeightedBound, weighted_bound

_HOME = {
    "Bound": "sim.bounds",
    "Comparison": "sim.comparison",
    "Explanation": "sim.explanation",
    "IntegrityError": "sim.integrity",
    "Latency": "sim.result",
    "Options": "sim.simulation",
    "Policy": "sim.policy.program",
    "PolicyError": "sim.simulation",
    "PolicyRejected": "sim.policy.language",
    "Result": "sim.result",
    "Sweep": "sim.curves",
    "WeightedBound": "sim.weighted",
    "ceiling": "sim.bounds",
    "check_integrity": "sim.integrity",
    "check_policy": "sim.check",
    "compare": "sim.comparison",
    "evaluate_many": "sim.batch",
    "explain": "sim.explanation",
    "load_policy": "sim.registry",
    "optimum": "sim.bounds",
    "policies": "sim.registry",
    "sampling_error": "sim.estimate",
    "simulate": "sim.simulation",
    "stream": "sim.streaming",
    "sweep": "sim.sweeper",
    "weighted_bound": "sim.weighted",
}

__all__ = [
    "Bound",
    "Comparison",
    "Explanation",
    "IntegrityError",
    "Latency",
    "Options",
    "Policy",
    "PolicyError",
    "PolicyRejected",
    "Result",
    "Sweep",
    "WeightedBound",
    "ceiling",
    "check_integrity",
    "check_policy",
    "compare",
    "evaluate_many",
    "explain",
    "load_policy",
    "optimum",
    "policies",
    "sampling_error",
    "simulate",
    "stream",
    "sweep",
    "weighted_bound",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
