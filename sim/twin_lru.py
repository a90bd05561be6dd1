"""The slow, obvious twin of `sim.core.lru`: vLLM's block pool with lists and one ordered dict.

Knows physical blocks (slots) and the free queue; must not know policies, nor anything of the kernel it is compared to.
"""

from __future__ import annotations

from collections import OrderedDict

from sim.engines import VLLM
from sim.options import Options
from sim.twin_server import Ask, asks_of, serve
from workloads.trace import Trace


class BlockPool:
    """Slots 0..capacity-1: what each holds, who uses it, and the queue of those nobody uses."""

    def __init__(self, capacity_blocks: int, tail_slot_first: bool) -> None:
        self.tail_slot_first = tail_slot_first
        self.queue: OrderedDict[int, None] = OrderedDict((slot, None) for slot in range(capacity_blocks))
        self.content: list[int | None] = [None] * capacity_blocks
        self.users = [0] * capacity_blocks
        self.slots_of: dict[int, list[int]] = {}
        """Per block id, the slots that hold it, first inserted first: a lookup returns the first."""
        self.running: dict[int, tuple[Ask, list[int]]] = {}

    def match(self, ask: Ask) -> int | None:
        """Return the hits, or None if the queue cannot give the other blocks."""
        found: list[int] = []
        for block in ask.blocks[: ask.hit_limit]:
            if block not in self.slots_of:
                break
            found.append(self.slots_of[block][0])
        left = len(self.queue) - sum(slot in self.queue for slot in found)
        return len(found) if ask.prompt_blocks - len(found) <= left else None

    def admit(self, i: int, ask: Ask, hits: int, now_s: float) -> None:
        """Touch the hit blocks, then take the others from the head of the queue and hash the full ones."""
        held = [self.slots_of[block][0] for block in ask.blocks[:hits]]
        for slot in held:
            self.queue.pop(slot, None)
            self.users[slot] += 1
        while len(held) < ask.prompt_blocks:
            held.append(self._take())
        for slot, block in zip(held[hits:], ask.blocks[hits:], strict=False):
            self._hash(slot, block)
        self.running[i] = ask, held

    def finish(self, i: int, now_s: float) -> None:
        """Take the blocks of generated tokens, as far as the queue reaches, then release all, last to first."""
        ask, held = self.running.pop(i)
        while len(held) < ask.total_blocks and self.queue:
            held.append(self._take())
        for slot, block in zip(held[len(ask.blocks) :], ask.generated, strict=False):
            self._hash(slot, block)
        for slot in reversed(held):
            self.users[slot] -= 1
            if self.users[slot] == 0:
                self.queue[slot] = None
                if self.tail_slot_first and self.content[slot] is None:
                    self.queue.move_to_end(slot, last=False)

    def _take(self) -> int:
        slot, _ = self.queue.popitem(last=False)
        block = self.content[slot]
        if block is not None:
            self.content[slot] = None
            self.slots_of[block].remove(slot)
            if not self.slots_of[block]:
                del self.slots_of[block]
        self.users[slot] = 1
        return slot

    def _hash(self, slot: int, block: int) -> None:
        self.content[slot] = block
        self.slots_of.setdefault(block, []).append(slot)


def twin_engine(trace: Trace, capacity_blocks: int, options: Options) -> list[int]:
    """Replay a trace against vLLM's own LRU, slowly.

    Args:
        trace: What to replay.
        capacity_blocks: Usable blocks.
        options: As for `sim.simulate`; policies' options are ignored.

    Returns:
        Hit blocks per request, -1 for requests with more blocks than the cache.
    """
    pool = BlockPool(capacity_blocks, tail_slot_first=options.engine == VLLM[0])
    return serve(asks_of(trace, options.decode), trace.block_tokens, capacity_blocks, options, pool).hits
