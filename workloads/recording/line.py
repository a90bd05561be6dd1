"""One line of a recorded or anonymised log.

Knows the fields, which are Mooncake's (``timestamp`` ms, ``input_length``, ``output_length``, ``hash_ids`` with the
partial last block, ``session_id``) and a few more that readers of Mooncake files skip: ``block_size``, ``tenant_id``,
``request_type``, ``priority``, ``cached_tokens`` (what the server said it hit) and ``reported_input_length`` (its own
count of the prompt). Must not know where requests come from. Only numbers and keyed names can be put in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Line:
    """One request.

    Attributes:
        timestamp: Arrival in ms.
        input_length: Prompt tokens.
        output_length: Generated tokens.
        hash_ids: Ids of the blocks, the last one of a partial block unless the length is a multiple of `block_size`.
        block_size: Tokens per block.
        session_id: Keyed name.
        tenant_id: Keyed name.
        counts: The further fields, which are integers.
    """

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]
    block_size: int
    session_id: str | int | None = None
    tenant_id: str | int | None = None
    counts: dict[str, int] | None = None

    def encoded(self) -> bytes:
        """Return the line, newline included."""
        fields = {
            "timestamp": self.timestamp,
            "input_length": self.input_length,
            "output_length": self.output_length,
            "block_size": self.block_size,
        }
        names = {"session_id": self.session_id, "tenant_id": self.tenant_id, **(self.counts or {})}
        known = {key: value for key, value in names.items() if value is not None}
        whole = {**fields, **known, "hash_ids": self.hash_ids}
        return (orjson.dumps(whole) if orjson else json.dumps(whole, separators=(",", ":")).encode()) + b"\n"
