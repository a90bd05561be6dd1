"""Entry point: SGLang's radix cache under a user policy of the contract. Compiled apart from the engine's own."""

from __future__ import annotations

from typing import Any

import numba
from numba import types

from sim.core import fields, sglang
from sim.core.compiled import kernel
from sim.core.sglang_native import OUTPUTS, sample_arguments
from sim.core.sglang_records import Hooks, new_records


def _signature() -> Any:
    block, request, cache = (numba.from_dtype(dtype) for dtype in fields.DTYPES)
    by_block = types.FunctionType(types.float64(block, cache))
    by_request = types.FunctionType(types.float64(block, request, cache))
    hooks = types.NamedTuple((by_block, by_request, by_request, by_block), Hooks)
    return types.void(*sample_arguments(), hooks, numba.typeof(new_records(2, False)), *OUTPUTS)


@kernel(_signature())
def replay_user(requests, labels, tree, leaf_of, running, rules, server, hooks, records, hits_out, start_out, counts):
    """Replay all requests; `hooks`, `records` as named, the other arguments as of `sglang_native.replay_native`."""
    sglang.replay_all(
        requests, labels, tree, leaf_of, running, rules, server, hooks, records, hits_out, start_out, counts
    )
