"""Prompts made of pieces of known length, cut into prefix-chained blocks.

Knows pieces (a name and a number of tokens), the paths they form and which blocks end in which piece. Must not know
files or times. Two prompts share a block exactly if they consist of the same pieces, in the same order, up to the token
where the block ends: different pieces are taken to differ from their first token on.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from workloads import runs
from workloads.columns import I64, INT32_MAX
from workloads.errors import TraceError

_ROOT = 0


@dataclass
class Prompt:
    """A path of pieces.

    Attributes:
        node: Its node in the tree.
        nodes: The nodes on the path in which a block ends.
    """

    node: int = _ROOT
    nodes: array[int] = field(default_factory=lambda: array("q"))


class PieceTree:
    """All paths of pieces seen so far; a node is a path, and the blocks that end in its last piece are a run of ids."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._children: dict[tuple[int, Hashable], int] = {}
        self._tokens = array("q", [0])
        self._first = array("q", [0])
        self._count = array("q", [0])
        self._blocks = 0
        self._rows = array("q", [0])
        self._listed = array("q")

    def extend(self, prompt: Prompt, name: Hashable, tokens: int) -> None:
        """Append a piece to a prompt.

        Args:
            prompt: What it is appended to.
            name: Names the piece; equal name, equal tokens.
            tokens: Its length; pieces of 0 tokens leave no trace.
        """
        if tokens == 0:
            return
        node = self._children.setdefault((prompt.node, name), len(self._tokens))
        if node == len(self._tokens):
            end = self._tokens[prompt.node] + tokens
            count = end // self.block_tokens - self._tokens[prompt.node] // self.block_tokens
            self._tokens.append(end)
            self._first.append(self._blocks)
            self._count.append(count)
            self._blocks += count
        prompt.node = node
        if self._count[node]:
            prompt.nodes.append(node)

    def add(self, prompt: Prompt) -> None:
        """Append a request with this prompt, as it is now."""
        self._listed.extend(prompt.nodes)
        self._rows.append(len(self._listed))

    def tokens(self, prompt: Prompt) -> int:
        """Return the length of a prompt."""
        return self._tokens[prompt.node]

    def blocks(self, prompt: Prompt) -> int:
        """Return the number of full blocks of a prompt."""
        return self._tokens[prompt.node] // self.block_tokens

    def ids(self) -> I64:
        """Return int64[n_refs] prefix-chained ids of the full blocks of all requests.

        Raises:
            TraceError: more than a trace can hold.
        """
        at = np.asarray(self._listed)
        first, count = np.asarray(self._first)[at], np.asarray(self._count)[at]
        if count.sum() > INT32_MAX:
            raise TraceError(f"{count.sum()} block references, at most {INT32_MAX} are supported - fix: cut the file")
        return runs.expand(np.asarray(self._rows), first, count)[1]
