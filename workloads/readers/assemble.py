"""From the checked lines of a file to a trace.

Knows columns as readers collect them, the explicit repairs, and how an error about a request is traced back to its
line. Must not know any format.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads import chains
from workloads.columns import F64, I32, I64
from workloads.errors import TraceError, unknown_name
from workloads.readers.lines import JsonLines
from workloads.statistics import Spread
from workloads.trace import Trace

REPAIRS = ("sort_time", "rechain", "clip_input")


def integers() -> array[int]:
    """Return an empty array of int64."""
    return array("q")


@dataclass
class Rows:
    """Request columns as a reader collects them: one entry of 8 bytes per request, times in ms.

    Attributes:
        line: Line number of each request.
        arrival_ms: Arrival of each request.
        input_tokens: Prompt length.
        output_tokens: Output length.
        counts: Number of full-block ids of each request.
        more: Optional columns of a trace by name, filled by :meth:`put` and :meth:`name`; absent if no request has a
            value.
        names: By column, the number of each name given to :meth:`name`.
    """

    line: array[int] = field(default_factory=integers)
    arrival_ms: array[float] = field(default_factory=lambda: array("d"))
    input_tokens: array[int] = field(default_factory=integers)
    output_tokens: array[int] = field(default_factory=integers)
    counts: array[int] = field(default_factory=integers)
    more: dict[str, array[int]] = field(default_factory=dict)
    names: dict[str, dict[str | int, int]] = field(default_factory=dict)

    def add(self, line: int, arrival_ms: float, input_tokens: int, output_tokens: int, count: int) -> None:
        """Append a request."""
        self.line.append(line)
        self.arrival_ms.append(arrival_ms)
        self.input_tokens.append(input_tokens)
        self.output_tokens.append(output_tokens)
        self.counts.append(count)

    def put(self, column: str, value: int) -> None:
        """Set an optional column of the request added last; requests without a value get -1 (priority: 0)."""
        values = self.more.setdefault(column, integers())
        values.extend([_unknown(column)] * (len(self.line) - 1 - len(values)))
        values.append(value)

    def name(self, column: str, value: str | int | None) -> None:
        """Set an optional column of the request added last to the number of a name.

        In the trace, names are numbered in order of first appearance; None is no name.
        """
        if value is not None:
            numbers = self.names.setdefault(column, {})
            self.put(column, numbers.setdefault(value, len(numbers)))

    def start_at_zero(self) -> float:
        """Shift all arrivals so that the first is 0; return what it was, in ms."""
        start_ms = min(self.arrival_ms, default=0.0)
        self.arrival_ms = array("d", [time_ms - start_ms for time_ms in self.arrival_ms])
        return start_ms


def checked_repairs(repair: str | Iterable[str], allowed: tuple[str, ...] = REPAIRS) -> frozenset[str]:
    """Return the set of repair flags, refusing unknown ones.

    Args:
        repair: One flag, several joined by commas, or an iterable of flags.
        allowed: What the reader supports.

    Raises:
        TraceError: a flag that is not in ``allowed``.
    """
    flags = repair.split(",") if isinstance(repair, str) else list(repair)
    for flag in flags:
        if flag and flag not in allowed:
            raise unknown_name("repair", flag, allowed)
    return frozenset(flag for flag in flags if flag)


def assemble(
    source: JsonLines,
    rows: Rows,
    ids: I64,
    *,
    name: str,
    block_tokens: int,
    repairs: frozenset[str],
    provenance: dict[str, object],
    by_time: bool = False,
) -> Trace:
    """Apply the repairs asked for, then build the trace.

    Args:
        source: Where they come from, for messages.
        rows: Request columns in file order.
        ids: int64[sum(rows.counts)] full-block ids as written in the file.
        name: Name of the trace.
        block_tokens: Tokens per block.
        repairs: ``sort_time`` sorts requests that run backwards in time (stably); ``rechain`` re-keys ids that are
            not prefix-chained by (path so far, id); ``clip_input`` lowers the prompt length of a request that lists
            fewer ids than it has full blocks to the last length those ids cover.
        provenance: What the reader knows about the source; repairs made are added with their counts.
        by_time: The format lists requests in another order than that of arrival: sort them (stably); no repair.

    Raises:
        TraceError: naming file and line.
    """
    if not rows.line:
        raise TraceError(f"{source.path}: no requests in it - fix: check that this is the right file")
    made: dict[str, int] = {}
    offsets = np.concatenate(([0], np.cumsum(rows.counts, dtype=np.int64)))
    arrival_ms = np.array(rows.arrival_ms, np.float64)
    inputs = np.array(rows.input_tokens, np.int64)
    if "clip_input" in repairs:
        provenance = provenance | recorded_lengths(inputs)
        inputs, made["clip_input"], made["clip_input_tokens"] = _clip(inputs, np.diff(offsets), block_tokens)
    order = np.arange(len(arrival_ms), dtype=np.int64)
    if "sort_time" in repairs:
        made["sort_time"] = int((arrival_ms < np.maximum.accumulate(arrival_ms)).sum())
    if by_time or "sort_time" in repairs:
        order = np.argsort(arrival_ms, kind="stable")
        offsets, ids = chains.take_rows(offsets, ids, order)
    if "rechain" in repairs:
        ids, made["rechain"] = chains.rechain(offsets, chains.densify(ids)[0])
    columns = _columns(rows, arrival_ms, inputs, order)
    columns |= {"provenance": provenance | {"repairs": made} | source.skipped() | _type_names(rows, order)}
    try:
        return Trace.build(name=name, block_tokens=block_tokens, offsets=offsets, block_ids=ids, **columns)
    except TraceError as error:
        raise _located(error, source, [rows.line[i] for i in order]) from None


def _columns(rows: Rows, arrival_ms: F64, inputs: I64, order: I64) -> dict[str, Any]:
    """Return the per-request columns in the given order."""
    columns: dict[str, Any] = {
        "arrival_s": arrival_ms[order] / 1000.0,
        "input_tokens": inputs[order],
        "output_tokens": np.array(rows.output_tokens, np.int64)[order],
    }
    for name, values in rows.more.items():
        values.extend([_unknown(name)] * (len(order) - len(values)))
        columns[name] = np.array(values, np.int64)[order]
        if name in rows.names:
            known = columns[name] >= 0
            columns[name][known] = chains.densify(columns[name][known])[0]
    if "session" in columns and "turn" not in columns:
        columns["turn"] = turns(columns["session"])
    return columns


def recorded_lengths(input_tokens: npt.ArrayLike) -> dict[str, object]:
    """Return how prompt lengths were spread before a reader changed them, for provenance."""
    return {"recorded_input_tokens": asdict(Spread.of(np.asarray(input_tokens)))}


def _type_names(rows: Rows, order: I64) -> dict[str, object]:
    """Return the names of request types by number, for provenance."""
    if "request_type" not in rows.names:
        return {}
    names = list(rows.names["request_type"])
    numbers = np.array(rows.more["request_type"], np.int64)[order]
    return {"request_types": [names[number] for number in dict.fromkeys(numbers[numbers >= 0].tolist())]}


def _unknown(column: str) -> int:
    return 0 if column == "priority" else -1


def turns(session: I32 | I64) -> I32:
    """Return the index of each request within its session, in the order given; -1 where the session is unknown."""
    order = np.argsort(session, kind="stable")
    grouped = session[order]
    index = np.arange(len(session), dtype=np.int64)
    fresh = np.concatenate(([True], grouped[1:] != grouped[:-1]))
    turn = np.empty(len(session), np.int32)
    turn[order] = index - np.maximum.accumulate(np.where(fresh, index, 0))
    turn[session < 0] = -1
    return turn


def _clip(inputs: I64, counts: I64, block_tokens: int) -> tuple[I64, int, int]:
    longest = (counts + 1) * block_tokens - 1
    clipped = np.minimum(inputs, longest)
    return clipped, int((clipped < inputs).sum()), int((inputs - clipped).sum())


def _located(error: TraceError, source: JsonLines, lines: Sequence[int]) -> TraceError:
    """Add file and line to an error about a request, and the flag that would repair it."""
    if error.request is None or error.request >= len(lines):
        return TraceError(f"{source.path}: {error.message}", field=error.field)
    hints = {"arrival_s": "sort_time", "block_ids": "rechain"}
    hint = f", or pass repair={hints[error.field]!r}" if error.field in hints else ""
    return TraceError(
        f"{source.place(lines[error.request])}: {error.message}{hint}", request=error.request, field=error.field
    )
