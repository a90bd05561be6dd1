"""The main job: run OpenEvolve on the seed policy, tune what it found, choose on validation, report.

Calls the engine as its own command, `openevolve-run`; must not know how candidates are scored or isolated.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sim import choice, held_out, journal, jsonlines, runlock
from sim.comparison import Comparison, compare
from sim.engine_run import run_engine
from sim.evaluation import Evaluator
from sim.history import ingest
from sim.policy.program import Policy
from sim.population import Rebuilt, rebuild
from sim.registry import BASELINES, load_policy
from sim.rundir import RunDir, keyless, renew_config, resolve_config, versions, write_json, write_text
from sim.search.llm import ending
from workloads import panel_file
from workloads.atomic import atomic_write
from workloads.panel import Panel, describe, load_panel

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        program: Seed policy with one EVOLVE-BLOCK; a run that is resumed has its own.
        evaluator: OpenEvolve evaluator.
        config: OpenEvolve config.
        iterations: Overrides the config's; a run that is resumed refuses another.
        seed: The same.
        tune_evaluations: Budget of the final CMA-ES tuning, in passes over the training panel.
        panel: Name or file of the panel, see `workloads.panel.load_panel`; for a run that is resumed, "auto" is the
            panel it was started on.
        gate: Whether the promotion gate (`sim.promotion`) has a say in the choice, some minutes.
    """

    program: Path
    evaluator: Path
    config: Path
    iterations: int | None = None
    seed: int | None = None
    tune_evaluations: int = 18
    panel: str = "auto"
    gate: bool = False


@dataclass(frozen=True, eq=False)
class Finished:
    """What a run left."""

    run: RunDir
    best: Policy
    validation: Comparison
    report: str


def evolve(job: Job, run: RunDir, say: Say, resume: bool = False) -> Finished:
    """Run the whole job.

    Args:
        job: What to run.
        run: Where outputs go; with `resume`, a run that was stopped.
        say: Receives progress, line by line.
        resume: Go on after the last evaluation that was recorded, up to the config's iterations.

    Raises:
        RuntimeError: If the engine fails; its log is named.
        ValueError: If the config or the panel makes no sense, or another process is at work on the run.
    """
    with runlock.held(run.root) as lock:
        return _evolve(job, run, say, resume, lock)


def _evolve(job: Job, run: RunDir, say: Say, resume: bool, lock: int) -> Finished:
    job, evaluator = _on_its_panel(_from_its_seed(job, run, resume), run, resume)
    say(describe(evaluator.panel))
    if not evaluator.panel.real:
        say(
            "NO RECORDED TRACES FOUND: this run uses SYNTHETIC traffic. For real traffic: kvevolve trace fetch mooncake"
        )
    seed_found = evaluator.evaluate(job.program, advice=False)
    if not seed_found.metrics["valid"]:
        raise ValueError(f"{job.program}: {seed_found.artifacts['rejection']}")
    say(f"isolation of candidates: {seed_found.isolation}")
    started = time.time()
    goes_on = _recorded(run, say) if resume else None
    asked = (job.iterations, job.seed)
    config = renew_config(run, *asked) if resume else resolve_config(job.config, run, *asked)
    if keyless(config):
        os.environ["KVEVOLVE_ADVICE"] = "0"
    if (config.get("llm") or {}).get("manual_mode"):
        say(f'tasks for you appear in {run.manual_tasks}: ID.json asks, ID.answer.json answers as {{"answer": "…"}}')
    finished = run_engine(job.program, job.evaluator, run, int(config["max_iterations"]), say, goes_on, lock)
    engine_s = time.time() - started
    _check_same_panel(run, run.stored_panel(), load_panel("train", job.panel))  # nobody changed it meanwhile
    best, verdict = _chosen(job, run, int(config.get("random_seed") or 0), finished, say)
    validation = compare(_columns(job, best), "validation", job.panel)
    report = _report(job, run, best, validation) + verdict + _held_out(job, run, best, finished)
    write_text(run.report, report + "\n")
    outcome = evaluator.evaluate(run.best_policy, advice=False)
    evaluator.close()
    content = {
        "versions": versions(),
        "panel": evaluator.panel.name,
        "train_fingerprint": evaluator.panel.fingerprint,
        "validation_fingerprint": validation.marks.panel.fingerprint,
        "seed": config.get("random_seed"),
        "iterations": config.get("max_iterations"),
        "stored_children": len(run.children()),
        "ended_early": ending.reason(run.root) or None,
        "tune_evaluations": job.tune_evaluations,
        "engine_s": round(engine_s, 1),
        "total_s": round(time.time() - started, 1),
        "isolation": outcome.isolation,
        "train": outcome.metrics,
        "validation": validation.to_dict(),
    }
    write_json(run.provenance, content)
    _keep_record(run, say)
    return Finished(run, best, validation, report)


def _keep_record(run: RunDir, say: Say) -> None:
    """Build the run's store; without one the run is no less done."""
    try:
        ingest(run.root)
    except (OSError, ValueError) as error:
        say(f"the record of the run is not built: {error}; `kvevolve history {run.root}` tries again")


def _on_its_panel(job: Job, run: RunDir, resume: bool) -> tuple[Job, Evaluator]:
    """Return the job with its panel found, and its evaluator; a run notes its panel, and resumes on no other."""
    stored = run.stored_panel() if resume else None
    file = panel_file.find(stored["which"] if stored and job.panel == "auto" else job.panel)
    file.traces("validation")  # refuses a panel without, before the work
    os.environ["KVEVOLVE_PANEL"] = file.which
    os.environ["KVEVOLVE_RUN_DIR"] = str(run.root)
    evaluator = Evaluator("train", file.which)
    if stored:
        _check_same_panel(run, stored, evaluator.panel)
    else:
        facts = {"which": file.which, "name": evaluator.panel.name, "fingerprint": evaluator.panel.fingerprint}
        write_json(run.panel, facts)
    return replace(job, panel=file.which), evaluator


