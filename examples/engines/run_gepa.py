"""GEPA 0.1.4, `optimize_anything`: `pip install 'kvevolve[engines]'`, then `python examples/engines/run_gepa.py`.

`--config examples/openai.yaml` for a model; see `common.py`. The model is a plain function here: no litellm.

Scoring: the traces of the training panel are the data set, so the Pareto front keeps a policy that is best on any one
trace; a policy is accepted if it gains over its parent on three traces drawn for the step. The share of the gap closed
is to three digits per trace, `combined_score` is an objective beside them, and decides at the end. The panel is
replayed once per policy, however many traces ask. Artifacts are the side information.
Budget: `max_candidate_proposals` (not `max_metric_calls`, which counts every trace of a policy).
"""

from __future__ import annotations

from common import SCORED, by_trace, client, evaluate_text, feedback, finish, start
from gepa.optimize_anything import EngineConfig, GEPAConfig, ReflectionConfig, optimize_anything


def evaluate(candidate: str, example: str) -> tuple[float, dict]:
    """Score a candidate on one trace."""
    metrics, artifacts = evaluate_text(candidate)
    told = {"trace": example, "scores": {"combined_score": metrics["combined_score"]}, "feedback": feedback(artifacts)}
    return by_trace(metrics, artifacts).get(example, -1.0), told


if __name__ == "__main__":
    run = start("gepa")

    def ask(prompt: str) -> str:
        """Return the model's answer."""
        messages = [{"role": "system", "content": run.system_message}, {"role": "user", "content": prompt}]
        answer = client(run.api_base, run.api_key).chat.completions.create(model=run.model, messages=messages)
        return answer.choices[0].message.content or ""

    seed = run.program.read_text(encoding="utf-8")
    engine = EngineConfig(run_dir=str(run.output), seed=run.seed, max_candidate_proposals=run.iterations, max_workers=1)
    optimize_anything(
        seed,
        evaluator=evaluate,
        dataset=sorted(by_trace(*evaluate_text(seed))),
        objective="Raise the share of the gap between LRU and the offline optimum that the policy closes, everywhere.",
        config=GEPAConfig(engine=engine, reflection=ReflectionConfig(reflection_lm=ask)),
    )
    finish(run, max(SCORED, key=lambda source: SCORED[source][0]["combined_score"]))
