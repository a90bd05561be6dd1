"""What successive halving gains: CMA-ES with and without it, equal block references, several seeds.

python tests/bench/tuner_bench.py --passes 24 --seeds 3 lru_frequency log_linear examples/gap_corrected_lru.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import mean

from sim.fitness import TrainingObjective
from sim.marks import load_marks
from sim.policy.program import Policy
from sim.registry import load_policy
from sim.search.tuner import tune
from sim.tables import table
from workloads.panel import load_panel


class OnePiece:
    """The objective without its cells: every candidate is scored on all of them."""

    def __init__(self, objective: TrainingObjective) -> None:
        self.score = objective.score
        self.of_literals: Callable[[Policy], Callable[[Sequence[float]], float]] = objective.of_literals


def main() -> None:
    """Print best training scores after shares of the budget, per policy and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="+")
    parser.add_argument("--passes", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--traces", default="auto")
    options = parser.parse_args()
    objective = TrainingObjective(load_marks(load_panel("train", options.traces)))
    print(objective.marks.panel, flush=True)
    limits = [options.passes * share for share in (0.25, 0.5, 1.0)]
    rows = []
    for name in options.policies:
        policy = load_policy(name)
        for label, maximised in (("plain", OnePiece(objective)), ("halving", objective)):
            reached = []
            started = time.process_time()
            for seed in range(1, options.seeds + 1):
                told: list[tuple[float, float]] = []
                tune(policy, maximised, options.passes, seed, keep=lambda _, s, p, told=told: told.append((p, s)))
                reached.append([max(score for passes, score in told if passes <= limit + 1e-6) for limit in limits])
                print(name, label, seed, [f"{score:+.4f}" for score in reached[-1]], flush=True)
            means = [f"{mean(column):+.4f}" for column in zip(*reached, strict=True)]
            ends = [row[-1] for row in reached]
            cpu_s = (time.process_time() - started) / options.seeds
            rows.append([name, label, *means, f"{min(ends):+.4f}", f"{max(ends):+.4f}", f"{cpu_s:.1f}"])
    head = ["policy", "tuner", *(f"mean at {limit:g}" for limit in limits), "worst", "best", "CPU-s"]
    print(table(head, rows, "ll" + "r" * 6))


if __name__ == "__main__":
    main()
