"""Replays a trace that does not fit in memory: `stream("file.parquet", policy, capacity)`.

The same kernels as `sim.simulation`, step by step, and the same hits request by request. Held at once are the state
of the cache (resident blocks, ghosts), one batch of requests, and 28 bytes per request for the result; the number of
distinct blocks costs nothing. Knows requests and dense ids; must not know the future, so no offline optimum here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim import engines
from sim.core import conversations, idmap
from sim.core.replay import Requests, frozen
from sim.core.view import Labels, labels_of
from sim.engines.outputs import named
from sim.engines.vllm import NativeSteps, PolicySteps
from sim.options import Options, Replay
from sim.policy.compiler import Compiled, compile_policy
from sim.policy.program import Policy
from sim.registry import load_policy
from sim.result import Result
from sim.simulation import NATIVE, configure, parse_capacity, result_of
from sim.steps import Step, following
from workloads.batch import BATCH_REFS, Batch
from workloads.errors import TraceError
from workloads.parquet import ParquetTrace, open_parquet

Progress = Callable[[int, int], None]
"""Told (block references replayed, block references in all) after every batch."""


def stream(
    path: str | os.PathLike[str] | ParquetTrace,
    policy: str | Path | Policy | Compiled,
    capacity: int | float | str,
    *,
    batch_refs: int = BATCH_REFS,
    progress: Progress | None = None,
    **options: object,
) -> Result:
    """Replay a Parquet trace, holding a batch of it at a time.

    Args:
        path: A file as `workloads.parquet` describes it, or one already opened.
        policy: As for `simulate`.
        capacity: Blocks (int or "4096"); a share ("5%") only if the file says how many distinct blocks it has.
        batch_refs: Block references per batch.
        progress: Told how far the replay is.
        options: Fields of `Options`; the engine must be vLLM's, decode "none".

    Returns:
        The result, equal to that of `simulate` on the whole trace.

    Raises:
        TraceError: If the file breaks a rule of a trace; the rows before have been replayed by then.
        ValueError: If an option, name or capacity makes no sense, or cannot be streamed.
        PolicyRejected: If the policy breaks the contract.
        PolicyError: If a priority is not finite.
    """
    chosen, engine, _ = configure(dict(options))
    if engine.name not in engines.VLLM:
        raise ValueError(f"engine {engine.name!r} cannot be streamed; choose one of {', '.join(engines.VLLM)}")
    if chosen.decode != "none":
        raise ValueError(
            f"decode {chosen.decode!r} cannot be streamed: which request continues which needs the whole trace; use "
            "decode='none', or simulate() on a trace that fits in memory"
        )
    if batch_refs < 1:
        raise ValueError(f"batch_refs {batch_refs}: expected at least 1")
    file = path if isinstance(path, ParquetTrace) else open_parquet(path)
    capacity_blocks = parse_capacity(capacity, file.manifest.distinct_blocks)
    compiled = None
    if not isinstance(policy, str) or policy not in (NATIVE, *engine.policies):
        if engine.run_user is None:
            raise ValueError(f"engine {engine.name!r} runs its own policies only: {', '.join(engine.policies)}")
        compiled = policy if isinstance(policy, Compiled) else compile_policy(load_policy(policy))
    elif chosen.eviction_sample:
        raise ValueError("eviction_sample is for user policies; leave it out here")
    replay = _Replay(file, measure(file), compiled, capacity_blocks, chosen, batch_refs)
    for batch in file.batches(batch_refs):
        replay.add(batch)
        if progress:
            progress(replay.refs, replay.size.refs)
    name = compiled.policy.name if compiled else engine.policies[0]
    return result_of(replay.seen, name, chosen, capacity_blocks, replay.finish())


@dataclass(frozen=True)
class Size:
    """What must be known of a trace before its first request is replayed.

    Attributes:
        refs: Block references.
        largest_blocks: Full blocks of the largest prompt.
        exact_multiples: Requests whose last block is full: their recomputed last block can be a second copy.
    """

    refs: int
    largest_blocks: int
    exact_multiples: int


def measure(file: ParquetTrace) -> Size:
    """Read the prompt lengths of a file, no other column."""
    refs, largest, exact = 0, 0, 0
    for tokens in file.input_tokens():
        blocks, tail = np.divmod(np.maximum(tokens, 0), file.manifest.block_tokens)
        refs += int(blocks.sum())
        largest = max(largest, int(blocks.max(initial=0)))
        exact += int(np.count_nonzero((tail == 0) & (blocks > 0)))
    return Size(refs, largest, exact)


def _ids_at_once(size: Size, capacity_blocks: int, ghost_blocks: int, batch_refs: int) -> int:
    """Return how many dense ids a replay needs.

    A cache knows at most its capacity and its ghosts, `collect` keeps a parent of each, and what is free then must
    hold a batch, or the largest request that is served. No trace has more blocks than references.
    """
    bound = 2 * (capacity_blocks + ghost_blocks) + max(batch_refs, min(size.largest_blocks, capacity_blocks))
    return max(1, min(bound, size.refs))


class _Seen:
    """The columns a result is computed from, gathered while requests go by."""

    def __init__(self, name: str, block_tokens: int) -> None:
        self.name, self.block_tokens = name, block_tokens
        self.parts: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int32], npt.NDArray[np.int32]]] = []

    @cached_property
    def arrival_s(self) -> npt.NDArray[np.float64]:
        return np.concatenate([part[0] for part in self.parts])

    @cached_property
    def input_tokens(self) -> npt.NDArray[np.int32]:
        return np.concatenate([part[1] for part in self.parts])

    @cached_property
    def output_tokens(self) -> npt.NDArray[np.int32]:
        return np.concatenate([part[2] for part in self.parts])

    @property
    def n_requests(self) -> int:
        return self.arrival_s.size

    @property
    def prompt_tokens(self) -> int:
        return int(self.input_tokens.sum(dtype=np.int64))


class _Replay:
    """A replay under way: dense ids, the cache, and the requests that still run."""

    def __init__(
        self,
        file: ParquetTrace,
        size: Size,
        compiled: Compiled | None,
        capacity_blocks: int,
        options: Options,
        batch_refs: int,
    ) -> None:
        block_tokens, ghosts = file.manifest.block_tokens, options.ghost_blocks if compiled else 0
        n_ids = _ids_at_once(size, capacity_blocks, ghosts, batch_refs)
        self.size, self.refs, self.seen = size, 0, _Seen(file.manifest.name, block_tokens)
        self._file, self._capacity_blocks, self._block_tokens = file, capacity_blocks, block_tokens
        self._ids = idmap.new_idmap(n_ids)
        self._steps: NativeSteps | PolicySteps
        if compiled is None:
            self._steps = NativeSteps(n_ids, block_tokens, capacity_blocks, options)
        else:
            parents = self._ids.parents.view(np.int32)
            exact = size.exact_multiples
            self._steps = PolicySteps(parents, exact, block_tokens, compiled, capacity_blocks, options)
        self._steps.running.more[0] = True
        self._tails = conversations.new_tails(conversations.REMEMBERED)
        self._last: Step | None = None
        self._hits: list[npt.NDArray[np.int32]] = []
        self._start_s: list[npt.NDArray[np.float64]] = []

    def add(self, batch: Batch) -> None:
        """Replay a batch, in as many steps as dense ids last."""
        blocks = np.empty(batch.n_refs, np.uint32)
        occupied = -(-batch.input_tokens.astype(np.int64) // self._block_tokens)
        offsets, keys = frozen(batch.offsets, np.int64), frozen(batch.block_ids, np.uint64)
        served = frozen(occupied <= self._capacity_blocks, np.bool_)
        first = 0
        while first < batch.n_requests:
            stop = idmap.map_requests(self._ids, offsets, keys, served, first, blocks)
            if stop < 0:
                self._refuse_chain(batch, -1 - stop)
            if stop > first:
                self._replay(batch.slice(first, stop), blocks[offsets[first] : offsets[stop]], occupied[first:stop])
            else:
                idmap.collect(self._ids, self._steps.known().view(np.uint8))
            first = stop
        self.refs += batch.n_refs
        self.seen.parts.append((batch.arrival_s, batch.input_tokens, batch.output_tokens))

    def _replay(self, batch: Batch, blocks: npt.NDArray[np.uint32], occupied: npt.NDArray[np.int64]) -> None:
        n = batch.n_requests
        requests = Requests(
            frozen(batch.offsets, np.int64),
            frozen(blocks, np.uint32),
            frozen(np.zeros(n + 1), np.int64),
            frozen(np.zeros(0), np.uint32),
            frozen(occupied, np.int32),
            frozen(batch.input_tokens, np.int32),
            frozen(batch.output_tokens, np.int32),
            frozen(batch.arrival_s, np.float64),
        )
        turns = conversations.follow(self._tails, batch.offsets, batch.block_ids, batch.arrival_s)
        self._step(requests, labels_of((batch.turn, batch.tenant, batch.request_type, batch.priority), turns))

    def _step(self, requests: Requests, labels: Labels) -> None:
        step = following(self._last, self._steps.running, requests, labels)
        self._steps.step(step)
        self._hits.append(step.hits[step.carried.size :])
        self._start_s.append(step.start_s[step.carried.size :])
        self._last = step

    def finish(self) -> Replay:
        """Let the running requests finish, and return the outcome."""
        self._steps.running.more[0] = False
        nothing = Batch(*(np.zeros(size) for size in (1, 0, 0, 0, 0)))  # type: ignore[arg-type]
        self._replay(nothing, np.zeros(0, np.uint32), np.zeros(0, np.int64))
        return Replay(named(self._steps.counts), np.concatenate(self._hits), np.concatenate(self._start_s), None)

    def _refuse_chain(self, batch: Batch, ref: int) -> None:
        row = int(np.searchsorted(batch.offsets, ref, side="right")) - 1
        at = ref - int(batch.offsets[row])
        follows = f"block id {batch.block_ids[ref - 1]}" if at else "no block"
        found = (
            f"request {row}: field 'block_ids': block id {batch.block_ids[ref]} at position {at} follows {follows}, but"
            " followed another block before; expected prefix-chained ids (equal id = equal whole prefix); fix: re-key"
            " ids by (path so far, id)"
        )
        self._file.refuse(batch, row, TraceError(found, request=row, field="block_ids"))
