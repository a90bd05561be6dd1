"""Prompts as paths in a tree, and the log of requests made with them.

Knows how token segments become prefix-chained block ids. Must not know what a workload looks like.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

import numpy as np

from workloads import chains, progress, runs
from workloads.columns import I32, I64, INT32_MAX, integers, seconds
from workloads.errors import TraceError
from workloads.trace import Trace
from workloads.validation import check_block_tokens

ROOT = 0
_TELL_REQUESTS = 1 << 14
_MAX_S = 1e12  # 0.1 ms are still told apart there


class PromptTree:
    """All prompts of a workload. A node is a prompt prefix; extending it by a segment of tokens gives a child.

    A block belongs to the segment in which it fills up, so two prompts share exactly the full blocks of their common
    path: equal id, equal whole prefix.

    A node's path is kept as its last run of ids and the node that holds the runs before (-1: none), so a node costs
    32 bytes however long its prompt is.
    """

    def __init__(self, block_tokens: int) -> None:
        check_block_tokens(block_tokens)
        self.block_tokens = block_tokens
        self._tokens = array("q", [0])
        self._first = array("q", [0])
        self._length = array("q", [0])
        self._before = array("q", [-1])
        self._children: dict[tuple[int, Hashable], int] = {}
        self.n_ids = 0

    def extend(self, node: int, tokens: int, key: Hashable = None) -> int:
        """Return the node of a prompt that goes on with a segment.

        Args:
            node: The prompt so far; ``ROOT`` is the empty prompt.
            tokens: Tokens in the segment, >= 0.
            key: What the segment says. The same key after the same prompt is the same node; None is content never
                seen before.
        """
        if key is not None and (node, key) in self._children:
            return self._children[node, key]
        old = self._tokens[node]
        count = (old + tokens) // self.block_tokens - old // self.block_tokens
        first, length, before = self._first[node], self._length[node], self._before[node]
        if count:
            if length and first + length == self.n_ids:
                length += count
            else:
                before = node if length else -1
                first, length = self.n_ids, count
            self.n_ids += count
        child = len(self._tokens)
        self._tokens.append(old + tokens)
        self._first.append(first)
        self._length.append(length)
        self._before.append(before)
        if key is not None:
            self._children[node, key] = child
        return child

    def tokens(self, node: int) -> int:
        """Return the prompt's length in tokens."""
        return self._tokens[node]

    def lengths(self, nodes: I64) -> I64:
        """Return int64[n] lengths in tokens of prompts int64[n]."""
        return np.frombuffer(self._tokens, np.int64)[nodes]

    def path(self, node: int) -> tuple[tuple[int, int], ...]:
        """Return the prompt's full blocks as (first id, length) runs."""
        _, starts, lengths = self.runs(np.array([node]))
        return tuple(zip(starts.tolist(), lengths.tolist(), strict=True))

    def runs(self, nodes: I64) -> tuple[I64, I64, I64]:
        """Return the full blocks of many prompts, see :mod:`workloads.runs`.

        Args:
            nodes: int64[n].

        Returns:
            rows int64[n + 1], CSR over the runs, and their first ids and lengths.
        """
        first, length = np.frombuffer(self._first, np.int64), np.frombuffer(self._length, np.int64)
        before = np.frombuffer(self._before, np.int64)
        counts = np.zeros(len(nodes), np.int64)
        row = np.flatnonzero(length[nodes])
        at = nodes[row]
        levels = []  # from the last run of every path to the first
        while len(row):
            counts[row] += 1
            levels.append((row, at))
            at = before[at]
            row, at = row[at >= 0], at[at >= 0]
        rows = np.zeros(len(nodes) + 1, np.int64)
        np.cumsum(counts, out=rows[1:])
        node_of = np.empty(rows[-1], np.int64)
        for level, (row, at) in enumerate(levels, 1):
            node_of[rows[row + 1] - level] = at
        return rows, first[node_of], length[node_of]


