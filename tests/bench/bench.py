"""Speed and memory against the targets, interleaved with libCacheSim: `make bench`.

Every line is the median of runs taken in turn (A B A B …) in this process; quote ratios, the machine is noisy.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sim.bounds import optimum
from sim.evaluation import Evaluator
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.simulation import Options, run_engine, run_policy
from sim.tables import table
from workloads import Trace, load, locate
from workloads.panel import load_panel
from workloads.readers import mooncake, oracle_general
from workloads.synthetic import GENERATORS, chat

ROOT = Path(__file__).resolve().parents[2]
CAPACITY_BLOCKS = 5_000
RUNS = 7
ROUND_S = 0.1
TOUCH = 'SCORING = "touch"\ndef priority(block, cache):\n    return block.last_access + 300.0 * min(block.seen, 3.0)\n'
EXACT = "def priority(block, cache):\n    return block.seen / (block.age + 1.0)\n"


def seconds(call: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Callable[[], object]], runs: int = RUNS) -> dict[str, list[float]]:
    """Return wall times per call of calls made in turn, after one round that is not counted.

    In each round a call is repeated until `ROUND_S` have passed, so that short ones are not measured on cold caches.
    """
    repeats = {name: max(1, round(ROUND_S / seconds(call))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return times


def libcachesim_calls(path: Path) -> dict[str, Callable[[], object]]:
    """Return runs of libCacheSim's C LRU and of an LRU in its Python plugin cache."""
    import libcachesim as peer

    def reader() -> object:
        return peer.TraceReader(str(path), peer.TraceType.ORACLE_GENERAL_TRACE)

    def native() -> object:
        return peer.LRU(cache_size=CAPACITY_BLOCKS, hashpower=16).process_trace(reader())

    def plugin() -> object:
        cache = peer.PluginCache(
            cache_size=CAPACITY_BLOCKS,
            cache_init_hook=lambda parameters: OrderedDict(),
            cache_hit_hook=lambda order, request: order.move_to_end(request.obj_id),
            cache_miss_hook=lambda order, request: order.__setitem__(request.obj_id, None),
            cache_eviction_hook=lambda order, request: order.popitem(last=False)[0],
            cache_remove_hook=lambda order, obj_id: order.pop(obj_id, None),
            cache_free_hook=lambda order: order.clear(),
            hashpower=16,
        )
        return cache.process_trace(reader())

    return {"libCacheSim C LRU": native, "libCacheSim Python plugin LRU": plugin}


def replay_speed(trace: Trace) -> list[list[object]]:
    """Measure replay speed in block references per second."""
    prepared, options = prepare(trace), Options()
    touch, exact = (compile_policy(Policy.from_source(source)) for source in (TOUCH, EXACT))
    calls: dict[str, Callable[[], object]] = {
        "native LRU": lambda: run_engine(prepared, CAPACITY_BLOCKS, options),
        "touch": lambda: run_policy(prepared, touch, CAPACITY_BLOCKS, options),
        "exact": lambda: run_policy(prepared, exact, CAPACITY_BLOCKS, options),
        "optimum": lambda: optimum(trace, CAPACITY_BLOCKS),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flat.oracleGeneral"
        oracle_general.write(trace, path)
        peers = libcachesim_calls(path)
        times = interleaved(calls | peers)
    rate = {name: trace.n_refs / statistics.median(taken) / 1e6 for name, taken in times.items()}
    c_lru, plugin = (rate[name] for name in peers)
    return [
        ["native vLLM-exact LRU", f"{rate['native LRU']:.0f} M refs/s", ">= 100 M refs/s"],
        ["  against libCacheSim C LRU", f"{rate['native LRU'] / c_lru:.1f} x ({c_lru:.1f} M/s)", ">= 8 x"],
        ["user policy, touch-time scoring", f"{rate['touch']:.1f} M refs/s", ">= 8 M refs/s"],
        ["  against libCacheSim Python plugin", f"{rate['touch'] / plugin:.0f} x ({plugin:.2f} M/s)", ">= 10 x"],
        ["user policy, exact, 5,000 blocks", f"{rate['exact']:.1f} M refs/s", ">= 2 M refs/s"],
        ["offline optimum, 5,000 blocks", f"{rate['optimum']:.0f} M refs/s", ""],
    ]


def candidate_time() -> list[list[object]]:
    """Measure source -> score on the full training panel, warm, and cold in a new process."""
    evaluator = Evaluator()
    program = ROOT / "initial_program.py"
    rows: list[list[object]] = []
    refs = evaluator.panel.n_refs
    files = {"seed (LRU)": program, "gdsf (three hooks)": ROOT / "sim/policies/gdsf.py"}
    for name, path in files.items():
        times = interleaved({"a": lambda path=path: evaluator.evaluate(path, advice=False)}, 5)["a"]  # type: ignore[misc]
        full = interleaved({"a": lambda path=path: evaluator.evaluate(path)}, 3)["a"]  # type: ignore[misc]
        title = f"source -> score, {refs / 1e6:.1f} M refs, {name}"
        rows.append([title, f"{statistics.median(times):.2f} s", "<= 1.5 s"])
        rows.append(["  with the costliest evictions", f"{statistics.median(full):.2f} s", ""])
    evaluator.close()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import evaluator; evaluator.evaluate({str(program)!r})"
    cold = [seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)) for _ in range(3)]
    rows.append(["cold process, cached kernels -> first score", f"{statistics.median(cold):.1f} s", "<= 6 s"])
    return rows


