"""FIFO: the block that entered first leaves first, whatever happened since."""


def priority(block, cache):
    return block.inserted
