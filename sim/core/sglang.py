"""Replays requests against SGLang's radix cache, under one of its own policies or a user policy, segment by segment.

Source: SGLang 0.5.23 `UnifiedRadixCache` with the calls its scheduler makes, equal request by request to the recorded
hits. Match at each attempt, lock the path, evict whole leaves for the shortfall, insert, match and lock again; at the
finish the generated blocks. Knows blocks and time; must not know what a policy is made of. `hooks` and `records` are
None for the engine's own policies: numba then drops every branch that uses them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.core import heap, radix, replay, view
from sim.core.compiled import kernel
from sim.core.sglang_records import enter, evicted, halve, passed, score

POLICIES = ("lru", "lfu", "slru", "fifo", "mru", "filo", "priority", "tlru")
"""SGLang's own strategies in the order of their codes; `USER` is the code of a user policy."""
LRU, LFU, SLRU, FIFO, MRU, FILO, PRIORITY, TLRU = range(len(POLICIES))
USER = len(POLICIES)

AT_EVICTION, WHEN_CANDIDATE, AT_RELEASE = range(3)
"""When a user policy's score is taken, see `sim.core.residency`. SGLang scores every leaf at each eviction call; a key
that moves only when its node is touched is taken once, when the node becomes a leaf, with the same victims."""


class Rules(NamedTuple):
    """Switches of one replay."""

    policy: int
    block_tokens: int
    slru_protected: int
    """`slru`: inserts from which a node is protected."""
    tlru_threshold: int
    """`tlru`: uncached blocks the next prompt may have."""
    tlru_next_prompt_estimate: int
    """`tlru`: new blocks expected in the next prompt."""
    scoring: int
    origin: float
    """Where the clocks a user policy sees begin."""
    has_on_hit: bool
    has_on_insert: bool
    has_on_evict: bool


@kernel(inline=True)
def _native_key(tree, node, rules):
    """Return the engine's priority of a node as two numbers; lower leaves first. Ticks are unique, so no ties."""
    record, policy = tree.nodes[node], rules.policy
    accessed, created = np.float64(record.last_access), np.float64(record.created)
    if policy == LRU:
        return accessed, 0.0
    if policy == LFU:
        return np.float64(record.hit_count), accessed
    if policy == SLRU:
        return (1.0 if record.hit_count >= rules.slru_protected else 0.0), accessed
    if policy == FIFO:
        return created, 0.0
    if policy == MRU:
        return -accessed, 0.0
    if policy == FILO:
        return -created, 0.0
    if policy == PRIORITY:
        return np.float64(record.priority), accessed
    before = np.int64(record.end) - np.int64(record.length)
    tail = rules.tlru_next_prompt_estimate - rules.tlru_threshold
    return (-1.0 if before >= max(np.int64(record.history) + tail, 0) else 0.0), accessed


@kernel(inline=True)
def _key(tree, node, rules, hooks, records, i, counts):
    """Return (score, tie) of a leaf; a user policy's ties go by last access, as nodes compare in the Python tree."""
    if hooks is not None:
        accessed = np.float64(tree.nodes[node].last_access)
        if rules.scoring == AT_EVICTION:
            return 0.0, accessed
        if rules.scoring == AT_RELEASE:
            return records.touch_score[node], accessed
        return score(tree, node, rules, hooks, records, i, counts), accessed
    return _native_key(tree, node, rules)


@kernel(inline=True)
def _become_leaf(tree, node, rules, hooks, records, i, counts):
    first, second = _key(tree, node, rules, hooks, records, i, counts)
    heap.add(tree.leaves, node, first, second, rules.scoring != AT_EVICTION)


@kernel(inline=True)
def _leave_leaves(tree, node, rules):
    place = tree.leaves.place_of[node]
    if place != replay.NONE:
        heap.remove(tree.leaves, place, rules.scoring != AT_EVICTION)


@kernel(inline=True)
def _rekey(tree, node, rules, hooks, records, i, counts):
    """Give a leaf that was touched or cut its new place among the leaves."""
    if tree.leaves.place_of[node] != replay.NONE and rules.scoring != AT_EVICTION:
        _leave_leaves(tree, node, rules)
        _become_leaf(tree, node, rules, hooks, records, i, counts)


@kernel(inline=True)
def _cut(tree, requests, node, blocks, rules, hooks, records, i, counts):
    """Split a node after `blocks` blocks; return the upper half."""
    upper = radix.split(tree, requests, node, blocks)
    if records is not None:
        halve(records, node, upper, blocks)
    _rekey(tree, node, rules, hooks, records, i, counts)
    return upper


@kernel(inline=True)
def _match(tree, requests, i, first, limit, rules, hooks, records, counts):
    """Return (deepest node, blocks) of the cached prefix of `limit` prompt blocks; cuts and touches, as SGLang."""
    node, hits = radix.root_of(tree), np.int64(0)
    while hits < limit:
        child = tree.node_at[requests.block_ids[first + hits]]
        if child == replay.NONE:
            break
        equal = radix.matched(tree, requests, child, requests.block_ids, first + hits, first + limit)
        hits += equal
        if equal < tree.nodes[child].length:
            node = _cut(tree, requests, child, equal, rules, hooks, records, i, counts)
            break
        node = child
    if limit > 0:
        radix.stamp_path(tree, node)
        _rekey(tree, node, rules, hooks, records, i, counts)
    return node, hits


