"""Second touch: a block enters when it is asked for the second time. vLLM CPU tier with `store_threshold` 2."""


def priority(block, cache):
    return block.released


def admit(block, request, cache):
    return block.seen >= 2.0
