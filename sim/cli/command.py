"""The command line as a whole, and the verbs of a few lines.

Knows every verb. Must not know how results are made.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli import (
    ablate,
    bounds,
    compare,
    explain,
    fidelity,
    history,
    incumbents,
    promote,
    proxy,
    replay,
    results,
    stream,
    sweep,
    trace,
    tune,
)
from sim.cli.arguments import (
    MODEL,
    POLICY,
    add_capacity,
    add_executor,
    add_json,
    add_model,
    add_panel,
    add_replay,
    add_split,
    add_trace,
    executor_of,
    in_blocks,
    replay_options,
    shown,
)
from sim.meter import Bar, Meter

if TYPE_CHECKING:
    from sim.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    from workloads.progress import listening  # after the parser: --help needs no numpy

    bar = Bar()
    try:
        with listening(bar.tell), closing(bar):
            code: int = options.verb(options)
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        return 0
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError, MemoryError) as error:
        print(f"kvevolve: {error}", *getattr(error, "__notes__", ()), sep="\n  ", file=sys.stderr)
        return 1
    return code


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(options: argparse.Namespace, content: dict[str, Any], text: str) -> None:
    print(json.dumps(content, indent=2, sort_keys=True) if options.json else text)


def _run(options: argparse.Namespace) -> int:
    from sim.simulation import simulate
    from workloads import load

    trace = load(options.trace)
    capacity = in_blocks(options.capacity, trace.block_tokens, options.model)
    result = simulate(trace, options.policy, capacity, **replay_options(options))
    model = options.model or "llama-3.1-8b"
    content = result.to_dict() | result.kv_bytes(model) | {"model": model}
    _print(options, content, "\n".join([repr(trace), *shown(content)]))
    return 0


def _score(options: argparse.Namespace) -> int:
    from sim.batch import evaluate_many
    from workloads.panel import load_panel

    panel = load_panel(options.split, options.panel)
    scored = evaluate_many(
        options.files, options.split, options.panel, executor_of(options), options.workers, progress=Meter().count
    )
    contents, texts = [], []
    for path, found in zip(options.files, scored, strict=True):
        facts = {"panel": panel.name, "split": panel.split, "fingerprint": panel.fingerprint, "file": str(path)}
        facts |= {"stage": found.stage, "isolation": found.isolation}
        contents.append(facts | {"metrics": found.metrics, "artifacts": found.artifacts})
        lines = [f"{name:<22} {value:.4f}" for name, value in found.metrics.items()]
        lines += [f"{'isolation':<22} {found.isolation}"]
        lines += [f"\n{name}\n{text}" for name, text in found.artifacts.items()]
        texts.append("\n".join(lines))
    if len(texts) > 1:
        texts = [f"== {path}\n{text}\n" for path, text in zip(options.files, texts, strict=True)]
    _print(options, contents[0] if len(contents) == 1 else {"scores": contents}, "\n".join(texts))
    return 0 if all(found.metrics["valid"] for found in scored) else 2


def _check(options: argparse.Namespace) -> int:
    from sim.check import check_policy

    findings = check_policy(options.file)
    content = {"file": str(options.file), "findings": [vars(finding) for finding in findings]}
    _print(options, content, "\n".join(map(str, findings)) or f"{options.file}: ok")
    return 2 if findings else 0


def _evolve(options: argparse.Namespace) -> int:
    from sim.engine_config import read_config
    from sim.evolve import Job, evolve

    if options.resume and (options.program or options.config):
        raise ValueError("a run that is resumed has its own --program and --config; fix: leave them out")
    program, config = options.program or ROOT / "initial_program.py", options.config or ROOT / "config.yaml"
    for path in (program, options.evaluator, config):
        if not path.is_file():
            raise ValueError(f"{path} does not exist; run inside a kvevolve checkout or name the file")
    read_config(config)  # refused before a directory is made, and the panel loaded
    if options.executor:
        os.environ["KVEVOLVE_EVALUATOR"] = options.executor
    run, panel = _run_dir(options)
    job = Job(
        program,
        options.evaluator,
        config,
        options.iterations,
        options.seed,
        options.tune_evaluations,
        panel,
        options.gate or bool(options.trace),
    )
    finished = evolve(job, run, _say, resume=options.resume is not None)
    print(finished.report)
    return 0


def _run_dir(options: argparse.Namespace) -> tuple[RunDir, str]:
    """Return the directory of a run of `evolve`, and its panel; with --trace one is made, and checked first."""
    from sim.rundir import RunDir, new_run_dir
    from sim.specialist import Traffic, panel_text, write_panel

    said = [name for name in ("capacities", "model", "cut") if getattr(options, name) is not None]
    if said and not options.trace:
        raise ValueError(f"--{said[0]} goes with --trace; a panel's file says its own")
    if options.trace and (options.resume or options.panel != "auto"):
        raise ValueError("--trace makes a panel for a new run; fix: leave out --traces and --resume")
    if options.resume:
        return RunDir(options.resume.resolve()), options.panel
    if not options.trace:
        return new_run_dir(options.output), options.panel
    text = panel_text(Traffic(tuple(options.trace), **{name: getattr(options, name) for name in said}))
    run = new_run_dir(options.output)
    write_panel(text, run.own_panel)
    return run, str(run.own_panel)


def _fields(options: argparse.Namespace) -> int:
    from sim.core.fields import describe

    print(describe())
    return 0


def _engines(options: argparse.Namespace) -> int:
    import dataclasses

    from sim import engines

    for engine in engines.all_engines():
        known = " ".join(f"{field.name}={field.default}" for field in dataclasses.fields(engine.parameters))
        origin = f"{engine.source}, {'equal to the engine' if engine.measured else 'from source, not measured'}"
        user = "" if engine.run_user is None else "; runs user policies"
        print(f"{engine.name:<15} {origin}; policies {' '.join(engine.policies)}{user}{'; ' * bool(known)}{known}")
    return 0


def _policies(options: argparse.Namespace) -> int:
    import ast

    from sim import zoo
    from sim.registry import BASELINES, policies

    shipped, natives = policies(), zoo.describe()
    width = max(map(len, [*shipped, *(zoo.PREFIX + name for name in natives)])) + 2
    print(f"{'vllm':<{width}}the engine's own LRU, native; exact for vLLM >= 0.23 and <= 0.22")
    for name, path in shipped.items():
        summary = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        print(f"{name + '*' * (name in BASELINES):<{width}}{summary}")
    for name, text in natives.items():
        print(f"{zoo.PREFIX + name:<{width}}{text}")
    print(f"* baseline: on every panel. Sources, adaptations and deviations are in {path.parent}/NAME.py")
    return 0


def _panel(options: argparse.Namespace) -> int:
    from workloads.panel import describe, describe_known, load_panel

    if options.list:
        print(describe_known())
        return 0
    print(describe(load_panel(options.split, options.panel, purpose="report")))
    return 0


class _Version(argparse.Action):
    """Looks the version up when asked for it: that reads the metadata of all packages."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(version("kvevolve"))
        except PackageNotFoundError:
            print("not installed")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvevolve", description="Discover KV prefix-cache policies.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_run(verbs)
    sweep.add(verbs)
    stream.add(verbs)
    verb = _add(verbs, "score", _score, "score a policy as evolution would, isolated", json_output=True)
    verb.add_argument("files", type=Path, nargs="+", metavar="FILE")
    add_split(verb, "train", ("train", "validation"))
    add_executor(verb)
    compare.add(verbs)
    explain.add(verbs)
    verb = _add(verbs, "check", _check, "check a policy file against the contract", json_output=True)
    verb.add_argument("file")
    bounds.add(verbs)
    _add_evolve(verbs)
    proxy.add(verbs)
    replay.add(verbs)
    tune.add(verbs)
    ablate.add(verbs)
    history.add(verbs)
    promote.add(verbs)
    incumbents.add(verbs)
    fidelity.add(verbs)
    results.add(verbs)
    _add(verbs, "fields", _fields, "list what a policy can read, with units")
    _add(verbs, "engines", _engines, "list the engines that can be simulated, and their parameters")
    _add(verbs, "policies", _policies, "list the shipped policies and the zoo")
    verb = _add(verbs, "panel", _panel, "describe a panel, or check a YAML file of your own")
    verb.add_argument("split", nargs="?", default="train", choices=("train", "validation", "test"))
    verb.add_argument("--list", action="store_true", help="list the panels there are, and whether their traces are")
    add_panel(verb)
    trace.add(verbs)
    return parser


