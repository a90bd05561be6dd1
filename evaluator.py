"""OpenEvolve's entry: `evaluate(program_path)` scores a policy on the training panel.

Nothing is kept here: the engine may execute this file again for every candidate. Importing it starts the keyless
operator if the OpenEvolve config in use points at it (see `sim.search.endpoint`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

if (_HERE := str(Path(__file__).resolve().parent)) not in sys.path:
    sys.path.insert(0, _HERE)

from sim.evaluation import training_evaluator
from sim.search.endpoint import ensure_endpoint

ensure_endpoint()


def evaluate(program_path: str) -> Any:
    """Return every metric as a float, and artifacts that say what to fix.

    Args:
        program_path: File with the candidate's full text. `KVEVOLVE_ADVICE=0` leaves out the costliest evictions,
            which the keyless operator does not read (a second replay of one cell).

    Returns:
        The engine's `EvaluationResult` if OpenEvolve is loaded, else a dict with the same metrics and "artifacts".
    """
    advice = os.environ.get("KVEVOLVE_ADVICE", "1") != "0"
    evaluator = training_evaluator()
    found = evaluator.evaluate(program_path, advice)
    panel = f"{evaluator.panel.name} {evaluator.panel.split}, fingerprint {evaluator.panel.fingerprint[:12]}"
    artifacts = found.artifacts | {"isolation": found.isolation, "panel": panel}
    engine = sys.modules.get("openevolve.evaluation_result")
    if engine is not None:
        return engine.EvaluationResult(metrics=dict(found.metrics), artifacts=artifacts)
    return {**found.metrics, "artifacts": artifacts}
