"""LMCache's local CPU backend: its own policies natively, and user policies as an exported cache policy would run.

Source: LMCache 0.5.6 `LocalCPUBackend` and `cache_policy`; the native policies are equal request by request to the
hits recorded from it. A block of the trace is a chunk (LMCache's default: 256 tokens). A user policy is asked which
chunk to evict whenever one is put into a full store; `on_hit` is LMCache's `update_on_hit`, `on_insert` its
`update_on_put`. LMCache stores every chunk and keeps generated ones out by default, so a policy with `admit`, and
decode modes, are refused.
"""

from __future__ import annotations

from sim.core import lmcache as core
from sim.engines import Engine, NoParameters
from sim.engines.chunks import run_chunks
from sim.engines.outputs import new_outputs, require
from sim.options import Options, Replay
from sim.policy.compiler import Compiled
from sim.prepared import Prepared

NAME = "lmcache"
POLICIES = {"lru": core.LRU, "lfu": core.LFU, "fifo": core.FIFO, "mru": core.MRU}


def _native(
    prepared: Prepared, capacity_blocks: int, options: Options, policy: str, parameters: NoParameters
) -> Replay:
    require(options, NAME, mode="serial", decode="none")
    kind = POLICIES[policy.lower()]
    requests, outputs = prepared.requests, new_outputs(prepared)
    chunks = core.new_chunks(prepared.parents.size, requests.input_tokens.size, kind)
    core.replay_lmcache(requests, chunks, kind, capacity_blocks, prepared.block_tokens, *outputs)
    return outputs.replay()


def _user(
    prepared: Prepared, compiled: Compiled, capacity_blocks: int, options: Options, parameters: NoParameters
) -> Replay:
    require(options, NAME, mode="serial", decode="none")
    if "admit" in compiled.defined:
        raise ValueError(
            f"policy {compiled.policy.name!r} defines admit, but LMCache stores every chunk; "
            "remove admit, or use engine 'vllm-cpu-tier'"
        )
    return run_chunks(prepared, compiled, capacity_blocks, options, atomic=False)


ENGINES = (Engine(NAME, "LMCache 0.5.6", True, (*POLICIES, *map(str.upper, POLICIES)), NoParameters, _native, _user),)
