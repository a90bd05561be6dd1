"""Entry point: SGLang's radix cache under one of its own eviction policies. Compiled apart from user policies."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from sim.core import radix, replay, sglang, view
from sim.core.compiled import kernel


def sample_arguments() -> list[Any]:
    """Return the numba types of the arguments both entry points begin with."""
    labels = view.sample_labels()
    rules = sglang.Rules(0, 1, 1, 1, 1, 1, 0.0, False, False, False)
    state = (radix.new_tree(1, 1), np.zeros(1, np.uint32), replay.new_running(1))
    values = (replay.sample_requests(), labels, *state, rules, replay.SERIAL)
    return [numba.typeof(value) for value in values]


OUTPUTS = (types.int32[::1], types.float64[::1], types.int64[::1])


@kernel(types.void(*sample_arguments(), *OUTPUTS))
def replay_native(requests, labels, tree, leaf_of, running, rules, server, hits_out, start_out, counts):
    """Replay all requests.

    Args:
        requests: `replay.Requests`.
        labels: `view.Labels`; `priority` is read by the `priority` policy.
        tree: `radix.new_tree(capacity, n_ids)`; holds the final state afterwards.
        leaf_of: uint32 (n,), scratch: the node each running request has locked.
        running: `replay.new_running(server.max_running)`.
        rules: `sglang.Rules`, scoring `WHEN_CANDIDATE`.
        server: `replay.Server`; in serial mode a request finishes as it starts.
        hits_out: int32 (n,), filled with hit blocks or `replay.UNSERVED`.
        start_out: float64 (n,), filled with admission times in seconds.
        counts: int64 (len(replay.COUNTERS),), zero on entry.
    """
    sglang.replay_all(requests, labels, tree, leaf_of, running, rules, server, None, None, hits_out, start_out, counts)
