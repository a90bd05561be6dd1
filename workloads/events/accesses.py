"""From a stream of full reports to requests.

Knows what vLLM publishes when. Must not know files. By default an engine reports only what it stores and removes:
neither requests nor hits can be seen. A request that carries ``kv_cache_report_mode="full"`` in its
``SamplingParams.extra_args`` (vLLM since pull request #45261, June 2026) also has the blocks it hits reported: as a
`BlockStored` without parent, for blocks that are there already, before those it removes and stores.

What is rebuilt, and what is assumed:

- A store without parent begins a request; one that continues the last block of a request belongs to the latest such.
- What the message of its beginning holds is prompt, and so are later stores of several blocks (chunked prefill). A
  later store of one block is taken to be generated; a last chunk of one block is mistaken for that.
- Partial blocks are not reported. A prompt counts a token more than its full blocks, unless its last block was there
  and still was computed: then the prompt ends with it, for the last token is always recomputed.
- Requests without a full block are not seen. One that is preempted and resumed is seen twice.
- Arrival is when the engine's step that admitted the request was published, in s since the first message: the time in
  the queue is not seen.

Source: vLLM 0.33.0 ``KVCacheManager.get_computed_blocks``, ``BlockPool.emit_cached_block_events``. Identical blocks can
lie in its cache more than once; what it reports removed is one copy.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from workloads.errors import TraceError
from workloads.events.stream import CLEARED, HIT, NONE, REMOVED, STORED, Stream
from workloads.readers.assemble import turns
from workloads.trace import Trace


@dataclass
class Requests:
    """What was rebuilt: per request, in order of their beginning."""

    blocks: list[list[int]] = field(default_factory=list)
    message: list[int] = field(default_factory=list)
    session: list[int] = field(default_factory=list)
    ends_full: list[bool] = field(default_factory=list)
    generated_blocks: list[int] = field(default_factory=list)
    unreported: int = 0
    """Stores that continue a block no request ended with: a hit that was not reported."""


def rebuild(stream: Stream) -> Requests:
    """Rebuild the requests of a stream `with_hits`; see the module's docstring."""
    found, copies, listed = Requests(), [0] * stream.n_blocks, stream.block.tolist()
    ends: dict[int, list[int]] = defaultdict(list)
    columns = (stream.kind.tolist(), stream.parent.tolist(), stream.batch.tolist(), stream.session.tolist())
    spans = pairwise(stream.offsets.tolist())
    for kind, parent, message, session, (start, stop) in zip(*columns, spans, strict=True):
        blocks = listed[start:stop]
        if kind == CLEARED:
            copies = [0] * stream.n_blocks
        elif kind == REMOVED:
            for block in blocks:
                copies[block] -= 1
        elif blocks:
            if parent == NONE:
                i = len(found.blocks)
                _begin(found, blocks, message, session)
            elif ends[parent]:
                i = ends[parent].pop()
                _continue(found, i, blocks, message, copies[blocks[-1]] > 0)
            else:
                found.unreported += 1
                continue
            for block in blocks if kind == STORED else ():
                copies[block] += 1
            ends[blocks[-1]].append(i)
    return found


def as_trace(stream: Stream, file: str, name: str) -> Trace:
    """Return the requests of a stream of full reports.

    Raises:
        TraceError: sequence gaps; no full reports, or only of some requests; no block size; or what a trace refuses.
    """
    if stream.provenance.get("sequence_gaps"):
        raise TraceError(
            f"{file}: messages are missing (first: {stream.provenance['sequence_gaps'][0]}), so requests are too"  # type: ignore[index]
            " - fix: record again with the replay endpoint, or cut the file at the gaps"
        )
    if stream.block_tokens == 0:
        raise TraceError(
            f"{file}: field 'block_size': expected in a stored event, got none - fix: record the engine's own events"
        )
    stream = stream.with_hits()
    found, reports = rebuild(stream), int((stream.kind == HIT).sum())
    if not reports or found.unreported:
        seen = f"{found.unreported:,} of them continue a hit that is not reported" if found.unreported else "no hits"
        raise TraceError(
            f"{file}: expected full reports, got {stream.listed(STORED):,} blocks stored and {seen}: events like these"
            " show what a cache stores and evicts, not what was asked for, and are no workload - fix: record requests"
            ' sent with kv_cache_report_mode="full" (vLLM since June 2026), or compare them with a trace:'
            " kvevolve fidelity TRACE --events FILE"
        )
    counts = [len(blocks) for blocks in found.blocks]
    extra = np.array([not full and stream.block_tokens > 1 for full in found.ends_full])
    known = max(found.session) >= 0
    return Trace.build(
        name=name,
        block_tokens=stream.block_tokens,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        block_ids=[block for blocks in found.blocks for block in blocks],
        arrival_s=stream.time_s[found.message] - stream.time_s[0],
        input_tokens=np.array(counts) * stream.block_tokens + extra,
        output_tokens=np.array(found.generated_blocks) * stream.block_tokens,
        session=found.session if known else None,
        turn=turns(np.array(found.session, np.int32)) if known else None,
        provenance=stream.provenance
        | {"source_of_events": str(stream.source), "time_unit": "s", "full_reports": reports},
    )


def _begin(found: Requests, blocks: list[int], message: int, session: int) -> None:
    found.blocks.append(blocks)
    found.message.append(message)
    found.session.append(session)
    found.ends_full.append(False)
    found.generated_blocks.append(0)


def _continue(found: Requests, i: int, blocks: list[int], message: int, recomputed: bool) -> None:
    if message != found.message[i] and len(blocks) == 1:
        found.generated_blocks[i] += 1
    elif not found.generated_blocks[i]:
        found.blocks[i] += blocks
        found.ends_full[i] = recomputed
    else:
        found.generated_blocks[i] += len(blocks)
