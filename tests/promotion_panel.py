"""A panel on which an honest policy wins clearly: prompts read round and round, which LRU never hits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sim import resampling
from sim.evaluation import Evaluator
from sim.promotion import rescoring, rivals

HONEST = "def priority(block, cache):\n    return -block.last_access\n"
LOSER = "def priority(block, cache):\n    return block.last_access\n"
_LOOPS = {"train": [("loop_train", 1, 400)], "validation": [("loop_one", 2, 400), ("loop_two", 3, 500)]}
_LOOPS["test"] = [("loop_test", 4, 400)]
"""Per split: name, seed, blocks of a round."""
FEW = {name: rival for name, rival in rivals.rivals().items() if name in ("vllm", "lru_frequency", "zoo:arc")}
"""Rivals that are replayed in no time."""


class Kept(Evaluator):
    """An evaluator that outlives the gate: starting a fresh process for every test would take most of their time."""

    def close(self) -> None:
        """Stay."""

    def stop(self) -> None:
        """End."""
        super().close()


def write_panel(directory: Path) -> str:
    """Write the panel and return its path."""
    path = directory / "loops.yaml"
    lines = ["format: kvevolve-panel/1", "name: loops-v1", "capacities: [30%, 50%]", "splits:"]
    for name, traces in _LOOPS.items():
        lines.append(f"  {name}:")
        for trace, seed, blocks in traces:
            size = f"requests: 160, loop_blocks: {blocks}, prompt_tokens: 1600, block_tokens: 64"
            lines.append(f"    - {{name: {trace}, source: 'synthetic:loop?seed={seed}', options: {{{size}}}}}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@contextmanager
def quick_gate(panel: str) -> Iterator[None]:
    """Let the gate share one fresh process, draw fewer samples, and give the twin less to do."""
    kept = Kept("validation", panel, rescoring.LIMITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rescoring, "Evaluator", lambda *_: kept)
        patch.setattr(rescoring, "TWIN_REFS", 500)
        patch.setattr(resampling, "SAMPLES", 200)
        yield
    kept.stop()
