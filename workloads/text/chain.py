"""Prefix-chained, keyed block ids of token sequences.

Knows HMAC over (everything before, the tokens of a block). Must not know text, tokenizers or files. Equal id under one
key means equal whole prefix, as everywhere in this package; without the key an id says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workloads.keys import Names
from workloads.validation import check_block_tokens


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        ids: Of its full blocks, first block first; below 2**63.
        tail: Id of its last, partial block; None if it has none.
        tokens: Its length.
    """

    ids: list[int]
    tail: int | None
    tokens: int


def space(model: object, salt: object = None) -> str:
    """Return what keeps the prompts of one model (or LoRA) and cache salt apart from all others'."""
    named = [value if isinstance(value, str) else None for value in (model, salt)]
    return "" if named == [None, None] else json.dumps(named)


class Chains:
    """The ids of one key, tokenizer, template and block size; they are comparable with each other only."""

    def __init__(self, key: bytes, scope: str, block_tokens: int) -> None:
        """Derive the key of the blocks.

        Args:
            key: The secret.
            scope: What else ids depend on: tokenizer and template.
            block_tokens: Tokens per block.

        Raises:
            TraceError: a block size that is not positive.
        """
        check_block_tokens(block_tokens)
        self.names = Names(key, f"blocks of {block_tokens}, {scope}")
        self.block_bytes = 4 * block_tokens

    def path(self, space: str = "") -> Path:
        """Return an empty prompt to append to; prompts of different spaces share nothing."""
        return Path(self, self.names.digest(space.encode()))


class Path:
    """A prompt that grows."""

    def __init__(self, chains: Chains, root: bytes) -> None:
        """Start from a root (see :meth:`Chains.path`)."""
        self._chains = chains
        self._digest = root  # of all full blocks so far
        self._rest = b""
        self._ids: list[int] = []
        self._tokens = 0

    def append(self, tokens: Sequence[int]) -> None:
        """Append tokens."""
        self._ids += self._advance(tokens)

    def prompt(self, ending: Sequence[int] = ()) -> Prompt:
        """Return the prompt so far with an ending, which is not kept."""
        kept = self._digest, self._rest, self._tokens
        ids = [*self._ids, *self._advance(ending)]
        tail = self._chains.names.number(self._digest + self._rest)
        found = Prompt(ids, tail if self._rest else None, self._tokens)
        self._digest, self._rest, self._tokens = kept
        return found

    def _advance(self, tokens: Sequence[int]) -> list[int]:
        """Take tokens in, return the ids of the blocks they complete."""
        data, width, digest = self._rest + np.array(tokens, "<i4").tobytes(), self._chains.block_bytes, self._digest
        name, ids = self._chains.names.digest, []
        full = len(data) - len(data) % width
        for start in range(0, full, width):
            digest = name(digest + data[start : start + width])
            ids.append(int.from_bytes(digest[:8], "big") >> 1)
        self._digest, self._rest, self._tokens = digest, data[full:], self._tokens + len(tokens)
        return ids