@kernel(inline=True)
def _insert(tree, requests, i, ids, generated, first, last, node, priority, count, rules, hooks, records, counts):
    """Insert `ids[first:last]` below a node; return (deepest node, blocks found there already)."""
    at = first
    while at < last:
        child = tree.node_at[ids[at]]
        if child == replay.NONE:
            break
        radix.touch(tree, child)
        equal = radix.matched(tree, requests, child, ids, at, last)
        if equal < tree.nodes[child].length:
            child = _cut(tree, requests, child, equal, rules, hooks, records, i, counts)
        tree.nodes[child].priority = max(tree.nodes[child].priority, priority)
        if count:
            tree.nodes[child].hit_count += np.uint32(1)
            if records is not None:
                passed(tree, child, rules, hooks, records)
        _rekey(tree, child, rules, hooks, records, i, counts)
        at += equal
        node = child
    found = at - first
    if at < last:
        _leave_leaves(tree, node, rules)
        node = radix.attach(tree, node, ids, generated, at, last, priority, 1)
        if records is not None:
            enter(tree, node, rules, hooks, records)
            if rules.scoring == AT_RELEASE:
                records.touch_score[node] = score(tree, node, rules, hooks, records, i, counts)
        _become_leaf(tree, node, rules, hooks, records, i, counts)
        counts[replay.RESIDENT] += last - at
    return node, found


@kernel(inline=True)
def _make_room(tree, requests, need, rules, hooks, records, i, counts):
    """Evict whole leaves, lowest key first, until `need` blocks are free; a parent left bare is a leaf at once."""
    spare = tree.n[radix.CAPACITY] - counts[replay.RESIDENT] - tree.n[radix.SCRATCH]
    if spare >= need:
        return
    leaves = tree.leaves
    if hooks is not None and rules.scoring == AT_EVICTION:
        for place in range(leaves.size[0]):
            leaves.score[place] = score(tree, leaves.node[place], rules, hooks, records, i, counts)
            leaves.tie[place] = tree.nodes[leaves.node[place]].last_access
        heap.order(leaves)
    while spare < need and leaves.size[0] > 0:
        node = leaves.node[0]
        heap.remove(leaves, 0, True)
        if records is not None:
            evicted(tree, node, rules, hooks, records)
        blocks = np.int64(tree.nodes[node].length)
        spare += blocks
        counts[replay.EVICTED] += blocks
        counts[replay.RESIDENT] -= blocks
        parent = radix.detach(tree, requests, node)
        if radix.evictable(tree, parent):
            first, second = _key(tree, parent, rules, hooks, records, i, counts)
            if hooks is not None and rules.scoring == AT_EVICTION:
                first = score(tree, parent, rules, hooks, records, i, counts)
            heap.add(leaves, parent, first, second, True)


@kernel(inline=True)
def _lock(tree, node, rules):
    while node != radix.root_of(tree):
        if tree.nodes[node].locks == 0:
            tree.n[radix.LOCKED] += tree.nodes[node].length
            _leave_leaves(tree, node, rules)
        tree.nodes[node].locks += np.uint32(1)
        node = tree.nodes[node].parent


@kernel(inline=True)
def _unlock(tree, node, rules, hooks, records, i, counts):
    while node != radix.root_of(tree):
        tree.nodes[node].locks -= np.uint32(1)
        if tree.nodes[node].locks == 0:
            tree.n[radix.LOCKED] -= tree.nodes[node].length
            if hooks is not None and rules.scoring == AT_RELEASE:
                records.touch_score[node] = score(tree, node, rules, hooks, records, i, counts)
            if radix.evictable(tree, node):
                _become_leaf(tree, node, rules, hooks, records, i, counts)
        node = tree.nodes[node].parent


@kernel(inline=True)
def _priority_of(labels, i):
    return labels.priority[i] if labels.priority.size > 0 else np.int32(0)


@kernel(inline=True)
def _admit(tree, requests, labels, i, node, hits, rules, hooks, records, counts):
    """Lock the matched path, make room, insert the prompt's full blocks; return the node that is locked from now on."""
    first, last = requests.offsets[i], requests.offsets[i + 1]
    full, blocks = last - first, np.int64(replay.prompt_blocks(requests, i, rules.block_tokens))
    before = counts[replay.EVICTED]
    _lock(tree, node, rules)
    _make_room(tree, requests, blocks - hits, rules, hooks, records, i, counts)
    priority = _priority_of(labels, i)
    root, ids = radix.root_of(tree), requests.block_ids
    radix.touch(tree, root)
    _, found = _insert(tree, requests, i, ids, 0, first, last, root, priority, True, rules, hooks, records, counts)
    leaf, _ = _match(tree, requests, i, first, full, rules, hooks, records, counts)
    _lock(tree, leaf, rules)
    _unlock(tree, node, rules, hooks, records, i, counts)
    tree.n[radix.SCRATCH] += blocks - full
    replay.tally(counts, full, hits, full - found)
    replay.account(counts, tree.n[radix.SCRATCH])
    if records is not None:
        view.average(records.cache[0], full, hits, counts[replay.EVICTED] - before)
    return leaf


