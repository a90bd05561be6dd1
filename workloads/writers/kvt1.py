"""Writes kvt1: a header line with the manifest, then one request per line with runs of block ids.

Turn is implied by the order within a session; tenant, type and priority have no place in the format and are left out.
Knows that format; must not know caches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workloads import sidecar
from workloads.manifest import manifest_of
from workloads.trace import Trace
from workloads.writers.text import milliseconds, write_lines

SUFFIXES = (".kvt1", ".kvt1.gz")
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
    said = manifest_of(trace)
    named = {"source": said.source, "licence": said.licence, "citation": said.citation, "tool": said.tool}
    yield {"format": "kvt1", "name": trace.name, "block_size": trace.block_tokens, **named}
    starts, lengths, rows = _runs(trace)
    runs = np.stack([starts, lengths], axis=1)
    sessions = [-1] * trace.n_requests if trace.session is None else trace.session.tolist()
    columns = zip(milliseconds(trace.arrival_s), trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    for i, (arrival, tokens, output) in enumerate(columns):
        line = {"t": arrival, "in": tokens, "out": output, "b": runs[rows[i] : rows[i + 1]].tolist()}
        if sessions[i] >= 0:
            line["s"] = sessions[i]
        yield line


def _runs(trace: Trace) -> tuple[Any, Any, list[int]]:
    """Return first ids and lengths of the runs of consecutive ids, and where each request's begin."""
    ids = trace.block_ids.astype(np.int64)
    begins = np.ones(len(ids), np.bool_)
    begins[1:] = np.diff(ids) != 1
    begins[trace.offsets[:-1][trace.full_blocks > 0]] = True
    at = np.flatnonzero(begins)
    lengths = np.diff(np.append(at, len(ids)))
    return ids[at], lengths, np.searchsorted(at, trace.offsets, side="left").tolist()
