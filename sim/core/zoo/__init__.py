"""Native kernels of the classic caching policies: one state, two drivers, a few small hooks per policy."""