@kernel(inline=True)
def _finish(tree, requests, labels, i, leaf, hits, rules, hooks, records, counts):
    """Insert the blocks generated tokens filled, as far as there is room, then unlock; the partial tail is freed."""
    first, last = requests.offsets[i], requests.offsets[i + 1]
    begin, stop = requests.generated_offsets[i], requests.generated_offsets[i + 1]
    blocks = replay.prompt_blocks(requests, i, rules.block_tokens)
    more, tail = np.int64(requests.total_blocks[i] - blocks), blocks - (last - first)
    if more > 0:
        _make_room(tree, requests, more, rules, hooks, records, i, counts)
    room = tree.n[radix.CAPACITY] - counts[replay.RESIDENT] - tree.n[radix.SCRATCH]
    kept = min(stop - begin, tail + min(max(room, 0), more))
    found = np.int64(0)
    tree.n[radix.SCRATCH] -= tail
    if kept > 0:
        root, priority = radix.root_of(tree), _priority_of(labels, i)
        radix.touch(tree, root)
        ids = requests.block_ids
        node, _ = _insert(tree, requests, i, ids, 0, first, last, root, priority, False, rules, hooks, records, counts)
        ids = requests.generated_ids
        end, low = begin + kept, np.int32(priority - 1)
        _, found = _insert(tree, requests, i, ids, 1, begin, end, node, low, True, rules, hooks, records, counts)
    counts[replay.GENERATED] += kept - found
    counts[replay.DROPPED] += (stop - begin) - (kept - found)
    _unlock(tree, leaf, rules, hooks, records, i, counts)


@kernel(inline=True)
def _fits(tree, requests, i, node, hits, rules):
    """Return whether request `i` finds room once everything that nothing locks is evicted."""
    taken = tree.n[radix.LOCKED] + tree.n[radix.SCRATCH] + radix.unlocked_blocks(tree, node)
    return taken + replay.prompt_blocks(requests, i, rules.block_tokens) - hits <= tree.n[radix.CAPACITY]


@kernel(inline=True)
def replay_all(requests, labels, tree, leaf_of, running, rules, server, hooks, records, hits_out, start_out, counts):
    """Replay all requests; arguments as of the entry points `replay_native` and `replay_user`."""
    n, now_s, served = requests.input_tokens.size, 0.0, rules.origin
    for i in range(n + 1):
        if i < n and replay.prompt_blocks(requests, i, rules.block_tokens) > tree.n[radix.CAPACITY]:
            replay.leave_unserved(i, hits_out, start_out, counts)
            continue
        now_s = max(now_s, requests.arrival_s[i]) if i < n else np.inf
        due_s, waited, node, hits = now_s, False, radix.root_of(tree), np.int64(0)
        while running.size[0] > 0 or i < n:
            if running.size[0] == 0 or running.finish_s[0] > due_s:
                if running.size[0] < running.finish_s.size:
                    first, full = requests.offsets[i], requests.offsets[i + 1] - requests.offsets[i]
                    limit = min(np.int64(replay.hit_limit(requests, i, rules.block_tokens)), full)
                    node, hits = _match(tree, requests, i, first, limit, rules, hooks, records, counts)
                    if _fits(tree, requests, i, node, hits, rules):
                        break
                waited = True
            finish_s = running.finish_s[0]
            now_s = max(now_s, finish_s)
            j = replay.next_finish(running)
            if records is not None:
                view.observe(
                    records.cache[0], finish_s, rules.origin, tree.n[radix.LOCKED] + tree.n[radix.SCRATCH], counts
                )
                view.present(records.request[0], requests, labels, j, hits_out[j], hits_out[j])
            _finish(tree, requests, labels, j, leaf_of[j], hits_out[j], rules, hooks, records, counts)
        if i == n or tree.n[radix.BROKEN] > 0:
            return
        served += 1.0
        if records is not None:
            records.cache[0].now = served
            view.observe(records.cache[0], now_s, rules.origin, tree.n[radix.LOCKED] + tree.n[radix.SCRATCH], counts)
            view.follow(records.cache[0], labels, i)
            view.present(records.request[0], requests, labels, i, hits, hits)
        leaf_of[i] = _admit(tree, requests, labels, i, node, hits, rules, hooks, records, counts)
        counts[replay.WAITED] += waited
        hits_out[i], start_out[i] = hits, now_s
        finish_s = replay.finish_time(requests, i, hits, rules.block_tokens, now_s, server) if server.overlap else now_s
        replay.start_running(running, finish_s, i)
