"""Finds policies by name: the shipped files in `sim/policies`, or a path. Knows names and files only."""

from __future__ import annotations

import difflib
from pathlib import Path

from sim.policy.program import Policy

DIRECTORY = Path(__file__).parent / "policies"

BASELINES = ("fifo", "gdsf", "lfu_aging", "lru", "lru_depth", "lru_frequency", "second_touch", "slru")
"""What every panel is marked with and every evolved policy is shown against: the regression set of the panels. A fixed
set, because marks are computed at cold start for each cell and published tables must stay comparable; the other
shipped policies are run when they are named. Adding one changes published numbers: bump the panels' versions."""


def policies() -> dict[str, Path]:
    """Return all shipped policy files by name; `BASELINES` are among them."""
    return {path.stem: path for path in sorted(DIRECTORY.glob("*.py"))}


def load_policy(policy: str | Path | Policy) -> Policy:
    """Return a policy for a shipped name, a path, or itself.

    Raises:
        ValueError: If there is neither a policy of that name nor such a file.
        PolicyRejected: If the file breaks the contract.
    """
    if isinstance(policy, Policy):
        return policy
    shipped = policies()
    if str(policy) in shipped:
        return Policy.from_file(shipped[str(policy)])
    if Path(policy).is_file():
        return Policy.from_file(policy)
    if str(policy).startswith("zoo:"):
        raise ValueError(
            f"policy {str(policy)!r} runs natively and has no file: `run`, `sweep` and `compare` replay it, on engines "
            "vllm>=0.23 and flat; give a shipped name or a file here"
        )
    near = difflib.get_close_matches(str(policy), [*shipped, "vllm"], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"no policy {str(policy)!r}{hint}; shipped: vllm, {', '.join(shipped)}; classic ones (zoo:arc, ...) are listed "
        "by `kvevolve policies`; or give a file"
    )
