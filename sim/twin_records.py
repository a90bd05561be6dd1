"""What the policy twin shows a policy: records of blocks, of the request and of the cache, and the ghost list.

Knows the fields of the contract; must not know what is resident or why.
"""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

from sim.core import fields
from sim.twin_server import Ask

COPIED = ("inferred_turn", "turn_gap", "output_tokens", "turn", "tenant", "type", "priority")
"""Fields of the request that its blocks keep."""


def blank(of: tuple[fields.Field, ...]) -> SimpleNamespace:
    """Return a record of zeros."""
    return SimpleNamespace(**{entry.name: 0.0 for entry in of if not entry.expression})


class Records:
    """The records of one replay."""

    def __init__(self, ghost_blocks: int) -> None:
        self.ghost_blocks = ghost_blocks
        self.ghosts: OrderedDict[int, SimpleNamespace] = OrderedDict()
        self.request, self.cache = blank(fields.REQUEST), blank(fields.CACHE)

    def remember(self, block: int, record: SimpleNamespace) -> None:
        """Put a block that is not resident on the ghost list; the oldest is forgotten."""
        self.ghosts[block] = record
        if len(self.ghosts) > self.ghost_blocks:
            self.ghosts.popitem(last=False)

    def recalled(self, block: int, depth: int, generated: bool) -> SimpleNamespace:
        """Return the record of a missing block, from the ghost list or new."""
        record = self.ghosts.pop(block, None) or blank(fields.BLOCK)
        record.depth, record.generated = float(depth), float(generated)
        record.hits = record.children = 0.0
        return record

    def touch(self, record: SimpleNamespace) -> None:
        """Note an access by the current request."""
        known = record.seen > 0
        record.gap = self.cache.now - record.last_access if known else fields.NEVER
        record.gap_s = self.cache.now_s - record.last_access_s if known else fields.NEVER
        record.last_access, record.last_access_s = self.cache.now, self.cache.now_s
        record.seen += 1
        record.prompt_blocks = self.request.blocks
        for name in COPIED:
            setattr(record, name, getattr(self.request, name))

    def present(self, ask: Ask, hits: int, known: int | None = None) -> None:
        """Show the policy a request, of whose blocks so many are known; None for one that finishes."""
        shown = {"input_tokens": ask.input_tokens, "blocks": len(ask.blocks), "hit_blocks": hits}
        shown["known_blocks"] = hits if known is None else known
        labels = {name: getattr(ask, name) for name in (*COPIED, "turn_gap_s")}
        vars(self.request).update({name: float(value) for name, value in (shown | labels).items()})
        if known is not None:
            self.cache.continued, self.cache.usual_gap = ask.continued, ask.usual_gap
