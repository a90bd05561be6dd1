"""Prompts as paths in a tree, and the log of requests made with them.

Knows how token segments become prefix-chained block ids. Must not know what a workload looks like.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from workloads import chains, runs
from workloads.columns import I64
from workloads.trace import Trace
from workloads.validation import check_block_tokens

ROOT = 0


class PromptTree:
    """All prompts of a workload. A node is a prompt prefix; extending it by a segment of tokens gives a child.

    A block belongs to the segment in which it fills up, so two prompts share exactly the full blocks of their common
    path: equal id, equal whole prefix.
    """

    def __init__(self, block_tokens: int) -> None:
        check_block_tokens(block_tokens)
        self.block_tokens = block_tokens
        self._tokens = [0]
        self._runs: list[tuple[tuple[int, int], ...]] = [()]
        self._children: dict[tuple[int, Hashable], int] = {}
        self._next_id = 0

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
        before = self._tokens[node]
        count = (before + tokens) // self.block_tokens - before // self.block_tokens
        path = self._runs[node]
        if count:
            if path and sum(path[-1]) == self._next_id:
                path = (*path[:-1], (path[-1][0], path[-1][1] + count))
            else:
                path = (*path, (self._next_id, count))
            self._next_id += count
        child = len(self._tokens)
        self._tokens.append(before + tokens)
        self._runs.append(path)
        if key is not None:
            self._children[node, key] = child
        return child

    def tokens(self, node: int) -> int:
        """Return the prompt's length in tokens."""
        return self._tokens[node]

    def path(self, node: int) -> tuple[tuple[int, int], ...]:
        """Return the prompt's full blocks as (first id, length) runs."""
        return self._runs[node]


class RequestLog:
    """Requests in any order, each a node of a :class:`PromptTree`; :meth:`trace` sorts and writes them out."""

    def __init__(self, tree: PromptTree) -> None:
        self.tree = tree
        self._arrival_s: list[float] = []
        self._node: list[int] = []
        self._columns: dict[str, list[int]] = {
            key: [] for key in ("output_tokens", "session", "turn", "tenant", "request_type", "priority")
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

    def before(self, now_s: float) -> int:
        """Return how many requests arrive up to a time."""
        return int(np.count_nonzero(np.array(self._arrival_s) <= now_s))

    def trace(self, name: str, requests: int, parameters: dict[str, object]) -> Trace:
        """Return the first ``requests`` requests in time order as a trace.

        Args:
            name: Generator name, which becomes part of the trace's name.
            requests: How many requests to keep; the log holds at least as many.
            parameters: Generator arguments, for provenance.
        """
        order = np.argsort(np.array(self._arrival_s), kind="stable")[:requests]
        paths = [self.tree.path(node) for node in self._node]
        rows: I64 = np.concatenate(([0], np.cumsum([len(path) for path in paths], dtype=np.int64)))
        flat: I64 = np.array([run for path in paths for run in path], np.int64).reshape(-1, 2)
        rows, index = chains.take_rows(rows, np.arange(len(flat), dtype=np.int64), order)
        offsets, ids = runs.expand(rows, flat[index, 0], flat[index, 1])
        columns = {key: np.array(values, np.int64)[order] for key, values in self._columns.items()}
        optional = {key: column for key, column in columns.items() if key in ("session", "turn") or column.any()}
        output_tokens = optional.pop("output_tokens", columns["output_tokens"])
        return Trace.build(
            name=f"{name}-seed{parameters['seed']}",
            block_tokens=self.tree.block_tokens,
            offsets=offsets,
            block_ids=ids,
            arrival_s=np.round(np.array(self._arrival_s)[order], 4),
            input_tokens=np.array([self.tree.tokens(node) for node in self._node], np.int64)[order],
            output_tokens=output_tokens,
            provenance={"format": "synthetic", "generator": name, "parameters": parameters},
            **optional,
        )
