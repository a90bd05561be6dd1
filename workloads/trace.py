"""The trace: an immutable stream of requests over prefix-chained KV blocks.

Knows requests, blocks, tokens and seconds, and how a trace is cut and combined. Must not know file formats, where
traces come from, caches or policies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, pairwise
from math import fsum

import numpy as np
import numpy.typing as npt

from workloads import chains, combine, npz, sampling, validation
from workloads.columns import F64, I32, I64, frozen
from workloads.errors import TraceError
from workloads.manifest import stepped

__all__ = ["OPTIONAL_COLUMNS", "Trace", "TraceError"]

OPTIONAL_COLUMNS = ("session", "turn", "tenant", "request_type", "priority")


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """A stream of requests, each a path of full, prefix-chained KV blocks; immutable, arrays read-only.

    Make one with :meth:`build` (validates everything), :meth:`load` or a reader; the plain constructor trusts its
    arguments. ``n`` below is the number of requests, ``n_refs`` the number of block references.

    Attributes:
        name: Short name for reports; not part of the fingerprint.
        block_tokens: Tokens per block.
        offsets: int64[n + 1]; request ``i`` references ``block_ids[offsets[i]:offsets[i + 1]]``, first block first.
        block_ids: int32[n_refs], dense ids 0..n_blocks-1 in order of first appearance. Full blocks only.
        arrival_s: float64[n] seconds, not decreasing; the first may be > 0.
        input_tokens: int32[n] prompt length, >= 0 (LMCache agents has empty prompts).
        output_tokens: int32[n] generated tokens, >= 0.
        session: int32[n] or None; equal number, equal session; -1 where unknown.
        turn: int32[n] or None; index of the request within its session from 0; -1 where unknown.
        tenant: int32[n] or None; -1 where unknown.
        request_type: int32[n] or None; meaning is the source's (kvsess1: 0 main agent, 1 sub-agent); -1 unknown.
        priority: int32[n] or None; meaning is the source's.
        provenance: Where this came from: source, reader options, repairs, materialisation, later cuts. JSON-able.
            Not part of the fingerprint.
    """

    name: str
    block_tokens: int
    offsets: I64
    block_ids: I32
    arrival_s: F64
    input_tokens: I32
    output_tokens: I32
    session: I32 | None = None
    turn: I32 | None = None
    tenant: I32 | None = None
    request_type: I32 | None = None
    priority: I32 | None = None
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for column in self.columns().values():
            frozen(column)

    def __getstate__(self) -> dict[str, object]:
        return {item.name: getattr(self, item.name) for item in fields(self)}  # derived columns stay behind

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @classmethod
    def build(
        cls,
        *,
        name: str,
        block_tokens: int,
        offsets: npt.ArrayLike,
        block_ids: npt.ArrayLike,
        arrival_s: npt.ArrayLike,
        input_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        session: npt.ArrayLike | None = None,
        turn: npt.ArrayLike | None = None,
        tenant: npt.ArrayLike | None = None,
        request_type: npt.ArrayLike | None = None,
        priority: npt.ArrayLike | None = None,
        provenance: dict[str, object] | None = None,
    ) -> Trace:
        """Check everything, renumber ids densely in order of first appearance, and freeze.

        Args are the attributes of the class; ``block_ids`` may be any non-negative integers. Inputs are copied.

        Returns:
            The trace.

        Raises:
            TraceError: wrong shapes; not finite or out of range; ``len(ids) != input_tokens // block_tokens``;
                arrivals running backwards; an id with two predecessors. Carries the request index and the field.
        """
        optional = {"session": session, "turn": turn, "tenant": tenant, "request_type": request_type}
        columns = validation.checked_columns(
            block_tokens=block_tokens,
            offsets=offsets,
            block_ids=block_ids,
            arrival_s=arrival_s,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            optional=optional | {"priority": priority},
        )
        return cls(name=name, block_tokens=block_tokens, provenance=dict(provenance or {}), **columns)  # type: ignore[arg-type]

    # ---- sizes and derived columns -------------------------------------------------------------------------------

    def columns(self) -> dict[str, I32 | I64 | F64]:
        """Return every column that is present, by name, in a fixed order."""
        names = ("offsets", "block_ids", "arrival_s", "input_tokens", "output_tokens", *OPTIONAL_COLUMNS)
        return {name: column for name in names if (column := getattr(self, name)) is not None}

    @property
    def n_requests(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    @property
    def n_refs(self) -> int:
        """Number of references to full blocks, summed over requests."""
        return len(self.block_ids)

    @cached_property
    def n_blocks(self) -> int:
        """Number of distinct full blocks."""
        return int(self.block_ids.max()) + 1 if len(self.block_ids) else 0

    @cached_property
    def parents(self) -> I32:
        """int32[n_blocks]: the block before each block on its path, -1 for roots."""
        before = chains.predecessors(self.offsets, self.block_ids)
        return frozen(chains.parents(before, self.block_ids, self.n_blocks))

    @cached_property
    def next_use(self) -> I64:
        """int64[n_refs]: index into ``block_ids`` of the next reference of the same block, ``n_refs`` if none.

        This is knowledge of the future, for offline optima only: computed when first asked for, never stored.
        """
        return frozen(chains.next_use(self.block_ids))

    @cached_property
    def full_blocks(self) -> I32:
        """int32[n]: full blocks of each request's prompt."""
        return frozen(np.diff(self.offsets).astype(np.int32))

    @cached_property
    def occupied_blocks(self) -> I32:
        """int32[n]: blocks a request's prompt occupies while it runs, partial tail included."""
        return frozen((-(-self.input_tokens.astype(np.int64) // self.block_tokens)).astype(np.int32))

    @cached_property
    def prompt_tokens(self) -> int:
        """Prompt tokens summed over requests."""
        return int(self.input_tokens.sum(dtype=np.int64))

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last arrival."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def nbytes(self) -> int:
        """Bytes held by the stored columns (derived columns not counted)."""
        return sum(column.nbytes for column in self.columns().values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over block size and all columns; name and provenance do not count."""
        digest = hashlib.sha256(f"kvevolve-trace/1 block_tokens={self.block_tokens}".encode())
        for name, column in self.columns().items():
            little = column.astype(column.dtype.newbyteorder("<"), copy=False)
            digest.update(f"|{name} {little.dtype.str} {len(little)}|".encode())
            digest.update(np.ascontiguousarray(little).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        return (
            f"Trace({self.name!r}, {self.n_requests:,} requests, {self.n_refs:,} refs, {self.n_blocks:,} blocks"
            f" of {self.block_tokens} tokens, {self.span_s:,.0f} s, {self.fingerprint[:12]})"
        )

    def renamed(self, name: str, provenance: dict[str, object] | None = None) -> Trace:
        """Return the same trace under another name, with entries added to its provenance."""
        return replace(self, name=name, provenance={**self.provenance, **(provenance or {})})

    # ---- cutting -------------------------------------------------------------------------------------------------

    def slice(self, start: int, stop: int, name: str | None = None) -> Trace:
        """Return requests ``start`` to ``stop - 1``, ids renumbered, arrival times kept.

        Args:
            start: First request index, >= 0.
            stop: One past the last, <= n_requests.
            name: Name of the result; default ``name[start:stop]``.

        Raises:
            TraceError: bounds outside the trace or no request selected.
        """
        if not 0 <= start < stop <= self.n_requests:
            raise TraceError(
                f"slice({start}, {stop}) of {self.n_requests} requests: expected 0 <= start < stop <= {self.n_requests}"
            )
        rows = np.arange(start, stop, dtype=np.int64)
        return self.take(rows, name or f"{self.name}[{start}:{stop}]", f"requests {start} to {stop - 1}")

    def split_time(self, fractions: Sequence[float]) -> list[Trace]:
        """Cut into consecutive parts by time.

        Args:
            fractions: Share of the arrival span [first, last] of each part, in order; they sum to 1. A request that
                arrives exactly at a cut goes to the later part.

        Returns:
            One trace per fraction; together they hold every request once. Arrival times are kept.

        Raises:
            TraceError: fractions not positive or not summing to 1, or a part without requests.
        """
        if not fractions or not all(part > 0 for part in fractions) or abs(fsum(fractions) - 1) > 1e-9:
            raise TraceError(f"split_time({list(fractions)}): expected positive fractions that sum to 1")
        shares = list(accumulate(Fraction(str(float(part))) for part in fractions))[:-1]  # decimal: 0.4 + 0.2 is 0.6
        cuts = [self.arrival_s[0] + self.span_s * float(share) for share in shares]
        inner = np.searchsorted(self.arrival_s, cuts, side="left").tolist()
        parts = []
        for number, (start, stop) in enumerate(pairwise([0, *inner, self.n_requests])):
            if start >= stop:
                raise TraceError(f"split_time: part {number} has no requests; fix: use fewer or larger parts")
            parts.append(self.slice(start, stop, f"{self.name}[part {number}]"))
        return parts

    def sample(self, fraction: float, seed: int) -> Trace:
        """Keep a random share of the request groups; a group's requests stay together, so chains stay whole.

        Groups are sessions where known, else prefix families: requests with the same first block once the trunk
        common to more than 1 % of the requests is skipped (a system prompt would make everything one group).

        Args:
            fraction: Share of groups kept, 0 < fraction <= 1 (rounded to a whole number, at least one).
            seed: Seed of the choice.

        Raises:
            TraceError: fraction out of range.
        """
        if not 0 < fraction <= 1:
            raise TraceError(f"sample: fraction {fraction}: expected 0 < fraction <= 1")
        labels, group = np.unique(sampling.groups(self), return_inverse=True)
        kept = np.zeros(len(labels), np.bool_)
        chosen = np.random.default_rng(seed).permutation(len(labels))[: max(1, round(fraction * len(labels)))]
        kept[chosen] = True
        rows = np.flatnonzero(kept[group])
        return self.take(rows, f"{self.name}[sample {fraction:g}/{seed}]", f"sample {fraction:g} seed {seed}")

    def sample_sessions(self, fraction: float, seed: int) -> Trace:
        """As :meth:`sample`, but refuse a trace without a session column."""
        if self.session is None:
            raise TraceError(f"{self.name}: no session column; fix: use sample(), which groups by prefix family")
        return self.sample(fraction, seed)

    def take(self, rows: I64, name: str, step: str) -> Trace:
        """Return the given rows as a trace; cutting cannot break what :meth:`build` checked.

        Args:
            rows: int64[m] request indices, ascending (or the caller sets other arrival times).
            name: Name of the result.
            step: What was done, for the provenance.
        """
        offsets, ids = chains.take_rows(self.offsets, self.block_ids, rows)
        columns: dict[str, I32 | I64 | F64] = {
            key: column[rows] for key, column in self.columns().items() if key not in ("offsets", "block_ids")
        }
        return Trace(
            name=name,
            block_tokens=self.block_tokens,
            offsets=offsets,
            block_ids=chains.densify(ids)[0],
            provenance=stepped(self.provenance, f"{step} of {self.name}"),
            **columns,  # type: ignore[arg-type]
        )

    # ---- combining and storing -----------------------------------------------------------------------------------

    @staticmethod
    def concat(traces: Sequence[Trace], name: str, gap_s: float = 0.0) -> Trace:
        """Play traces one after another; see :func:`workloads.combine.concat`."""
        return combine.concat(traces, name, gap_s)

    @staticmethod
    def merge(traces: Sequence[Trace], name: str) -> Trace:
        """Interleave traces by arrival time; see :func:`workloads.combine.merge`."""
        return combine.merge(traces, name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.npz`` file, whole or not at all; see :func:`workloads.npz.write`."""
        npz.write(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Trace:
        """Read a ``.npz`` file written by :meth:`save`; see :func:`workloads.npz.read`."""
        return npz.read(path)
