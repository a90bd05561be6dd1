"""SkyDiscover 0.1.0: `pip install 'kvevolve[engines]'`, then `python examples/engines/run_skydiscover.py`.

`--config examples/openai.yaml` for a model; see `common.py`. `$SKYDISCOVER_SEARCH` chooses topk (default), adaevolve,
evox, beam_search or best_of_n.

Scoring: `combined_score`, the other metrics shown beside it; artifacts reach the prompt of the policy's children, 2,000
characters each. It takes only its own `EvaluationResult`: with OpenEvolve's every score is an error, and a dict's
"artifacts" are not split off. Its archives know no feature dimensions of ours.
Budget: one iteration is one proposal; up to three requests where an answer cannot be parsed.
"""

from __future__ import annotations

import os

from common import evaluate_text, finish, start
from skydiscover import run_discovery
from skydiscover.config import Config, EvaluatorConfig, LLMConfig, LLMModelConfig, PromptConfig
from skydiscover.evaluation.evaluation_result import EvaluationResult


def evaluate(program_path: str) -> EvaluationResult:
    """Score a candidate file."""
    with open(program_path, encoding="utf-8") as file:
        return EvaluationResult(*evaluate_text(file.read()))


if __name__ == "__main__":
    run = start("skydiscover")
    at = {"api_base": run.api_base, "api_key": run.api_key}
    config = Config(
        random_seed=run.seed,
        language="python",
        llm=LLMConfig(models=[LLMModelConfig(name=run.model, **at)], retries=1, **at),
        prompt=PromptConfig(system_message=run.system_message, suggest_simplification_after_chars=None),
        evaluator=EvaluatorConfig(timeout=600, max_retries=0, cascade_evaluation=False),
    )
    found = run_discovery(
        run.program,
        evaluate,
        config,
        iterations=run.iterations,
        output_dir=str(run.output),
        cleanup=False,
        search=os.environ.get("SKYDISCOVER_SEARCH", "topk"),
    )
    finish(run, found.best_solution)
