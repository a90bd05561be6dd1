"""Generators and specifications at 10^6, 10^7 and 10^8 distinct blocks: CPU time, rates, memory.

Each size runs in a process of its own, on one core.

    python tests/bench/generate_bench.py [--blocks 100] [--families chat agent scan zero_reuse]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from sim.tables import table

ROOT = Path(__file__).resolve().parents[2]
MILLION = 1_000_000
PER_REQUEST = {"chat": 42, "agent": 70, "scan": 156, "zero_reuse": 171, "rag": 45, "mixture": 95}
"""Distinct blocks of 16 tokens a request adds, about, in long traces."""
MIXTURE = """
format: kvevolve-workload
version: 1
name: mixture
arrivals: {process: diurnal, burstiness: 2}
sources: [{family: chat}, {family: scan}]
phases: [{share: 0.5, weights: [3, 1]}, {share: 0.5, weights: [1, 1], rate: 2}]
"""
CHILD = """
import json, os, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from workloads.spec import generate, parse_spec
from workloads.synthetic import GENERATORS
family, requests, text = sys.argv[1], int(sys.argv[2]), sys.argv[3]
start = time.process_time()
if family == "mixture":
    trace = generate(parse_spec(text), requests=requests)
else:
    trace = GENERATORS[family](1, requests=requests)
seconds = time.process_time() - start
peak = next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak": peak, "refs": trace.n_refs, "blocks": trace.n_blocks}))
"""


def made(family: str, blocks: int) -> list[object]:
    """Make a trace in a process of its own; return a row of the table."""
    requests = blocks // PER_REQUEST[family]
    command = [sys.executable, "-c", CHILD, family, str(requests), MIXTURE]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    seconds, refs = found["seconds"], found["refs"]
    sizes = [f"{requests:,}", f"{found['blocks'] / 1e6:.1f} M", f"{refs / 1e6:.0f} M"]
    costs = [f"{seconds:.1f} s", f"{seconds / requests * 1e6:.0f} us", f"{refs / seconds / 1e6:.1f} M/s"]
    return [family, *sizes, *costs, f"{found['peak'] / 1e6:,.0f} MB", f"{found['peak'] / refs:.1f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=100, help="millions of distinct blocks of the largest trace")
    parser.add_argument("--families", nargs="+", default=["zero_reuse", "scan", "chat", "mixture"], choices=PER_REQUEST)
    options = parser.parse_args()
    sizes = [size for size in (1, 10, 100) if size < options.blocks] + [options.blocks]
    rows = [made(family, size * MILLION) for family in options.families for size in sizes]
    head = ["family", "requests", "blocks", "refs", "CPU time", "per request", "refs", "peak RSS", "B/ref"]
    print(table(head, rows, "lrrrrrrrr"))


if __name__ == "__main__":
    main()
