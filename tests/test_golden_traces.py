"""Hits on the other Mooncake traces, as released engines' own cache code gives them under the recorded conditions.

No arrays of these traces were handed over. The figures were taken by driving the published packages' code on CPU:
vLLM 0.33.0's KVCacheManager and CPUOffloadingManager, LMCache 0.5.6's policy classes; SGLang's by a model that equals
all its recorded arrays and, on the tool & agent trace, SGLang 0.5.23's Python tree core. That driving code gives every
recorded array of the conversation trace exactly.
"""

from __future__ import annotations

import numpy as np
import pytest

from sim.simulation import simulate

MEASURED = {
    "synthetic vllm>=0.23 vllm serial none 1000": (10366, 34935537),
    "synthetic vllm>=0.23 vllm serial private 1000": (10360, 34915762),
    "synthetic vllm>=0.23 vllm serial infer 1000": (10363, 34922908),
    "synthetic vllm>=0.23 vllm overlap none 1000": (9254, 31186355),
    "synthetic vllm>=0.23 vllm overlap infer 1000": (9254, 31184041),
    "synthetic vllm-cpu-tier?store_threshold=1 lru serial none 1000": (10370, 34949832),
    "synthetic vllm-cpu-tier?store_threshold=2 lru serial none 1000": (11002, 36387855),
    "synthetic vllm-cpu-tier?store_threshold=1 arc serial none 1000": (9671, 32417149),
    "synthetic vllm-cpu-tier?store_threshold=2 arc serial none 1000": (10510, 34911051),
    "toolagent_1000 vllm>=0.23 vllm serial none 500": (5528, 2763003),
    "toolagent_1000 vllm>=0.23 vllm serial private 500": (5528, 2763003),
    "toolagent_1000 vllm>=0.23 vllm serial infer 500": (5568, 2781769),
    "toolagent_1000 vllm>=0.23 vllm overlap none 500": (4419, 2188320),
    "toolagent_1000 vllm>=0.23 vllm overlap infer 500": (4415, 2186687),
    "toolagent_1000 vllm-cpu-tier?store_threshold=1 lru serial none 500": (5528, 2763003),
    "toolagent_1000 vllm-cpu-tier?store_threshold=2 lru serial none 500": (5553, 2793053),
    "toolagent_1000 vllm-cpu-tier?store_threshold=1 arc serial none 500": (5565, 2789809),
    "toolagent_1000 vllm-cpu-tier?store_threshold=2 arc serial none 500": (5553, 2793053),
    "synthetic lmcache lru serial none 1000": (10311, 34733833),
    "synthetic lmcache lfu serial none 1000": (4900, 14155487),
    "synthetic lmcache fifo serial none 1000": (10334, 34956677),
    "synthetic lmcache mru serial none 1000": (874, 1157608),
    "synthetic sglang lru serial none 1000": (10210, 34354016),
    "synthetic sglang lfu serial none 1000": (5847, 17560732),
    "synthetic sglang slru serial none 1000": (7711, 24232303),
    "synthetic sglang fifo serial none 1000": (10334, 34956677),
    "synthetic sglang tlru serial none 1000": (9857, 33324394),
    "synthetic sglang lru serial infer 1000": (10213, 34361162),
    "synthetic sglang lru overlap none 1000": (9220, 30979308),
    "synthetic sglang lru overlap infer 1000": (9131, 30697056),
    "toolagent_1000 lmcache lru serial none 500": (5528, 2763003),
    "toolagent_1000 lmcache lfu serial none 500": (5565, 2789809),
    "toolagent_1000 lmcache fifo serial none 500": (5166, 2583844),
    "toolagent_1000 lmcache mru serial none 500": (877, 269947),
    "toolagent_1000 sglang lru serial none 500": (5528, 2763003),
    "toolagent_1000 sglang lfu serial none 500": (5565, 2789809),
    "toolagent_1000 sglang slru serial none 500": (5565, 2789809),
    "toolagent_1000 sglang fifo serial none 500": (5516, 2757483),
    "toolagent_1000 sglang tlru serial none 500": (3971, 1955249),
    "toolagent_1000 sglang lru serial infer 500": (5568, 2781769),
    "toolagent_1000 sglang lru overlap none 500": (4631, 2297455),
    "toolagent_1000 sglang lru overlap infer 500": (4400, 2176338),
}
"""Trace, engine, policy, mode, decode and capacity: total hit blocks, and hit blocks weighted by request index."""


@pytest.mark.parametrize("condition", MEASURED)
def test_hits_equal_the_engine(condition, real_trace):
    trace, engine, policy, mode, decode, capacity = condition.split()
    result = simulate(real_trace(f"mooncake_{trace}"), policy, int(capacity), engine=engine, mode=mode, decode=decode)
    hits = result.hit_blocks_per_request.astype(np.int64)
    assert (int(hits.sum()), int((np.arange(hits.size) * hits).sum())) == MEASURED[condition]
