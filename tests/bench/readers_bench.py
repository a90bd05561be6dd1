"""How fast each format is read: block ids per second of one core, the file in the page cache, everything checked.

Real files where there are real ones, else a real trace written in the format. A format joins with one line in `CASES`.

    python tests/bench/readers_bench.py [FORMAT ...] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim.tables import table
from workloads import SessionSet, Trace, formats, load, locate
from workloads.readers import oracle_general
from workloads.readers.dynamo import SCHEMA

TEXT, BINARY = 1.0, 20.0
"""Targets in million block ids per second."""

ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """A file of one format.

    Attributes:
        name: The format.
        target: Million block ids per second.
        file: Gives the file; writes it into the folder if it has to be made.
        options: How it is read.
        note: What the file is.
    """

    name: str
    target: float
    file: Callable[[Path], Path]
    options: dict[str, Any]
    note: str


def real(name: str, file: str = "") -> Callable[[Path], Path]:
    """Return a known trace's own file, or the file beside it."""
    return lambda _: locate.require(name).parent / file if file else locate.require(name)


@cache
def trace() -> Trace:
    """Return the trace that is written in the formats of which there is no real file: Claude Code, 512-token blocks."""
    return load("cc_weka_v8").slice(0, 6_000)


def requests() -> Iterator[tuple[int, float, int, int, list[int]]]:
    """Yield number, arrival in s, prompt tokens, output tokens and block ids of every request, full blocks only."""
    source = trace()
    for row in range(source.n_requests):
        block_ids = source.block_ids[source.offsets[row] : source.offsets[row + 1]].tolist()
        arrival_s, output = float(source.arrival_s[row]), int(source.output_tokens[row])
        yield row, arrival_s, len(block_ids) * source.block_tokens, output, block_ids


def lines(record: Callable[..., dict[str, Any]]) -> Callable[[Path], Path]:
    """Return what writes the trace as JSON lines."""

    def write(folder: Path) -> Path:
        path = folder / "trace.jsonl"
        with path.open("w") as handle:
            for request in requests():
                handle.write(json.dumps(record(*request)) + "\n")
        return path

    return write


def written(suffix: str) -> Callable[[Path], Path]:
    """Return what writes the trace with the writer of a suffix."""

    def write(folder: Path) -> Path:
        path = folder / f"trace{suffix}"
        formats.writer(path).write(trace(), path)
        return path

    return write


def objects(suffix: str, marked: bool) -> Callable[[Path], Path]:
    """Return what writes the trace in libCacheSim's format."""

    def write(folder: Path) -> Path:
        path = folder / f"trace{suffix}"
        oracle_general.write(trace(), path, marked=marked)
        return path

    return write


def mixed(block: int) -> int:
    """Return a 64-bit hash of a block id."""
    return (block + 1) * 0x9E3779B97F4A7C15 % 2**64


def delta(row: int, t: float, tokens: int, output: int, ids: list[int]) -> dict[str, Any]:
    """Return a row of mooncake-delta: sessions of ten turns that add what the request has."""
    return {
        "session_id": row // 10,
        "timestamp": 1000 * t,
        "input_length": 64 * len(ids[:64]),
        "output_length": output,
        "hash_ids": ids[:64],
    }


def bailian(row: int, t: float, tokens: int, output: int, ids: list[int]) -> dict[str, Any]:
    """Return a line of Qwen-Bailian with 16-token blocks."""
    lengths = {"timestamp": t, "input_length": 16 * len(ids), "output_length": output, "type": "text", "turn": 1}
    return {"chat_id": row, "parent_chat_id": row - 1 if row % 7 else -1, **lengths, "hash_ids": ids}


def dynamo(row: int, t: float, tokens: int, output: int, ids: list[int]) -> dict[str, Any]:
    """Return a `request_end`."""
    replay = {"trace_block_size": 512, "input_length": tokens, "input_sequence_hashes": [mixed(i) for i in ids]}
    request = {"request_id": f"r{row}", "request_received_ms": int(1000 * t), "output_tokens": output, "replay": replay}
    return {"schema": SCHEMA, "event_type": "request_end", "event_time_unix_ms": int(1000 * t), "request": request}


