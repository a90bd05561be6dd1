"""Traces fitted to real ones: `fit(trace)` gives tables, `fitted(seed, tables=...)` a trace from them.

Three steps. The derivation forest (:mod:`workloads.fitted.forest`) says of every request which earlier one it
continues, after how long, how much of it, and what it adds. The tables (:mod:`workloads.fitted.fitting`) are the
distributions of that. The generator (:mod:`workloads.fitted.generator`) draws from them in order of arrival and
continues the earlier request that fits age and depth best. So how much is shared, by how deep prefixes, after how
long, and how much is new come out as in the real trace, and with them the hits of caches of any size: what an LRU
cache and the optimum hit depends on which intervals blocks wait between uses, and how many wait at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.errors import TraceError
from workloads.trace import Trace

__all__ = ["fit", "fitted"]


def fit(trace: Trace) -> dict[str, Any]:
    """Return the tables of a real trace, see :func:`workloads.fitted.fitting.fit`."""
    from workloads.fitted import fitting  # here and below: pydantic and numba are for those who fit or generate

    return fitting.fit(trace)


def fitted(
    seed: int, requests: int | None = None, block_tokens: int | None = None, *, tables: Mapping[str, Any]
) -> Trace:
    """Traffic like that of a real trace, from tables fitted to it by `kvevolve trace fit`.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace; default: as many as the real one had. Their rate stays.
        block_tokens: Tokens per block; default: as in the real trace.
        tables: What `fit` returned.

    Returns:
        The trace, with session and turn: a root and what continues it, directly or not. By default it has about as
        many distinct blocks as the real one.

    Raises:
        TraceError: tables or another argument make no sense.
    """
    from workloads.fitted.generator import generate
    from workloads.fitted.tables import checked

    known = checked(tables)
    sizes: dict[str, int] = {
        "requests": known.requests if requests is None else requests,
        "block_tokens": known.block_tokens if block_tokens is None else block_tokens,
    }
    for key, value in sizes.items():
        if type(value) is not int or value < 1:
            raise TraceError(f"{key}: expected an integer >= 1, got {value!r}", field=key)
    trace = generate(known, seed, sizes["requests"], sizes["block_tokens"])
    parameters = {"seed": seed, **sizes}
    return trace.renamed(trace.name, {"format": "synthetic", "generator": "fitted", "parameters": parameters})