class RequestLog:
    """Requests in any order, each a node of a :class:`PromptTree`; :meth:`trace` sorts and writes them out."""

    def __init__(self, tree: PromptTree) -> None:
        self.tree = tree
        self._arrival_s = array("d")
        self._node = array("q")
        self._columns = {
            key: array("q") for key in ("output_tokens", "session", "turn", "tenant", "request_type", "priority")
        }

    def __len__(self) -> int:
        return len(self._node)

    def add(
        self,
        arrival_s: float,
        node: int,
        output_tokens: int,
        session: int,
        turn: int,
        tenant: int = 0,
        request_type: int = 0,
        priority: int = 0,
    ) -> None:
        """Note one request; the meanings are those of the columns of :class:`workloads.trace.Trace`."""
        self._arrival_s.append(arrival_s)
        self._node.append(node)
        values = (output_tokens, session, turn, tenant, request_type, priority)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        if len(self) % _TELL_REQUESTS == 0:
            progress.tell("making requests, thousands", len(self) / 1e3)

    def before(self, now_s: float) -> int:
        """Return how many requests arrive up to a time."""
        return int(np.count_nonzero(np.array(self._arrival_s) <= now_s))

    def trace(self, name: str, requests: int, parameters: dict[str, object]) -> Trace:
        """Return the first ``requests`` requests in time order as a trace.

        Args:
            name: Generator name, which becomes part of the trace's name.
            requests: How many requests to keep; the log holds at least as many.
            parameters: Generator arguments, for provenance.

        Raises:
            TraceError: a time or length that no trace can hold, or more than 2**31 - 1 block references.
        """
        arrivals = seconds(self._arrival_s, "arrival_s")
        order = np.argsort(arrivals, kind="stable")[:requests]
        if arrivals[order[-1]] > _MAX_S:
            raise TraceError(f"requests arrive up to {arrivals[order[-1]]:g} s: expected {_MAX_S:g}; fix: higher rates")
        nodes = np.array(self._node)[order]
        columns = {key: np.array(values)[order] for key, values in self._columns.items()}
        optional = {key: column for key, column in columns.items() if key in ("session", "turn") or column.any()}
        optional.pop("output_tokens", None)
        offsets, ids = self._blocks(nodes)
        checked = {key: integers(column, key, -1, INT32_MAX).astype(np.int32) for key, column in optional.items()}
        return Trace(
            name=f"{name}-seed{parameters['seed']}",
            block_tokens=self.tree.block_tokens,
            offsets=offsets,
            block_ids=ids,
            arrival_s=np.round(arrivals[order], 4),
            input_tokens=integers(self.tree.lengths(nodes), "input_tokens", 0, INT32_MAX).astype(np.int32),
            output_tokens=integers(columns["output_tokens"], "output_tokens", 0, INT32_MAX).astype(np.int32),
            provenance={"format": "synthetic", "generator": name, "parameters": parameters},
            **checked,
        )

    def _blocks(self, nodes: I64) -> tuple[I64, I32]:
        """Return offsets and dense ids of prompts, in order of first appearance; chained because paths in a tree are.

        Never holds more than the ids themselves, a table of all ids and one chunk.
        """
        rows, starts, lengths = self.tree.runs(nodes)
        offsets = np.concatenate(([0], np.cumsum(lengths)))[rows]
        if offsets[-1] > INT32_MAX:
            raise TraceError(
                f"{offsets[-1]:,} block references: expected at most {INT32_MAX:,}; fix: fewer requests, or a larger"
                " block_tokens",
                field="requests",
            )
        ids, number = np.empty(offsets[-1], np.int32), chains.Numbering(self.tree.n_ids)
        for start, stop in chains.row_chunks(offsets):
            own = slice(rows[start], rows[stop])
            _, expanded = runs.expand(rows[start : stop + 1] - rows[start], starts[own], lengths[own])
            ids[offsets[start] : offsets[stop]] = number(expanded)
            progress.tell("writing out blocks, millions", offsets[stop] / 1e6, offsets[-1] / 1e6)
        return offsets, ids
