"""Writes Mooncake JSONL, for Mooncake's own tools, NVIDIA Dynamo and AIPerf (``--custom-dataset-type mooncake_trace``).

A line per request: ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``, and ``session_id`` where the
session is known. ``hash_ids`` are the full blocks, then, if the prompt is no whole number of blocks, one id that no
other request has: the format lists ceil(input_length / block) ids, and a trace does not know which tails are equal.
Turn, tenant, type and priority have no place in the format and are left out. The block size has none either: it is in
the manifest beside the file, which AIPerf and Dynamo want as an option. AIPerf plays rows of one session one after
another, as one conversation: write without sessions (`kvevolve trace convert --drop session`) to keep every time stamp.
Knows that format; must not know caches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads import sidecar
from workloads.trace import Trace
from workloads.writers.text import milliseconds, write_lines

SUFFIXES = (".jsonl", ".jsonl.gz")
KEEPS = ("session", "turn")


def write(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace, whole or not at all, and its manifest beside it.

    Args:
        trace: What to write.
        path: The file; gzipped if it ends in .gz.

    Raises:
        OSError: it cannot be written.
    """
    write_lines(Path(path), _lines(trace), trace.n_requests)
    sidecar.write(trace, Path(path))


def _lines(trace: Trace) -> Iterator[dict[str, Any]]:
    fresh = trace.n_blocks
    offsets, ids = trace.offsets.tolist(), trace.block_ids
    sessions = [-1] * trace.n_requests if trace.session is None else trace.session.tolist()
    lengths = zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    times = milliseconds(trace.arrival_s)
    for i, (tokens, output) in enumerate(lengths):
        listed = ids[offsets[i] : offsets[i + 1]].tolist()
        if tokens % trace.block_tokens:
            listed.append(fresh)
            fresh += 1
        line = {"timestamp": times[i], "input_length": tokens, "output_length": output, "hash_ids": listed}
        if sessions[i] >= 0:
            line["session_id"] = str(sessions[i])
        yield line
