"""LEVI 0.1.1: `pip install 'kvevolve[engines]'`, then `python examples/engines/run_levi.py`.

`--config examples/openai.yaml` for a model; see `common.py`.

Scoring: `combined_score`; its archive's cells are the features of `config.yaml`, size and evictions per access. Of the
artifacts only a rejection is used, for its advice on failures. LEVI itself would execute a candidate's text,
unisolated, in a process of its own before it calls a score function: `Policies` gives our evaluator the text instead.
Budget: `evaluations`, the seed included; it may stop one short. A good third starts the archive (seeds and variants).
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # its prices as installed: nothing is fetched on import

from common import evaluate_text, finish, start
from levi import LM, BehaviorConfig, BudgetConfig, CVTConfig, InitConfig, LeviConfig, PipelineConfig
from levi.artifacts import CodeAdapter
from levi.methods.levi import _run_async

FEATURES = ["complexity_nodes", "evictions_per_access"]


def score(source: str) -> dict[str, Any]:
    """Score the text of a policy."""
    metrics, artifacts = evaluate_text(source)
    if not metrics["valid"]:
        return {"error": artifacts.get("rejection") or artifacts["weakest_cell"]}
    return {"score": metrics["combined_score"], **{name: metrics[name] for name in FEATURES}}


class Policies(CodeAdapter):
    """Scores texts without executing them here."""

    async def evaluate(self, executor: Any, content: str, **_: Any) -> dict[str, Any]:
        """Score a candidate."""
        return await asyncio.to_thread(score, content)


if __name__ == "__main__":
    run = start("levi")
    model = LM(f"openai/{run.model}", api_base=run.api_base, api_key=run.api_key)
    seeds = min(4, max(1, run.iterations // 10))
    config = LeviConfig(
        problem_description=run.system_message,
        function_signature="def priority(block, cache):",
        seed_program=run.program.read_text(encoding="utf-8"),
        score_fn=score,
        budget=BudgetConfig(evaluations=run.iterations + 1),
        paradigm_models=model,
        mutation_models=model,
        behavior=BehaviorConfig(ast_features=[], score_keys=FEATURES),
        cvt=CVTConfig(n_centroids=max(2, min(50, run.iterations // 3))),
        init=InitConfig(n_diverse_seeds=seeds, n_variants_per_seed=max(1, run.iterations // 4 // (seeds + 1))),
        pipeline=PipelineConfig(n_llm_workers=2, n_eval_processes=1, max_tokens=8192),
        output_dir=str(run.output),
    )
    found = asyncio.run(_run_async(config, artifact_adapter=Policies(config)))
    finish(run, found.best_program)
