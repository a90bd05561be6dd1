"""What an engine would report of a replay: every block it stores, removes and finds, in order.

Knows the twins and how to listen to them: they equal the kernels request by request, and kernels keep no log. Must not
know recordings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engines import VLLM
from sim.engines import sglang as sglang_engine
from sim.options import Options
from sim.prepared import prepare
from sim.simulation import configure, resolve, simulate
from sim.twin_lru import BlockPool
from sim.twin_server import Ask, asks_of, serve
from sim.twin_sglang import RadixCache, Strategy, TreeNode
from workloads import Trace, progress
from workloads.events.stream import HIT, NONE, REMOVED, STORED, Source, Stream

ENGINES = (*VLLM, sglang_engine.NAME)
"""Those whose blocks can be followed one by one."""

_TELL_REQUESTS = 256


class Log:
    """Kind, block and request of everything that happens to a block."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []
        self.request = 0

    def note(self, kind: int, blocks: list[int]) -> None:
        """Note what happens to blocks."""
        self.rows += [(kind, block, self.request) for block in blocks]


class LoggedPool(BlockPool):
    """vLLM's pool, listened to."""

    def __init__(self, log: Log, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.log = log

    def admit(self, i: int, ask: Ask, hits: int, now_s: float) -> None:
        """Note the hits."""
        self.log.request = i
        self.log.note(HIT, ask.blocks[:hits])
        super().admit(i, ask, hits, now_s)

    def finish(self, i: int, now_s: float) -> None:
        """Note for whom blocks are generated."""
        self.log.request = i
        super().finish(i, now_s)

    def _take(self) -> int:
        block = self.content[next(iter(self.queue))]
        if block is not None:
            self.log.note(REMOVED, [block])
        return super()._take()

    def _hash(self, slot: int, block: int) -> None:
        self.log.note(STORED, [block])
        super()._hash(slot, block)


class LoggedTree(RadixCache):
    """SGLang's tree, listened to; without the checks of every step, which take longer than the replay."""

    def __init__(self, log: Log, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.log = log

    def begin(self, ask: Ask, hits: int, now_s: float, admitted: bool) -> None:
        """Note the hits."""
        self.log.request = self.current
        self.log.note(HIT, ask.blocks[: hits if admitted else 0])

    def entered(self, node: TreeNode, generated: bool) -> None:
        """Note a new node."""
        self.log.note(STORED, node.key)

    def leaves(self, node: TreeNode) -> None:
        """Note an evicted node."""
        self.log.note(REMOVED, node.key)

    def conserve(self) -> None:
        """Check nothing."""

    def resident(self) -> int:
        """Return the blocks in the tree."""
        return self.capacity - self.free - self.scratch()


def engine_events(trace: Trace, capacity_blocks: int, policy: str = "native", **options: Any) -> Stream:
    """Return what an engine would report of a trace.

    Args:
        trace: What to replay.
        capacity_blocks: Usable blocks.
        policy: One of the engine's own.
        options: As for `sim.simulate`.

    Returns:
        The stream; blocks are numbered as in the trace, generated ones from `trace.n_blocks` on; messages are requests.

    Raises:
        ValueError: An engine or a policy whose blocks cannot be followed.
    """
    chosen, engine, parameters = configure(options)
    found = resolve(policy, engine)
    if engine.name not in ENGINES or not isinstance(found, str) or found not in engine.policies:
        raise ValueError(f"events are known of the own policies of {', '.join(ENGINES)}; not of {engine.name} {policy}")
    log = Log()
    cache: BlockPool | RadixCache
    if engine.name == sglang_engine.NAME:
        cache = LoggedTree(log, capacity_blocks, chosen, Strategy(found, parameters))
    else:
        cache = LoggedPool(log, capacity_blocks, engine.name == VLLM[0])
    asks = _asks(trace, chosen)
    served = serve(asks, trace.block_tokens, capacity_blocks, chosen, _told(cache, len(asks)))
    if served.hits != simulate(trace, policy, capacity_blocks, **options).hit_blocks_per_request.tolist():
        raise RuntimeError(f"the kernel of {engine.name} and its twin differ on {trace.name}: a bug, please report it")
    rows = np.array(log.rows, np.int64).reshape(-1, 3)
    return _stream(trace, rows, prepare(trace, chosen.decode).parents)


def _asks(trace: Trace, options: Options) -> list[Ask]:
    """Return the requests, with the generated blocks that kernels are given."""
    requests = prepare(trace, options.decode).requests
    bounds, ids = requests.generated_offsets.tolist(), requests.generated_ids.view(np.int32)
    return [
        dataclasses.replace(ask, generated=ids[bounds[i] : bounds[i + 1]].tolist(), total_blocks=int(total))
        for i, (ask, total) in enumerate(zip(asks_of(trace, "none"), requests.total_blocks, strict=True))
    ]


def _told(cache: Any, total: int) -> Any:
    """Let a cache tell how far it is."""
    admit: Callable[[int, Ask, int, float], None] = cache.admit

    def told(i: int, ask: Ask, hits: int, now_s: float) -> None:
        if i % _TELL_REQUESTS == 0:
            progress.tell("replaying, requests", i, total)
        admit(i, ask, hits, now_s)

    cache.admit = told
    return cache


def _stream(trace: Trace, rows: npt.NDArray[np.int64], parents: npt.NDArray[np.int32]) -> Stream:
    """Group what happened to single blocks into events."""
    kind, block, request = rows.T
    before = np.concatenate([[NONE], block[:-1]])
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = (kind[1:] != kind[:-1]) | (request[1:] != request[:-1])
    begins |= np.isin(kind, (STORED, HIT)) & (parents[block] != before)
    first = np.flatnonzero(begins)
    parent = np.where(kind[first] == REMOVED, NONE, parents[block[first]])
    return Stream(
        Source(medium="simulated"),
        trace.block_tokens,
        kind[first].astype(np.uint8),
        np.append(first, len(rows)),
        block.astype(np.int32),
        parent.astype(np.int32),
        request[first].astype(np.int32),
        trace.arrival_s,
        np.full(len(first), NONE, np.int32),
        np.arange(len(parents), dtype=np.uint64),
        {"trace": trace.name},
    )
