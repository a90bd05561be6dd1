"""Reading and writing traces: block ids per second by format, and bytes per request.

Writes the Claude Code sessions (weka) and the conversation trace in every format that can be written, reads them back
and compares; processor time, the best of several runs, one core. npz and Parquet are to reach 20 M block ids/s, text
formats 1 M.

    python tests/bench/store_bench.py [--runs 5]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sim.tables import table
from workloads import Trace, formats, load

SUFFIXES = {"npz": ".npz", "parquet": ".parquet", "kvt1": ".kvt1.gz", "mooncake": ".jsonl", "mooncake, gz": ".jsonl.gz"}
TARGETS = {"npz": 20.0, "parquet": 20.0}


def best(call: Callable[[], object], runs: int) -> float:
    """Return the shortest processor time of several calls in seconds."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def rows(trace: Trace, folder: Path, runs: int) -> list[list[object]]:
    """Return a row of the table per format."""
    found: list[list[object]] = []
    millions = trace.n_refs / 1e6
    for name, suffix in SUFFIXES.items():
        path = folder / f"trace{suffix}"
        write = formats.writer(path).write
        wrote = best(lambda write=write, path=path: write(trace, path), runs)
        spec = f"{path}?block_tokens={trace.block_tokens}" if suffix.startswith(".jsonl") else str(path)
        read = best(lambda spec=spec: load(spec), runs)
        assert load(spec).block_ids.tolist() == trace.block_ids.tolist()
        size = path.stat().st_size
        target = TARGETS.get(name, 1.0)
        rates = [
            f"{millions / wrote:.1f}",
            f"{millions / read:.1f}",
            f"{target:.0f}",
            f"{millions / read / target:.1f}x",
        ]
        found.append([trace.name, name, *rates, f"{size / 1e6:.1f}", f"{size / trace.n_requests:,.0f}"])
        path.unlink()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs per figure, the best counts")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for spec in ("mooncake_conversation", "cc_weka_v8"):
            found += rows(load(spec), Path(folder), options.runs)
    head = ["trace", "format", "write M ids/s", "read M ids/s", "target", "of target", "MB", "bytes/request"]
    print(table(head, found, "llrrrrrr"))


if __name__ == "__main__":
    main()