def loading() -> list[list[object]]:
    """Measure how long traces take to read, to load and to generate."""
    rows: list[list[object]] = []
    path = locate.find("mooncake_conversation")
    if path:
        with tempfile.TemporaryDirectory() as folder:
            npz = Path(folder) / "trace.npz"
            mooncake.read(path).save(npz)
            calls = {"read": lambda: mooncake.read(path), "load": lambda: Trace.load(npz)}
            times = {name: statistics.median(taken) for name, taken in interleaved(calls, 3).items()}
        rows.append(["conversation trace, JSONL.gz", f"{times['read']:.2f} s", "<= 1 s"])
        rows.append(["conversation trace, npz", f"{1000 * times['load']:.0f} ms", "<= 50 ms"])
    panel = interleaved({"panel": lambda: load_panel("train", "auto")}, 3)["panel"]
    rows.append(["training panel, from the user cache", f"{statistics.median(panel):.2f} s", "<= 0.3 s"])
    slowest = max(seconds(partial(make, 7)) for make in GENERATORS.values())
    rows.append([f"slowest of {len(GENERATORS)} generators at its default size", f"{slowest:.2f} s", "<= 1 s"])
    return rows


def memory() -> list[object]:
    """Measure the peak resident memory a replay adds, on a trace of many distinct blocks."""
    code = (
        "import resource, sys\n"
        "from sim.policy.compiler import compile_policy\n"
        "from sim.simulation import simulate\n"
        "from sim.registry import load_policy\n"
        "from workloads.synthetic import chat\n"
        "warm = chat(seed=1, requests=200)\n"
        "compiled = compile_policy(load_policy('lru_frequency'))\n"
        "simulate(warm, compiled, 0.5)\n"
        "trace = chat(seed=0, requests=int(sys.argv[1]))\n"
        "trace.parents, trace.full_blocks, trace.occupied_blocks\n"
        "before = int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "simulate(trace, compiled, 0.2)\n"
        "peak = next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith('VmHWM'))\n"
        "print(peak - before, trace.nbytes)\n"
    )
    requests = 60_000
    done = subprocess.run(
        [sys.executable, "-c", code, str(requests)], check=True, cwd=ROOT, capture_output=True, text=True
    )
    added, held = (int(word) for word in done.stdout.split())
    trace = chat(seed=0, requests=requests)
    allowed = 200 * trace.n_blocks + 16 * trace.n_refs
    text = f"{(added + held) / 1e6:.0f} MB for {trace.n_blocks:,} blocks, {trace.n_refs:,} refs"
    return ["memory, trace and replay", text, f"<= {allowed / 1e6:.0f} MB (200 B/block + 16 B/ref)"]


def main() -> None:
    """Print the table."""
    try:
        trace = load("mooncake_conversation")
    except ValueError:
        print("no recorded traces: synthetic chat stands in for the conversation trace", file=sys.stderr)
        trace = chat(seed=0)
    head = f"{trace}\n{os.cpu_count()} cores, {RUNS} interleaved rounds, medians\n"
    rows = [*replay_speed(trace), *candidate_time(), memory(), *loading()]
    print(head + table(["what", "measured", "target"], rows, "lrr"))


if __name__ == "__main__":
    main()
