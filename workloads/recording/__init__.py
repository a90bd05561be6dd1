"""Record a live server: a log of lengths, times and keyed block ids, and nothing that was said.

``workloads.recording.middleware.Recorder`` watches, ``workloads.recording.journal`` writes,
``workloads.readers.recorded`` reads.
"""
