"""Whether names matter: block ids permuted, and tenants and types called otherwise, must not change a single hit.

No field shows an id, so what an id decides would be a fault of the simulator. Tenants and request types are names: a
policy may ask whether two are equal, not which they are. So that a policy cannot pass because a trace names none, every
trace is given tenants and types, by session, and then others in their place. Turns and priorities are ordered, their
values mean something, and stay.

Knows prepared traces. Must not know panels or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sim.core.replay import NONE, frozen
from sim.executor import run
from sim.prepared import Prepared, prepare
from sim.promotion.replays import policy_hits
from sim.promotion.verdict import Check
from workloads import sampling
from workloads.panel import Panel
from workloads.trace import Trace

SEED = 7
GIVEN = 7
"""Tenants, and types, that a trace is given where it names none: few enough that some come again, and often."""
NAMES = 2**20
"""New names are drawn below this."""


def check_renaming(
    panel: Panel, source: str, executor: str, workers: int | None, progress: Callable[[int, int], None]
) -> Check:
    """Replay every cell of a panel under other names."""
    cells = {name: [c.capacity_blocks for c in panel.cells if c.trace_name == name] for name in panel.traces}
    jobs = [(name, (source, tuple(cells[name]))) for name in panel.traces]
    found = dict(zip(panel.traces, run(differences, panel.traces, jobs, executor, workers, progress), strict=True))
    moved = {name: counts for name, counts in found.items() if any(map(any, counts.values()))}
    figures = {
        "requests_that_hit_otherwise": found,
        "labels_given": GIVEN,
        "capacities": {name: list(sizes) for name, sizes in cells.items()},
    }
    if not moved:
        return Check("renaming", True, figures, "the same hits, request by request, under other ids, tenants and types")
    name, counts = next(iter(moved.items()))
    what = next(kind for kind, per_cell in counts.items() if any(per_cell))
    words = {"ids": "with block ids permuted", "labels": "with tenants and request types renamed"}[what]
    return Check(
        "renaming", False, figures, f"{words} {max(counts[what]):,} requests of {name} hit otherwise; compare labels"
        " only with each other",
    )  # fmt: skip


def differences(trace: Trace, source_and_capacities: tuple[str, Sequence[int]]) -> dict[str, list[int]]:
    """Return per capacity how many requests hit otherwise under permuted ids, and under other labels."""
    source, capacities = source_and_capacities
    plain = prepare(trace)
    permuted, one, other = with_permuted_ids(plain), *with_labels(trace, plain)
    found: dict[str, list[int]] = {"ids": [], "labels": []}
    for capacity in capacities:
        for kind, left, right in (("ids", plain, permuted), ("labels", one, other)):
            hits = [policy_hits(prepared, source, capacity) for prepared in (left, right)]
            found[kind].append(int(np.count_nonzero(hits[0] != hits[1])))
    return found


def with_permuted_ids(prepared: Prepared) -> Prepared:
    """Return what is replayed, every block under another id."""
    new = np.random.default_rng(SEED).permutation(prepared.parents.size).astype(np.uint32)
    parents = np.full(prepared.parents.size, NONE, np.uint32)
    inner = prepared.parents >= 0
    parents[new[inner]] = new[prepared.parents[inner]]
    requests = prepared.requests._replace(block_ids=frozen(new[prepared.requests.block_ids], np.uint32))
    return replace(prepared, requests=requests, parents=frozen(parents.view(np.int32), np.int32))


def with_labels(trace: Trace, prepared: Prepared) -> tuple[Prepared, Prepared]:
    """Return what is replayed with the labels it has, or is given, and with other names in their place."""
    given = np.unique(sampling.groups(trace), return_inverse=True)[1] % GIVEN + 1
    pairs = {}
    for field, column in (("tenant", trace.tenant), ("type", trace.request_type)):
        known = column is not None and bool((column >= 0).any())
        pairs[field] = _renamed(column if known and column is not None else given)
    one, other = (
        prepared.labels._replace(**{field: frozen(pair[i], np.int32) for field, pair in pairs.items()}) for i in (0, 1)
    )
    return replace(prepared, labels=one), replace(prepared, labels=other)


def _renamed(column: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return a column under two sets of names; unknown stays unknown."""
    old, number = np.unique(column, return_inverse=True)
    fresh = np.random.default_rng(SEED).choice(NAMES, (2, len(old)), replace=False).astype(np.int32) + 1
    fresh[0] = np.maximum(old, 0)
    fresh[1][old < 0] = 0
    return fresh[0][number], fresh[1][number]
