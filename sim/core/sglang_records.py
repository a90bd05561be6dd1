"""What a user policy sees of SGLang's segments: one `block` record per node, kept up to date as the engine's rules act.

Knows the fields of the contract (`sim.engines.sglang` says what each means for a segment); must not know which leaf
is evicted or when requests run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.core import compiled, fields, radix, replay
from sim.core.compiled import kernel


class Hooks(NamedTuple):
    """The native functions of a policy; SGLang asks nobody for admission."""

    priority: Any
    on_hit: Any
    on_insert: Any
    on_evict: Any


class Records(NamedTuple):
    """Records of one replay."""

    block: npt.NDArray[np.void]
    """`fields.BLOCK_DTYPE` per node."""
    request: npt.NDArray[np.void]
    """Shape (1,), the request being handled."""
    cache: npt.NDArray[np.void]
    """Shape (1,), what policies see of the cache."""
    blank: npt.NDArray[np.void]
    """Shape (1,), a record of zeros."""
    touch_score: npt.NDArray[np.float64]
    """Per node, only with touch-time scoring: the score when its last user let go."""


def new_records(slots: int, touch: bool) -> Records:
    """Return blank records for a tree of `slots` nodes; `touch` if scores are kept from release on."""
    return Records(
        compiled.records(np.zeros(slots, fields.BLOCK_DTYPE)),
        compiled.records(np.zeros(1, fields.REQUEST_DTYPE)),
        compiled.records(np.zeros(1, fields.CACHE_DTYPE)),
        compiled.records(np.zeros(1, fields.BLOCK_DTYPE)),
        np.zeros(slots if touch else 1),
    )


@kernel(inline=True)
def _refresh(tree, node, rules, records):
    """Copy what the tree itself keeps."""
    records.block[node].released = tree.nodes[node].last_access + rules.origin
    records.block[node].children = tree.nodes[node].children


@kernel(inline=True)
def score(tree, node, rules, hooks, records, i, counts):
    """Ask the policy for the priority of a node."""
    _refresh(tree, node, rules, records)
    value = hooks.priority(records.block[node], records.cache[0])
    counts[replay.PRIORITY_CALLS] += 1
    if not np.isfinite(value) and tree.n[radix.BROKEN] == 0:
        tree.n[radix.BROKEN] = i + 1
    return value


@kernel(inline=True)
def _used(records, node):
    """Note that the request being handled used a node."""
    record, request, cache = records.block[node], records.request[0], records.cache[0]
    record.last_access, record.last_access_s = cache.now, cache.now_s
    record.seen += 1
    record.prompt_blocks, record.output_tokens = request.blocks, request.output_tokens
    record.inferred_turn, record.turn_gap = request.inferred_turn, request.turn_gap
    record.turn, record.tenant = request.turn, request.tenant
    record.type, record.priority = request.type, request.priority


@kernel(inline=True)
def passed(tree, node, rules, hooks, records):
    """Note that a request's insert found a node."""
    record, cache = records.block[node], records.cache[0]
    record.gap = cache.now - record.last_access
    record.gap_s = cache.now_s - record.last_access_s
    record.hits += 1
    _used(records, node)
    if rules.has_on_hit:
        _refresh(tree, node, rules, records)
        hooks.on_hit(record, records.request[0], cache)


@kernel(inline=True)
def enter(tree, node, rules, hooks, records):
    """Note that a node was created by an insert."""
    records.block[node] = records.blank[0]
    record, cache = records.block[node], records.cache[0]
    record.gap, record.gap_s = fields.NEVER, fields.NEVER
    record.inserted, record.inserted_s = cache.now, cache.now_s
    record.depth = tree.nodes[node].end - tree.nodes[node].length
    record.generated = tree.nodes[node].generated
    _used(records, node)
    if rules.has_on_insert:
        _refresh(tree, node, rules, records)
        hooks.on_insert(record, records.request[0], cache)


@kernel(inline=True)
def halve(records, node, upper, blocks):
    """Give both halves of a cut node its record; the lower one begins `blocks` blocks deeper."""
    records.block[upper] = records.block[node]
    records.block[node].depth += blocks
    if records.touch_score.size > 1:
        records.touch_score[upper] = records.touch_score[node]


@kernel(inline=True)
def evicted(tree, node, rules, hooks, records):
    """Note that a node is about to be evicted."""
    if rules.has_on_evict:
        _refresh(tree, node, rules, records)
        hooks.on_evict(records.block[node], records.cache[0])
