"""Prompts made of pieces of known length, cut into prefix-chained blocks.

Knows pieces (a name and a number of tokens), the paths they form and which blocks end in which piece. Must not know
files or times. Two prompts share a block exactly if they consist of the same pieces, in the same order, up to the token
where the block ends: different pieces are taken to differ from their first token on.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

import numpy as np

from workloads import runs
from workloads.columns import I64

ROOT = 0


class PieceTree:
    """All paths of pieces seen so far; a node is a path, and the blocks that end in its last piece are a run of ids."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._children: dict[tuple[int, Hashable], int] = {}
        self._tokens = array("q", [0])
        self._first = array("q", [0])
        self._count = array("q", [0])
        self._blocks = 0

    def child(self, node: int, name: Hashable, tokens: int) -> int:
        """Return the node of a path with one more piece.

        Args:
            node: The path so far; ``ROOT`` for none.
            name: Names the piece; equal name, equal tokens.
            tokens: Its length, >= 1.
        """
        known = self._children.setdefault((node, name), len(self._tokens))
        if known == len(self._tokens):
            end = self._tokens[node] + tokens
            count = end // self.block_tokens - self._tokens[node] // self.block_tokens
            self._tokens.append(end)
            self._first.append(self._blocks)
            self._count.append(count)
            self._blocks += count
        return known

    def tokens(self, node: int) -> int:
        """Return the length of a path."""
        return self._tokens[node]

    def blocks(self, node: int) -> int:
        """Return the number of full blocks of a path."""
        return self._tokens[node] // self.block_tokens

    def expand(self, path_rows: array[int], nodes: array[int]) -> tuple[I64, I64]:
        """Write out prompts as block ids.

        Args:
            path_rows: [n + 1], CSR over ``nodes``.
            nodes: The nodes of each prompt, from the first piece on.

        Returns:
            offsets int64[n + 1] and ids int64[offsets[-1]], prefix-chained.
        """
        at = np.asarray(nodes, np.int64)
        first, count = np.asarray(self._first, np.int64), np.asarray(self._count, np.int64)
        return runs.expand(np.asarray(path_rows, np.int64), first[at], count[at])