def _add(verbs: Any, name: str, call: Callable[..., int], text: str, json_output: bool = False) -> Any:
    verb = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(verb=call)
    if json_output:
        add_json(verb)
    return verb


def _add_run(verbs: Any) -> None:
    verb = _add(verbs, "run", _run, "replay one trace at one capacity", json_output=True)
    add_trace(verb)
    verb.add_argument("--policy", default="native", help=POLICY)
    add_capacity(verb)
    add_replay(verb)
    add_model(verb, f"{MODEL}; also for the KV bytes reported (default there: llama-3.1-8b)")


def _add_evolve(verbs: Any) -> None:
    verb = _add(verbs, "evolve", _evolve, "evolve a policy and report it (keyless by default)")
    verb.add_argument("--program", type=Path, help="seed policy (default: initial_program.py)")
    verb.add_argument("--evaluator", type=Path, default=ROOT / "evaluator.py")
    verb.add_argument("--config", type=Path, help="OpenEvolve config; see examples/ (default: config.yaml)")
    verb.add_argument("--iterations", type=int)
    verb.add_argument("--seed", type=int)
    verb.add_argument("--tune-evaluations", type=int, default=18, help="passes of the final tuning (default: 18)")
    add_panel(verb)
    text = "evolve for traffic of your own: a trace as `kvevolve trace info` takes it; again for more of them"
    verb.add_argument("--trace", action="append", metavar="TRACE", help=text)
    verb.add_argument("--capacities", help="with --trace: shares, blocks or memory (default: 1%%,2%%,5%%,10%%,20%%)")
    add_model(verb, f"with --trace, {MODEL}")
    verb.add_argument("--cut", choices=("requests", "sessions"), help="with --trace: how it is cut into parts")
    text = (
        "where candidates are evaluated, the engine's workers sharing it (default: kvevolve.evaluation of the config)"
    )
    verb.add_argument("--executor", choices=("serial", "ray"), help=text)
    text = "choose what the promotion gate passes, of the four best on validation (with --trace always); minutes"
    verb.add_argument("--gate", action="store_true", help=text)
    verb.add_argument("--output", type=Path, default=Path("evolve_output"), help="parent of the run's directory")
    verb.add_argument("--resume", type=Path, metavar="RUN", help="continue a run that was stopped")