def agentic(row: int, t: float, tokens: int, output: int, ids: list[int]) -> dict[str, Any]:
    """Return a row of agentic_mooncake: chains of ten requests."""
    waits = {"wait_for": [f"r{row - 1}"], "delay": 5.0} if row % 10 else {"timestamp": 1000 * t, "branches": []}
    return {"request_id": f"r{row}", "input_length": tokens, "output_length": output, "hash_ids": ids, **waits}


def lookup(row: int, t: float, tokens: int, output: int, ids: list[int]) -> dict[str, Any]:
    """Return a line of LMCache's lookup log: hashes of 32 bytes."""
    chunks = [f"0x{mixed(i):064x}" for i in ids]
    more = {"request_id": f"r{row}", "model_name": "m", "dtypes": ["bfloat16"], "shapes": [[2, 256, 1024]]}
    return {"timestamp": 1.7e9 + t, **more, "chunk_size": 512, "seq_len": tokens, "chunk_hashes": chunks}


CASES = (
    Case("mooncake", TEXT, real("mooncake_conversation"), {}, "real, gzip"),
    Case("mooncake", TEXT, lines(delta), {"prompts": "delta", "block_tokens": 64}, "deltas of ten turns"),
    Case("kvt1", TEXT, real("ragpulse"), {"repair": "clip_input"}, "real, gzip"),
    Case("kvsess1", TEXT, real("cc_weka_v8"), {}, "real, gzip, not laid on a clock"),
    Case("ragpulse", TEXT, real("ragpulse", "raw.tar.gz"), {}, "real, tar.gz"),
    Case("bailian", TEXT, lines(bailian), {}, "by the published format"),
    Case("dynamo", TEXT, lines(dynamo), {}, "by the published format"),
    Case("agentic_mooncake", TEXT, lines(agentic), {}, "by the published format"),
    Case("lmcache", TEXT, lines(lookup), {}, "by the published format"),
    Case("prefix_cache_evolve", TEXT, written(".pce.jsonl"), {"block_tokens": 512}, "as written"),
    Case("oracle_general", BINARY, objects(".oracleGeneral", True), {"requests": "marked"}, "marked requests"),
    Case("oracle_general", BINARY, objects(".oracleGeneral", False), {}, "a request per record"),
    Case("oracle_general", BINARY, objects(".oracleGeneral.zst", False), {}, "a request per record, zstd"),
    Case("npz", BINARY, written(".npz"), {}, "as written"),
    Case("parquet", BINARY, written(".parquet"), {}, "as written"),
)


def block_ids(found: Trace | SessionSet) -> int:
    """Return how many block ids were read."""
    return found.n_refs if isinstance(found, Trace) else int(found.run_lengths.sum())


def measured(case: Case, rounds: int) -> list[object]:
    """Read a file several times; return a row of the table."""
    read = formats.module(case.name).read
    with tempfile.TemporaryDirectory() as folder:
        path = case.file(Path(folder))
        seconds, ids = [], block_ids(read(path, **case.options))
        for _ in range(rounds):
            start = time.process_time()
            read(path, **case.options)
            seconds.append(time.process_time() - start)
    rates = sorted(ids / each / 1e6 for each in seconds)
    middle = statistics.median(rates)
    reached = "yes" if middle >= case.target else "NO"
    spread = f"{rates[0]:.1f} - {rates[-1]:.1f}"
    return [case.name, case.note, f"{ids / 1e6:.2f} M", f"{middle:.1f} M/s", spread, f"{case.target:.0f} M/s", reached]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", help="default: all")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    rows = [measured(case, options.rounds) for case in CASES if not options.formats or case.name in options.formats]
    print(table(["format", "file", "block ids", "median", "range", "target", "reached"], rows, "llrrrrl"))


if __name__ == "__main__":
    main()