def _from_its_seed(job: Job, run: RunDir, resume: bool) -> Job:
    """Return the job with the seed policy that the run began with, of which it keeps a copy."""
    if not resume:
        with atomic_write(run.seed_policy) as file:
            file.write(job.program.read_bytes())
    return replace(job, program=run.seed_policy) if run.seed_policy.is_file() else job


def _check_same_panel(run: RunDir, stored: dict[str, str], panel: Panel) -> None:
    """Refuse to go on with a run under another panel: its scores so far would not compare with those to come."""
    if stored["fingerprint"] != panel.fingerprint:
        raise ValueError(
            f"{run.root} was evolved on panel {stored['name']}, fingerprint {stored['fingerprint'][:12]}, and would go"
            f" on with {panel.name}, fingerprint {panel.fingerprint[:12]}: scores would not compare; fix: --traces"
            f" {stored['which']} with the same traces and file, or start a new run"
        )


def _recorded(run: RunDir, say: Say) -> Rebuilt | None:
    """Return what a stopped run goes on from."""
    jsonlines.mend(run.trace)
    if journal.by_other_code(run.root):
        say("kvevolve, numba or numpy changed since: scores from before stay as they were and may not compare")
    found = rebuild(run)
    if found is None:
        say("no program was stored yet: starting from the seed")
    else:
        say(f"resuming after iteration {found.done}: {found.programs} programs, {found.recovered} from the journal")
    return found


def search(job: Job, run: RunDir, say: Say) -> bool:
    """Run the engine alone, in a new run's directory: nothing is tuned, chosen or reported afterwards.

    Returns:
        Whether it came to its end; False if it was interrupted.

    Raises:
        RuntimeError: If the engine fails; its log is named.
        ValueError: If the config or the panel makes no sense, or another process is at work on the run.
    """
    with runlock.held(run.root) as lock:
        job, evaluator = _on_its_panel(job, run, resume=False)
        evaluator.close()
        config = resolve_config(job.config, run, job.iterations, job.seed)
        os.environ["KVEVOLVE_ADVICE"] = "0" if keyless(config) else "1"
        iterations = int(config["max_iterations"])
        return run_engine(job.program, job.evaluator, run, iterations, say, None, lock)


def _chosen(job: Job, run: RunDir, seed: int, finished: bool, say: Say) -> tuple[Policy, str]:
    """Return the policy a run ends with, and what the gate says if it is asked: before anything held out is read."""
    found = choice.finalists(run, load_policy(job.program))
    candidates = choice.ranked(found, job.panel, job.tune_evaluations, seed, say)
    chosen, verdict = candidates[0], ""
    if job.gate and finished:
        chosen, verdicts = choice.passing(candidates, run, job.panel, say)
        verdict = f"\n\nPROMOTION GATE\n{choice.told(verdicts, chosen)}"
    say(f"chosen: {chosen.policy.name}, validation score {chosen.score:+.4f}")
    best = Policy.from_source(chosen.policy.source, "evolved")
    write_text(run.best_policy, best.source)
    return best, verdict


def _columns(job: Job, best: Policy) -> list[Policy]:
    seed = Policy.from_source(job.program.read_text(), "seed")
    return [seed, *(load_policy(name) for name in BASELINES), best]


def _held_out(job: Job, run: RunDir, best: Policy, finished: bool) -> str:
    """Return what the report says of the part held out, if the panel was made for this run and has one."""
    if not run.own_panel.is_file():
        return ""
    if not finished:
        return "\n\nHELD OUT: not read, the run was stopped; --resume finishes it"
    return "\n\n" + held_out.report(run.root, job.panel, _columns(job, best), best)


def _cited(panel: Panel) -> str:
    return f"{panel.name} {panel.split}, fingerprint {panel.fingerprint[:12]}, {panel.traffic}"


def _report(job: Job, run: RunDir, best: Policy, validation: Comparison) -> str:
    training = compare(_columns(job, best), "train", job.panel)
    seed = job.program.read_text()
    diff = difflib.unified_diff(
        seed.splitlines(), best.source.splitlines(), str(job.program.name), run.best_policy.name, lineterm=""
    )
    scores = dict(zip(validation.names, validation.scores, strict=True))
    rival = max((name for name in scores if name not in ("seed", "evolved")), key=lambda name: scores[name].combined)
    verdict = "beats" if scores["evolved"].combined > max(scores[rival].combined, 0.0) else "does NOT beat"
    return "\n".join(
        [
            f"TRAINING ({_cited(training.marks.panel)})",
            str(training),
            "",
            f"VALIDATION ({_cited(validation.marks.panel)})",
            str(validation),
            "",
            f"evolved {verdict} every baseline on validation: {scores['evolved'].combined:+.4f}, best baseline "
            f"{rival} {scores[rival].combined:+.4f}, vllm +0.0000",
            "",
            "DIFF OF THE BEST POLICY AGAINST THE SEED",
            *diff,
            "",
            f"outputs: {run.root}",
            f"  {run.best_policy.name}: the policy   {run.report.name}: this text",
            f"  {run.provenance.name}: versions, panel, seed, scores",
            f"  {run.databases.name}/: every stored program   {run.trace.name}: as the engine traced them",
            f"  {journal.FILE}: every evaluation   {run.log.name}: the engine's log",
            f"kvevolve history {run.root}: every proposal, what came of it, the way to the winner",
        ]
    )
