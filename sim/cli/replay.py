"""The verb `kvevolve replay`: a recorded run again, offline, its recording in the place of the model.

Arguments in, text out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def add(verbs: Any) -> None:
    """Add the verb to the command line."""
    text = "run an evolution again from its recording, without the model"
    verb = verbs.add_parser("replay", help=text, description=text)
    verb.set_defaults(verb=_replay)
    verb.add_argument("recording", type=Path, metavar="RUN", help="directory of a run, or its llm.jsonl")
    verb.add_argument("--config", type=Path, help="engine configuration (default: config.yaml beside the recording)")
    verb.add_argument("--program", type=Path, default=ROOT / "initial_program.py", help="seed policy of the run")
    verb.add_argument("--evaluator", type=Path, default=ROOT / "evaluator.py")
    verb.add_argument("--iterations", type=int, help="default: as recorded")
    verb.add_argument("--tune-evaluations", type=int, default=18, help="passes of the final tuning (default: 18)")
    verb.add_argument("--traces", dest="panel", default="auto", metavar="PANEL", help="panel (default: the run's)")
    verb.add_argument("--output", type=Path, default=Path("evolve_output"), help="parent of the new run's directory")


def _replay(options: argparse.Namespace) -> int:
    import yaml

    from sim.evolve import Job, evolve
    from sim.rundir import RunDir, new_run_dir
    from sim.search.llm import record

    given: Path = options.recording
    recording = given / record.NAME if given.is_dir() else given
    if not record.read(recording):
        raise ValueError(f"{recording} holds no call; fix: name a run whose config has a section kvevolve.llm")
    source = options.config or recording.with_name("config.yaml")
    panel = options.panel
    if panel == "auto" and RunDir(recording.parent).panel.exists():
        panel = RunDir(recording.parent).stored_panel()["which"]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(offline(source, recording.resolve()), sort_keys=False, allow_unicode=True))
        run = new_run_dir(options.output)
        files = (options.program, options.evaluator, config)
        job = Job(*files, options.iterations, None, options.tune_evaluations, panel)
        finished = evolve(job, run, lambda text: print(text, file=sys.stderr, flush=True))
    print(finished.report)
    return 0


def offline(source: Path, recording: Path) -> dict[str, Any]:
    """Return a configuration whose models are the recording; it holds no key and names no other endpoint."""
    from sim.engine_config import read_config
    from sim.search.llm.server import PORT

    if not source.is_file():
        raise ValueError(f"{source} does not exist; fix: --config, the engine configuration of the recorded run")
    config = read_config(source)
    llm = config.setdefault("llm", {})
    for model in (llm, *(llm.get("models") or ()), *(llm.get("evaluator_models") or ())):
        for key in {"api_base", "api_key"} & set(model):
            del model[key]
    llm |= {"api_base": f"http://127.0.0.1:{PORT}/v1", "api_key": "none", "retries": 0}
    templates = (config.get("prompt") or {}).get("template_dir")
    if templates:
        config["prompt"]["template_dir"] = str((source.parent / templates).resolve())
    config["kvevolve"] = {"llm": {"replay": str(recording)}}
    return config
