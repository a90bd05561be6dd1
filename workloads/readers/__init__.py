"""Readers: trace files in, :class:`workloads.Trace` or :class:`workloads.SessionSet` out. One module per format."""
