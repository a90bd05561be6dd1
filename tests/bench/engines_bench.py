"""Speed of every engine, the zoo, the bounds and stack distances on the conversation trace: part of `make bench`.

Every line is the median of runs taken in turn (A B A B …) in this process; quote ratios, the machine is noisy.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench import CAPACITY_BLOCKS, RUNS, TOUCH, interleaved

from sim import engines, zoo
from sim.bounds import optimum
from sim.executor import run
from sim.lru_curve import lru_curve
from sim.options import Options
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import policies
from sim.simulation import simulate
from sim.tables import table
from workloads import Trace, load
from workloads.synthetic import chat

ZOO_CAPACITIES = (1_000, 2_000, 5_000, 10_000, 20_000)
TARGETS = {"vllm>=0.23": ">= 50 M refs/s", "sglang": ">= 10 M refs/s"}


def engine_calls(trace: Trace) -> dict[str, Callable[[], object]]:
    """Return replays of every engine's own default policy, and of a user policy where it can run one."""
    prepared, touch = prepare(trace), compile_policy(Policy.from_source(TOUCH, "touch"))
    calls: dict[str, Callable[[], object]] = {}
    for engine in engines.all_engines():
        parameters, options = engine.parameters(), Options(engine=engine.name)
        calls[engine.name] = partial(engine.run, prepared, CAPACITY_BLOCKS, options, engine.policies[0], parameters)
        if engine.run_user:
            name = f"  {engine.name}, user policy"
            calls[name] = partial(engine.run_user, prepared, touch, CAPACITY_BLOCKS, options, parameters)
    calls["offline optimum"] = lambda: optimum(trace, CAPACITY_BLOCKS)
    calls["stack distances: LRU at all capacities"] = lambda: lru_curve(trace)
    return calls


def hit_blocks(trace: Trace, policy_and_blocks: tuple[str, int]) -> int:
    """Return the hit blocks of a policy."""
    policy, capacity_blocks = policy_and_blocks
    return simulate(trace, policy, capacity_blocks).hit_blocks


def whole_zoo(trace: Trace) -> list[list[Any]]:
    """Replay every classic policy, and every shipped policy file, at five capacities on all cores."""
    rows: list[list[Any]] = []
    classics = [zoo.PREFIX + name for name in zoo.NAMES if name not in zoo.OFFLINE]
    for title, names, target in (
        ("the zoo, five capacities", classics, "< 20 s on 2 cores"),
        ("the zoo and all policy files, five capacities", [*classics, *policies()], ""),
    ):
        jobs = [("trace", (name, capacity)) for name in names for capacity in ZOO_CAPACITIES]
        run(hit_blocks, {"trace": trace}, jobs, "process")  # compiles what is not in the cache
        start = time.perf_counter()
        run(hit_blocks, {"trace": trace}, jobs, "process")
        seconds = time.perf_counter() - start
        rows.append([f"{title}: {len(jobs)} replays", f"{seconds:.1f} s", target])
    return rows


def main() -> None:
    """Print the table."""
    try:
        trace = load("mooncake_conversation")
    except ValueError:
        print("no recorded traces: synthetic chat stands in for the conversation trace", file=sys.stderr)
        trace = chat(seed=0)
    times = interleaved(engine_calls(trace))
    rows: list[list[Any]] = []
    for name, taken in times.items():
        target = ">= 5 M refs/s" if name == "offline optimum" else TARGETS.get(name, "")
        rows.append([name, f"{trace.n_refs / statistics.median(taken) / 1e6:.1f} M refs/s", target])
    print(f"{trace}\n{os.cpu_count()} cores, {CAPACITY_BLOCKS:,} blocks, {RUNS} interleaved rounds, medians")
    print(table(["what", "measured", "target"], rows + whole_zoo(trace), "lrr"))


if __name__ == "__main__":
    main()
