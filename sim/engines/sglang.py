"""SGLang's radix cache: its eight eviction policies natively, and user policies at the level of its segments.

Source: SGLang 0.5.23 (Rust tree core; page size = one trace block), equal request by request to the recorded hits.

The engine's rules. A node is a segment: a run of blocks, cut for good where a prompt ends or leaves it. Only leaves
that no running request holds are evicted, whole, so more than needed may leave. What follows from the calls its
scheduler makes: a waiting request is matched, and so touches and cuts, at every attempt to admit it; nothing is
inserted at the finish unless generated tokens filled a block; then the prompt's path is touched once more. A request
adds 1 to `hit_count` of each node of its path once. Generated blocks are a node of their own, one priority lower.

What a user policy sees. A node has one `block` record; `priority` is asked for each evictable leaf when room is made
(SGLang builds its heap per eviction), ties go to the older `last_access_time`, and whole nodes leave.

- released: the node's `last_access_time`, the order SGLang's own lru sorts by (nodes know no release; matching,
  inserting and the lower half of a cut advance it). So a policy `return block.released` equals native lru, always.
- hits, seen: `hit_count` - 1 and `hit_count`: requests whose insert passed the node. SGLang forgets an evicted node,
  so `ghost_blocks` has no effect and `seen` does not survive eviction.
- last_access(_s), gap(_s), turn, tenant, type, priority: of the requests whose insert passed the node.
- inserted(_s): when the run entered; both halves of a cut keep it, as they keep every other field and s0..s3.
- depth: blocks before the node's first block. tokens, prefix_tokens, recompute_cost: those of the first block.
- children: nodes below, 0 for every candidate. generated: 1 if generated tokens filled the run.
- on_hit runs for a node whose `hit_count` grows, on_insert for a new one, both after room was made; on_evict for a
  node that leaves. `admit` is refused: SGLang has no admission.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.core import radix, replay, sglang, sglang_native
from sim.engines import Engine
from sim.engines.outputs import new_outputs
from sim.options import Options, PolicyError, Replay
from sim.policy.compiler import Compiled
from sim.prepared import Prepared

NAME = "sglang"


@dataclass(frozen=True)
class Parameters:
    """Parameters of SGLang's own policies.

    Attributes:
        slru_protected: `slru`: `hit_count` from which a node is protected (`protected_threshold`).
        tlru_threshold: `tlru`: blocks the next prompt may have to compute (tail latency budget).
        tlru_next_prompt_estimate: `tlru`: new blocks expected in the next prompt.
    """

    slru_protected: int = 2
    tlru_threshold: int = 20
    tlru_next_prompt_estimate: int = 2

    def __post_init__(self) -> None:
        for name, least in (("slru_protected", 1), ("tlru_threshold", 0), ("tlru_next_prompt_estimate", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
                raise ValueError(f"engine parameter {name}={value!r}: expected a whole number from {least} on")


def run_native(
    prepared: Prepared, capacity_blocks: int, options: Options, policy: str, parameters: Parameters
) -> Replay:
    """Replay against one of the engine's own policies."""
    rules = _rules(prepared, options, parameters, sglang.POLICIES.index(policy))
    outputs, tree = new_outputs(prepared), _tree(prepared, capacity_blocks)
    running, leaf_of = replay.new_running(options.server.max_running), np.zeros(outputs.hits.size, np.uint32)
    sglang_native.replay_native(
        prepared.requests, prepared.labels, tree, leaf_of, running, rules, options.server, *outputs
    )
    return Replay(outputs.totals, outputs.hits, outputs.start_s, None, tree=tree)


def run_user(
    prepared: Prepared, compiled: Compiled, capacity_blocks: int, options: Options, parameters: Parameters
) -> Replay:
    """Replay against a user policy.

    Raises:
        ValueError: If the policy defines `admit`, or orphans are asked for.
        PolicyError: If a priority is not finite.
    """
    from sim.core import sglang_records, sglang_user

    name = compiled.policy.name
    if "admit" in compiled.defined:
        raise ValueError(f"{name}: SGLang has no admission; remove `admit` from the policy to run it on {NAME!r}")
    if options.orphans:
        raise ValueError(f"{NAME!r} evicts leaves only; leave out orphans=True")
    rules = _rules(prepared, options, parameters, sglang.USER, compiled)
    outputs, tree = new_outputs(prepared), _tree(prepared, capacity_blocks)
    records = sglang_records.new_records(max(tree.nodes.size, 2), rules.scoring == sglang.AT_RELEASE)
    records.cache["capacity_blocks"], records.cache["block_tokens"] = capacity_blocks, prepared.block_tokens
    records.cache["now"] = options.clock_origin
    hooks = sglang_records.Hooks(*(getattr(compiled, hook) for hook in sglang_records.Hooks._fields))
    running, leaf_of = replay.new_running(options.server.max_running), np.zeros(outputs.hits.size, np.uint32)
    sglang_user.replay_user(
        prepared.requests, prepared.labels, tree, leaf_of, running, rules, options.server, hooks, records, *outputs
    )
    if tree.n[radix.BROKEN]:
        raise PolicyError(
            f"{name}: priority returned a number that is not finite at request {int(tree.n[radix.BROKEN]) - 1}; guard "
            "divisions and logarithms (a segment's gap, hits and depth can be 0)"
        )
    return Replay(outputs.totals, outputs.hits, outputs.start_s, None, tree=tree)


def _tree(prepared: Prepared, capacity_blocks: int) -> radix.Tree:
    return radix.new_tree(capacity_blocks, prepared.parents.size)


def _rules(
    prepared: Prepared, options: Options, parameters: Parameters, policy: int, compiled: Compiled | None = None
) -> sglang.Rules:
    scoring = sglang.WHEN_CANDIDATE
    if compiled is not None and not compiled.policy.timeless:
        scoring = sglang.AT_RELEASE if compiled.policy.scoring == "touch" else sglang.AT_EVICTION
    defined = frozenset() if compiled is None else compiled.defined
    return sglang.Rules(
        policy,
        prepared.block_tokens,
        parameters.slru_protected,
        parameters.tlru_threshold,
        parameters.tlru_next_prompt_estimate,
        scoring,
        float(options.clock_origin),
        *(hook in defined for hook in ("on_hit", "on_insert", "on_evict")),
    )


ENGINES = (Engine(NAME, "SGLang 0.5.23", True, sglang.POLICIES, Parameters, run_native, run_user),)
