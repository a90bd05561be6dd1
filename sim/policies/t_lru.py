"""Tail-optimized LRU: blocks whose loss cannot push the next TTFT over its bound leave first, then LRU.

NeurIPS 2025, arXiv 2510.15152; SGLang PR #34012 (`tlru`, tokens as here). Of a history of L tokens whose next prompt
adds about NEXT, L + NEXT - BOUND must stay so that at most BOUND are computed; blocks beyond are free to go. L is the
longest prompt that used the block while resident, in full blocks, and does not shrink as the tail is cut: otherwise the
cut would go on to the head. Object: a block (SGLang: a tree node, all beyond the budget). Leaves only, as there. Ghosts are not read.
The values are those of SGLang's measurement here, 20 and 2 blocks of 512 tokens; both depend on the server.
"""

BOUND = 10240.0
NEXT = 1024.0
PROTECTED = 1e12


def priority(block, cache):
    needed = max(block.s0 + NEXT - BOUND, 0.0)
    return block.released + (PROTECTED if block.prefix_tokens - block.tokens < needed else 0.0)


def on_insert(block, request, cache):
    block.s0 = max(request.blocks * cache.block_tokens, block.prefix_tokens)


def on_hit(block, request, cache):
    block.s0 = max(block.s0, request.blocks * cache.block_tokens)
