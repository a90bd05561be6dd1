"""Finds, for each request, the later request that continues it. Knows ids and lengths only."""

from __future__ import annotations

from numba import types

from sim.core.compiled import kernel

_I32 = types.Array(types.int32, 1, "C", readonly=True)
_I64 = types.Array(types.int64, 1, "C", readonly=True)


@kernel(types.void(_I64, _I64, _I32, _I32, _I32, types.int32[::1]))
def find_continuations(offsets, next_use, request_of, input_tokens, output_tokens, continued_by):
    """Fill `continued_by` with the first later request that starts with all full blocks of each request.

    It must hold at least the request's input and output tokens. -1 where there is none, or where the request has no
    full block to recognise it by.

    Args:
        offsets: int64 (n + 1,), CSR offsets.
        next_use: int64 (n_refs,), next reference of the same block, n_refs if none.
        request_of: int32 (n_refs,), request of a reference.
        input_tokens: int32 (n,).
        output_tokens: int32 (n,).
        continued_by: int32 (n,), filled.
    """
    for i in range(input_tokens.size):
        continued_by[i] = -1
        if offsets[i + 1] == offsets[i]:
            continue
        reference = next_use[offsets[i + 1] - 1]
        while reference < next_use.size:
            j = request_of[reference]
            if input_tokens[j] >= input_tokens[i] + output_tokens[i]:
                continued_by[i] = j
                break
            reference = next_use[reference]
