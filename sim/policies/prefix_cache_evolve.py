"""The production policy of ptuls/prefix-cache-evolve (MIT), bundle production_16tok_20260609, in this contract.

As published: admit if a value of decayed use, structure and cost exceeds a pressure; evict the largest 0.82 log age -
1.65 log(uses) - 0.24 log(recent uses) - 0.5 priority. Weights and half-lives (12, 1.5 and 3.5 requests) are theirs.
Object: a block; leaves leave, as there. Its decayed sums are s0..s2, in a ghost list of 64,000, where theirs has 1,024.
Depths count blocks of whatever size, costs tokens, as there: tuned on 16-token blocks, 24 and 48 of them, and left so.
Adaptations. Descendants are not known here when it matters, a candidate and a new block have none: their terms are 0.
A refused block cannot be written to: it counts as seen once at its last access if it was seen at all. Pressure there
sums, decaying, over the last 32 requests that met a full cache: here its fixed point, evicted blocks per request (at
most 1) standing for that share. Recompute cost there is the tokens up to the block's end. Rejected blocks take memory
while their request runs here, as in an engine; there they do not.
"""

FADE = 0.15910358474628546


def half(value, elapsed, half_life):
    return value * 2.0 ** (-min(elapsed, 1000.0) / half_life)


def priority(block, cache):
    uses = half(block.s0, block.age, 12.0) + block.seen - 1.0
    important = half(block.s1, block.age, 1.5)
    recent = half(block.s2, block.age, 3.5)
    kept = 1.65 * math.log1p(uses) + 0.5 * important + 0.24 * math.log1p(recent)
    return kept - 0.82 * math.log1p(block.age)


def admit(block, request, cache):
    known = min(block.seen - 1.0, 1.0)
    uses = half(max(block.s0, known), block.gap, 12.0) + 1.0
    important = half(block.s1, block.gap, 1.5)
    recent = half(max(block.s2, 0.35 * known), block.gap, 3.5) + 0.35
    reuse = math.log1p(uses) + 0.22 * math.log1p(recent)
    if block.gap < 1e9:
        reuse = reuse + 0.18 * math.log1p(block.gap)
    missing = 1.0 - cache.recent_hit_rate
    full = min(cache.pressure, 1.0)
    rise = full * (0.75 + 0.5 * missing) + 0.12 * max(request.priority, 0.0) - 0.08 * missing
    pressure = min(1.5, rise / FADE)
    depth = block.depth + 1.0
    value = 0.95 * reuse + 0.28 * important + 1.5 * math.log1p(block.prefix_tokens / 96.0)
    deep = (0.2 * max(depth - 4.0, 0.0) + 0.24 * max(depth - 2.0, 0.0)) / max(1.0, 0.75 + 0.25 * uses)
    toll = pressure * (0.55 + 0.12 * max(depth - 1.0, 0.0)) / (1.0 + reuse + 0.35 * important)
    plain = max(1.0 - important, 0.0) * max(pressure - 0.25, 0.0)
    both = max(important - 0.5, 0.0) * max(uses - 1.0, 0.0)
    return value - 0.7 - deep - toll - 0.22 * max(pressure - 0.8, 0.0) - 0.18 * plain + 0.12 * both > 0.0


def on_hit(block, request, cache):
    block.s0 = half(block.s0, block.gap, 12.0) + 2.5
    block.s1 = half(block.s1, block.gap, 1.5) + max(request.priority, 0.0)
    block.s2 = half(block.s2, block.gap, 3.5) + 1.0


def on_insert(block, request, cache):
    block.s0 = half(block.s0, block.gap, 12.0) + 1.0
    block.s1 = half(block.s1, block.gap, 1.5)
    block.s2 = half(block.s2, block.gap, 3.5) + 0.35
