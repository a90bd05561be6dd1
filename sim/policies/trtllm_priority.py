"""Request priority 0..100, default 35, then LRU within it. TensorRT-LLM V1 block manager, leaves only there too.

Object: a block, with the priority of the last request that used it (in TensorRT-LLM also "a new priority overrides").
Priority 0 is "unknown" in the contract and so means 35. Not expressible: priorities per token range and their duration
(`KvCacheRetentionConfig`); the trace has one per request. Without priorities this is LRU. Ghosts are not read.
"""

DEFAULT = 35.0
LEVEL = 1e10


def priority(block, cache):
    level = min(max(block.priority, 0.0), 100.0) if block.priority != 0.0 else DEFAULT
    return block.released + level * LEVEL
