"""Streaming replay of a trace of 100 M block references: time, cost per reference, peak memory.

Writes the Claude Code sessions (weka) at their recorded 64-token blocks, cloned with fresh ids, to a Parquet file in a
temporary folder, never holding more than a batch; then replays its first 1, 10 and 100 M references, each in a process
of its own that is held to one core.

    python tests/bench/stream_bench.py [--refs 100] [--capacity 200000] [--hashed] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sim.tables import table
from workloads import SessionSet, locate
from workloads.batch import Batch
from workloads.manifest import Manifest
from workloads.materialise import materialise_batches
from workloads.parquet import write_batches
from workloads.readers import kvsess1

ROOT = Path(__file__).resolve().parents[2]
WINDOW_S = 24 * 3600.0
MILLION = 1_000_000
TOUCH = 'SCORING = "touch"\ndef priority(block, cache):\n    return block.last_access + 300.0 * min(block.seen, 3.0)\n'
CHILD = """
import json, os, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.streaming import stream
path, warm, source, capacity = *sys.argv[1:4], int(sys.argv[4])
policy = compile_policy(Policy.from_source(source, "touch")) if source else "native"
stream(warm, policy, capacity)  # imports, kernels from the cache
start = time.perf_counter()
result = stream(path, policy, capacity)
seconds = time.perf_counter() - start
peak = next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak": peak, "refs": result.looked_up_blocks, "hit_rate": result.hit_rate}))
"""


def cloned(sessions: SessionSet, copies: int) -> SessionSet:
    """Return a set with every session several times; ids are local to a session, so each clone's are its own."""

    def tiled(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], *(rows[1:] + rows[-1] * k for k in range(copies))])

    columns = {name: np.tile(value, copies) for name, value in vars(sessions).items() if isinstance(value, np.ndarray)}
    columns |= {name: tiled(getattr(sessions, name)) for name in ("session_rows", "run_rows")}
    names = tuple(f"{name}/{k}" for k in range(copies) for name in sessions.session_names)
    return replace(sessions, name=f"{sessions.name} x {copies}", session_names=names, **columns)


def first_refs(batches: Iterator[Batch], refs: int, hashed: bool) -> Iterator[Batch]:
    """Yield requests until there are `refs` references; `hashed` replaces ids by well mixed 64-bit numbers."""
    for batch in batches:
        stop = int(np.searchsorted(batch.offsets, refs, side="right")) - 1
        part = batch.slice(0, min(stop, batch.n_requests))
        ids = part.block_ids
        if hashed:  # the finalizer of splitmix64, a bijection
            ids = (ids ^ (ids >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            ids = (ids ^ (ids >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            ids ^= ids >> np.uint64(31)
        yield replace(part, block_ids=ids)
        refs -= part.n_refs
        if part.n_requests < batch.n_requests:
            return


def build(path: Path, refs: int, hashed: bool) -> None:
    """Write the file."""
    found = locate.require("cc_weka_v8")
    sessions = kvsess1.read(found)
    recorded = int((sessions.input_tokens.astype(np.int64) // sessions.block_tokens).sum())
    many = cloned(sessions, -(-refs // recorded))
    batches = materialise_batches(many, WINDOW_S)
    manifest = Manifest(many.name, many.block_tokens, "kv-cache-tester, cloned", "Apache-2.0")
    write_batches(first_refs(batches, refs, hashed), path, manifest)


def built(path: Path, refs: int, hashed: bool) -> list[object]:
    """Write a file in a process of its own; return a row of the table."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--build", str(path), str(refs), str(hashed)]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    size = f"{path.stat().st_size / 1e6:.1f} MB file"
    return ["build", f"{seconds:.1f} s", f"{seconds / refs * 1e9:.0f} ns/ref", "", size, f"{float(done.stdout):.0f} MB"]


def replayed(path: Path, warm: Path, source: str, capacity: int) -> list[object]:
    """Replay a file in a process of its own, after another that is not counted; return a row of the table."""
    command = [sys.executable, "-c", CHILD, str(path), str(warm), source, str(capacity)]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    seconds, refs = found["seconds"], found["refs"]
    cost, rate = f"{seconds / refs * 1e9:.0f} ns/ref", f"{refs / seconds / 1e6:.1f} M refs/s"
    name, hits = "touch policy" if source else "native LRU", f"{found['hit_rate']:.1%} hits"
    return [name, f"{seconds:.2f} s", cost, rate, hits, f"{found['peak'] / 1e6:.0f} MB"]


def main() -> None:
    """Build the files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refs", type=int, default=100, help="millions of block references of the largest file")
    parser.add_argument("--capacity", type=int, default=200_000, help="blocks")
    parser.add_argument("--hashed", action="store_true", help="ids are 64-bit hashes, as engines log them")
    parser.add_argument("--folder", type=Path, help="where to put the files (default: the temporary folder)")
    options = parser.parse_args()
    sizes = [size for size in (1, 10, 100) if size < options.refs] + [options.refs]
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = {size: Path(folder) / f"{size}.parquet" for size in sizes}
        for size, path in paths.items():
            rows.append([f"{size} M refs", *built(path, size * MILLION, options.hashed)])
            rows += [[f"{size} M refs", *replayed(path, paths[sizes[0]], s, options.capacity)] for s in ("", TOUCH)]
    print(f"{options.capacity:,} blocks, {'hashed' if options.hashed else 'dense'} ids, one core")
    print(table(["trace", "what", "time", "per ref", "rate", "", "peak RSS"], rows, "llrrrrr"))


def build_alone(path: str, refs: str, hashed: str) -> None:
    """Build one file and print the peak resident memory in MB."""
    build(Path(path), int(refs), hashed == "True")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


if __name__ == "__main__":
    build_alone(*sys.argv[2:]) if sys.argv[1:2] == ["--build"] else main()
