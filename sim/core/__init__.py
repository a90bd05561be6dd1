"""Pure numba kernels over plain arrays and records: no I/O, no objects, no policy source text."""
