"""Checks a policy file the way the evaluator will, in a second: language, compilation, finite scores, shifted clocks.

For people and CI. Knows the contract; must not know panels or scores.
"""

from __future__ import annotations

from pathlib import Path

from sim.policy.compiler import compile_policy
from sim.policy.language import Finding, PolicyRejected
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy
from sim.simulation import Options, PolicyError, run_policy
from workloads.synthetic import chat

PROBE_REQUESTS = 2_000
PROBE_SHARE = 0.02
SHIFT = 777_777


def check_policy(policy: str | Path | Policy) -> list[Finding]:
    """Return every reason why a policy would be refused; an empty list if there is none.

    Args:
        policy: A file, a shipped name, or a `Policy`.

    Raises:
        ValueError: If there is no such file or name.
    """
    try:
        compiled = compile_policy(load_policy(policy))
    except PolicyRejected as rejection:
        return rejection.findings
    trace = chat(seed=0, requests=PROBE_REQUESTS)
    prepared = prepare(trace)
    capacity_blocks = max(int(PROBE_SHARE * trace.n_blocks), prepared.largest_blocks)
    line = compiled.policy.functions["priority"].lineno
    try:
        hits = [
            run_policy(prepared, compiled, capacity_blocks, Options(clock_origin=origin)).counts["hit_blocks"]
            for origin in (0, SHIFT)
        ]
    except PolicyError as error:
        return [Finding(line, str(error), "return a finite number for every block")]
    if abs(hits[0] - hits[1]) * trace.block_tokens > 0.002 * trace.prompt_tokens:
        problem = f"with all clocks shifted it hits {hits[1]} blocks instead of {hits[0]}: it depends on absolute time"
        return [Finding(line, problem, "use differences (age, gap, residence), or last_access or released alone")]
    return []
