"""OpenEvolve's entry: `evaluate(program_path)` scores a policy on the training panel.

Nothing is kept here: the engine may execute this file again for every candidate. Importing it starts what the
OpenEvolve config in use asks for: the keyless operator (`sim.search.endpoint`), the way to Ray (`sim.broker`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

if (_HERE := str(Path(__file__).resolve().parent)) not in sys.path:
    sys.path.insert(0, _HERE)

from sim.broker import ensure_broker
from sim.scoring import follow_parent, score_file
from sim.search.endpoint import ensure_endpoint

follow_parent()
ensure_endpoint()
ensure_broker()


def evaluate(program_path: str) -> Any:
    """Return every metric as a float, and artifacts that say what to fix.

    With `KVEVOLVE_RUN_DIR` set, evaluations are recorded in its `evaluations.jsonl`, and what that knows is not
    evaluated again.

    Args:
        program_path: File with the candidate's full text. `KVEVOLVE_ADVICE=0` leaves out the costliest evictions,
            which the keyless operator does not read (a second replay of one cell).

    Returns:
        The engine's `EvaluationResult` if OpenEvolve is loaded, else a dict with the same metrics and "artifacts".
    """
    found = score_file(program_path, advice=os.environ.get("KVEVOLVE_ADVICE", "1") != "0")
    engine = sys.modules.get("openevolve.evaluation_result")
    if engine is not None:
        return engine.EvaluationResult(metrics=found.metrics, artifacts=found.artifacts)
    return {**found.metrics, "artifacts": found.artifacts}
