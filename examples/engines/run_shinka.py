"""ShinkaEvolve 0.0.7: `python examples/engines/run_shinka.py`, in an environment of its own.

    pip install 'kvevolve[shinka]'

without this project's constraints.txt: it needs httpx 0.27.0 exactly, and instructor below the constrained versions of
openai, rich, jiter and pillow. `--config examples/openai.yaml` for a model; see `common.py`.

Scoring: `shinka_evaluate.py`, a fresh process per candidate. A policy that is refused is "incorrect", is no parent and
is shown with its reason when it is to be fixed. Metrics are public and shown with two digits; artifacts are the text
feedback, which has four. It keeps the text outside the EVOLVE-BLOCK itself. No embeddings, hence no novelty check.
Budget: one generation is one proposal, the seed is generation 0. Its cap on cost knows no prices behind a URL.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common import finish, start

if __name__ == "__main__":
    from shinka.core import EvolutionConfig, ShinkaEvolveRunner
    from shinka.database import DatabaseConfig
    from shinka.launch import LocalJobConfig

    run = start("shinka")
    os.environ["LOCAL_OPENAI_API_KEY"] = run.api_key
    evolution = EvolutionConfig(
        task_sys_msg=run.system_message,
        num_generations=run.iterations + 1,
        llm_models=[f"local/{run.model}@{run.api_base}"],
        llm_dynamic_selection=None,
        embedding_model=None,
        meta_rec_interval=None,
        use_text_feedback=True,
        init_program_path=str(run.program),
        results_dir=str(run.output),
    )
    job = LocalJobConfig(
        eval_program_path=str(Path(__file__).with_name("shinka_evaluate.py")), python_executable=sys.executable
    )
    islands = DatabaseConfig(num_islands=1)
    alone = {"max_evaluation_jobs": 1, "max_proposal_jobs": 1, "banner_style": "minimal"}
    ShinkaEvolveRunner(evolution, job, islands, **alone).run()
    finish(run, (run.output / "best" / "main.py").read_text(encoding="utf-8"))
