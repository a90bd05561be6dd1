"""ShinkaEvolve's job: `shinka_evaluate.py --program_path P --results_dir D` writes metrics.json and correct.json.

A fresh process per candidate, some seconds each: kernels come from the cache, marks too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import evaluate_path, feedback


def main() -> None:
    """Score one candidate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--program_path", required=True)
    parser.add_argument("--results_dir", type=Path, required=True)
    options = parser.parse_args()
    metrics, artifacts = evaluate_path(options.program_path)
    told = {"combined_score": metrics["combined_score"], "public": metrics, "private": {}}
    correct = {"correct": bool(metrics["valid"]), "error": artifacts.get("rejection")}
    options.results_dir.mkdir(parents=True, exist_ok=True)
    for name, content in (("metrics", {**told, "text_feedback": feedback(artifacts)}), ("correct", correct)):
        (options.results_dir / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
