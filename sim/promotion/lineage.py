"""Where a policy comes from, read from the directory of the run that found it.

Knows what a run leaves behind. Must not know bundles beyond the fields it fills.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sim import journal
from sim.engine_config import read_config
from sim.promotion.manifest import Lineage
from sim.rundir import RunDir, versions

BY_HAND = "by hand"


def unknown(found_by: str = BY_HAND) -> Lineage:
    """Return the lineage of a policy that no run is named for."""
    return Lineage(
        found_by=found_by,
        run=None,
        program=None,
        parent=None,
        engine=None,
        models=(),
        seed=None,
        iterations=None,
        evaluations=None,
        trained_on=None,
        train_fingerprint=None,
    )


def of_run(directory: Path, source: str, found_by: str | None = None) -> Lineage:
    """Return the lineage of a policy found by a run.

    Args:
        directory: Of the run.
        source: The policy; the run need not hold it word for word, tuning and shortening happen afterwards.
        found_by: In words; default says whether the run holds it.

    Raises:
        ValueError: If it is no directory of a run.
    """
    run = RunDir(directory)
    panel = run.stored_panel()
    config = read_config(run.config)
    child = next((child for child in run.children() if child.get("child_code") == source), None)
    tuned = run.best_policy.is_file() and run.best_policy.read_text(encoding="utf-8") == source
    held = "a program of the run" if child else "the run's best policy, tuned" if tuned else "changed after the run"
    models = [str(model.get("name", "")) for model in (config.get("llm") or {}).get("models") or () if model]
    return Lineage(
        found_by=found_by or f"kvevolve evolve: {held}",
        run=directory.resolve().name,
        program=_text(child, "child_id"),
        parent=_text(child, "parent_id"),
        engine=f"openevolve {_provenance(run).get('versions', versions()).get('openevolve', 'unknown')}",
        models=tuple(models),
        seed=_number(config.get("random_seed")),
        iterations=_number(config.get("max_iterations")),
        evaluations=_evaluations(run),
        trained_on=panel["name"],
        train_fingerprint=panel["fingerprint"],
    )


def _provenance(run: RunDir) -> dict[str, Any]:
    """Return what a finished run says of itself; nothing for one that was stopped."""
    try:
        found = json.loads(run.provenance.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{run.provenance}: not readable ({error}); fix: name the directory of a run") from None
    return found if isinstance(found, dict) else {}


def _evaluations(run: RunDir) -> int:
    """Return the evaluations made, without those the journal answered; else the stored children, one for each."""
    if not (run.root / journal.FILE).is_file():
        return len(run.children())
    return sum(not entry.get("cached") for entry in journal.entries(run.root))


def _text(child: dict[str, Any] | None, name: str) -> str | None:
    value = (child or {}).get(name)
    return None if value is None else str(value)


def _number(value: object) -> int | None:
    return value if type(value) is int else None
