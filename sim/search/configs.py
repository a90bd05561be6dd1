"""The engine configurations of this repository, all from one table: `config.yaml` and `examples/*.yaml`.

`python -m sim.search.configs --write` writes them; without it, differences are listed. Knows OpenEvolve 0.4.0's
settings; must not know policies.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from sim.search.endpoint import PORT
from sim.search.llm.server import PORT as PROXY_PORT
from sim.search.settings import Settings
from sim.search.system_message import system_message

ITERATIONS, CHECKPOINT, PATIENCE = 48, 16, 40
_WIDTH = 120


@dataclass(frozen=True)
class Line:
    """One setting: its path, value and why it is not the engine's default."""

    path: str
    value: Any
    why: str


@dataclass(frozen=True)
class Kind:
    """What distinguishes one configuration file."""

    title: str
    lines: tuple[Line, ...]
    diff: bool = True
    keyless: bool = False
    iterations: int = 100
    workers: int = 2
    islands: int = 3


def _model(base: str, key: str, name: str, why: str, *, timeout: int = 120, max_tokens: int = 8192) -> tuple[Line, ...]:
    local, secret = base.startswith("http://127.0.0.1"), key.startswith("${")
    where = "the server's own default address" if local else "the vendor's OpenAI-compatible endpoint"
    read = "read from the environment; ${VAR} works only as the whole value"
    return (
        Line("llm.api_base", base, where),
        Line("llm.api_key", key, read if secret else "unused by the server, but the client insists on a string"),
        Line("llm.models", [{"name": name, "weight": 1.0}], why),
        Line("llm.max_tokens", max_tokens, "a truncated answer is a lost iteration; thinking counts on some models"),
        Line("llm.timeout", timeout, "seconds; a slow answer is still cheaper than a lost iteration"),
        Line("llm.retries", 2, "applied twice, by the client and by the engine: 2 means up to 9 requests"),
    )


_PROXIED = (
    Line(
        "llm.api_base", f"http://127.0.0.1:{PROXY_PORT}/v1", "the proxy: evaluator.py starts it, in front of upstream"
    ),
    Line("llm.api_key", "${OPENAI_API_KEY}", "goes on to the endpoint; never recorded"),
    Line("llm.models", [{"name": "gpt-4.1", "weight": 1.0}], "a second entry with a weight makes an ensemble"),
    Line("llm.max_tokens", 8192, "a truncated answer is a lost iteration; also what a request can cost at most"),
    Line("llm.timeout", 660, "seconds; the proxy retries, repairs and tunes before it answers"),
    Line("llm.retries", 0, "the proxy retries what is worth it; the engine would pay again"),
    Line("kvevolve.llm.upstream", "https://api.openai.com/v1", "any OpenAI-compatible endpoint"),
    Line(
        "kvevolve.llm.cap_tokens",
        3_000_000,
        "prompts and answers of a run, whenever continued; then it ends. For a cap in USD: cap_usd, and prices: "
        "{MODEL: {input: …, output: …}}, USD per million tokens as the vendor lists them",
    ),
    Line("kvevolve.llm.repair", True, "an answer whose program is refused goes back once, with the reasons"),
    Line("kvevolve.llm.polish_evaluations", 24, "CMA-ES on the constants of each answer, training panel; 0: none"),
    Line("kvevolve.llm.polish_total", 2400, "evaluations per run at most"),
    Line("kvevolve.llm.polish_seconds", 30.0, "no further evaluation of an answer starts after this"),
)

_MANUAL = (
    Line("llm.manual_mode", True, "tasks appear in manual_tasks_queue/ of the run's folder, answers go beside them"),
    Line("llm.api_key", "none", "unused, but the client insists on a string"),
    Line("llm.models", [{"name": "person", "weight": 1.0}], "shown in the tasks"),
)

_STRONG = "any strong model; a second entry with a weight makes an ensemble"
_LOCAL = "any instruction-tuned code model the server offers"

_KEYLESS = (
    Line(
        "llm.api_base",
        f"http://127.0.0.1:{PORT}/v1",
        "the package's own endpoint: evaluator.py starts it. Port taken? Change it here, nowhere else",
    ),
    Line("llm.api_key", "none", "unused, but the client insists on a string"),
    Line(
        "llm.models",
        [{"name": "kvevolve-gp", "weight": 1.0}],
        "genetic programming; kvevolve-tune tunes every answer; controls: kvevolve-plain, kvevolve-random (draws)",
    ),
    Line("llm.timeout", 180, "seconds; a tuned answer evaluates candidates before it returns"),
    Line("llm.retries", 1, "the endpoint answers or has a reason not to"),
)

KINDS: dict[str, Kind] = {
    "config.yaml": Kind(
        "Keyless default: openevolve-run initial_program.py evaluator.py --config config.yaml", _KEYLESS, keyless=True
    ),
    "examples/openai.yaml": Kind(
        "OpenAI: export OPENAI_API_KEY=…",
        _model("https://api.openai.com/v1", "${OPENAI_API_KEY}", "gpt-4.1", _STRONG),
    ),
    "examples/anthropic.yaml": Kind(
        "Anthropic, through its OpenAI-compatible endpoint: export ANTHROPIC_API_KEY=…",
        _model("https://api.anthropic.com/v1/", "${ANTHROPIC_API_KEY}", "claude-sonnet-4-5", _STRONG),
    ),
    "examples/gemini.yaml": Kind(
        "Google Gemini, through its OpenAI-compatible endpoint: export GEMINI_API_KEY=…",
        _model(
            "https://generativelanguage.googleapis.com/v1beta/openai/",  # exactly so: the engine then sends no seed
            "${GEMINI_API_KEY}",
            "gemini-2.5-flash",
            _STRONG,
            max_tokens=16384,
        ),
    ),
    "examples/openrouter.yaml": Kind(
        "OpenRouter: export OPENROUTER_API_KEY=…",
        _model("https://openrouter.ai/api/v1", "${OPENROUTER_API_KEY}", "anthropic/claude-sonnet-4.5", _STRONG),
    ),
    "examples/ollama.yaml": Kind(
        "Ollama on this machine, a small model: ollama pull qwen2.5-coder:14b",
        _model("http://127.0.0.1:11434/v1", "ollama", "qwen2.5-coder:14b", _LOCAL, timeout=600),
        diff=False,
    ),
    "examples/full_rewrite.yaml": Kind(
        "OpenAI, whole programs instead of diffs, for models that break SEARCH/REPLACE blocks: export OPENAI_API_KEY=…",
        _model("https://api.openai.com/v1", "${OPENAI_API_KEY}", "gpt-4.1-mini", _STRONG),
        diff=False,
    ),
    "examples/proxy.yaml": Kind(
        "A model that proposes, CMA-ES that tunes, a cap, a recording to replay: export OPENAI_API_KEY=…", _PROXIED
    ),
    "examples/manual.yaml": Kind(
        'A person answers: write ID.answer.json, {"answer": "…"}, for each manual_tasks_queue/ID.json',
        _MANUAL,
        iterations=20,
        workers=1,
        islands=1,
    ),
    "examples/vllm.yaml": Kind(
        "vLLM on this machine, a strong model: vllm serve Qwen/Qwen2.5-Coder-32B-Instruct",
        _model("http://127.0.0.1:8000/v1", "none", "Qwen/Qwen2.5-Coder-32B-Instruct", _LOCAL, timeout=300),
    ),
}


def lines(kind: Kind) -> Iterator[Line]:
    """Yield every setting of a configuration, section by section."""
    keyless = kind.keyless
    iterations = ITERATIONS if keyless else kind.iterations
    yield Line("max_iterations", iterations, "one iteration is one proposal; failures count")
    checkpoint = CHECKPOINT if keyless else math.gcd(iterations, 20)
    yield Line("checkpoint_interval", checkpoint, "divides max_iterations: else the end of a run has no checkpoint")
    yield Line("language", "python", "saves the engine guessing")
    if not kind.diff:
        why = "small models break SEARCH/REPLACE blocks, and a bad block is a lost iteration"
        yield Line("diff_based_evolution", False, why)
    yield Line("max_code_length", 20000, "the limit of the policy gate, which explains its refusals; this one does not")
    if not keyless and iterations > PATIENCE:
        why = "saves money when nothing improves for this many iterations"
        yield Line("early_stopping_patience", PATIENCE, why)
    own = [line for line in kind.lines if line.path.startswith("kvevolve.")]
    yield from (line for line in kind.lines if line not in own)
    yield Line("prompt.max_artifact_bytes", 8192, "what went wrong, not everything that happened")
    yield Line("prompt.artifact_security_filter", False, "it redacts words of this field, such as token: 512")
    yield Line("prompt.suggest_simplification_after_chars", None, "nags in every prompt; the score charges size anyway")
    why = "more islands than this draw early parents for too long in a short run"
    yield Line("database.num_islands", kind.islands, why)
    yield Line("database.archive_size", 16, "70% of the parents come from here, all alike: keep it to the best")
    yield Line("database.migration_interval", 10, "counted in generations of an island: 50 would hardly ever come")
    yield Line(
        "database.feature_dimensions",
        ["capacity_tilt", "refused_share"],
        "niches: good at small caches or at large ones; refuses blocks or evicts them",
    )
    yield Line("database.feature_bins", 8, "109 evolved programs fill 13 of the 8 x 8 cells, the fullest holds a third")
    yield Line("database.max_snapshot_artifacts", None, "by default programs after the 100th lose their feedback")
    if keyless:
        yield Line("database.log_prompts", False, "the operator reads only the programs; checkpoints stay small")
    yield Line("evaluator.max_retries", 0, "evaluation is deterministic: a retry gives the same")
    yield Line("evaluator.cascade_evaluation", False, "evaluator.py has its own stages; the engine's reward slow code")
    if kind.workers > 1:  # one is the default
        yield Line("evaluator.parallel_evaluations", kind.workers, "workers; about the number of cores, 4 at most")
    yield Line("evolution_trace.enabled", True, "the engine's record; it lacks children of a parent dropped meanwhile")
    yield Line("evolution_trace.include_code", True, "so that every policy can be scored again")
    if keyless:
        yield Line("evolution_trace.include_prompts", False, "operator.jsonl has every proposal, and how it was made")
    else:
        folder = "../sim/search/prompts"
        yield Line("prompt.template_dir", folder, "lean prompts about this problem; relative to this file")
    yield Line("prompt.system_message", system_message(), "the contract; python -m sim.search.system_message prints it")
    yield from _search_section() if keyless else own


def _search_section() -> Iterator[Line]:
    why = {
        "tune_fraction": "how often the best program, once each, gets its constants tuned (CMA-ES, reduced panel)",
        "tune_evaluations": "passes over the reduced panel per tuned answer at most",
        "tune_total": "passes over it per run at most, so that tuning does not dominate the run",
        "tune_seconds": "no further evaluation of a tuned answer starts after this",
        "max_nodes": "size limit of proposals in syntax nodes",
        "screen_children": "children of new behaviour tried on the reduced panel for each answer; 0: no screening",
        "settle_passes": "passes over it that fit the constants of the best of them, roughly; 0: none",
        "opening": "answers that are draws and shipped policies, varied, before anything is bred",
        "explore": "how often any of them is the answer, instead of the best",
        "restart_after": "requests without improvement after which a fresh lineage starts; 0: never",
        "taboo_distance": "how far, 0 to 1, its behaviour keeps from the best before",
    }
    for item in fields(Settings):
        if item.name in why:
            yield Line(f"kvevolve.search.{item.name}", item.default, why[item.name])


def text(kind: Kind) -> str:
    """Return a configuration file."""
    out = [f"# {kind.title}", "# Generated by: python -m sim.search.configs --write", ""]
    tree: dict[str, Any] = {}
    for line in lines(kind):
        place = tree
        *sections, name = line.path.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = line
    _emit(tree, 0, out)
    return "\n".join(out) + "\n"


def _emit(tree: Mapping[str, Any], depth: int, out: list[str]) -> None:
    indent = "  " * depth
    for name, item in tree.items():
        if isinstance(item, Line):
            out.extend((indent + part).rstrip() for part in _setting(name, item, _WIDTH - len(indent)))
        else:
            if depth == 0:
                out.append("")
            comment = "  # read by evaluator.py; the engine ignores it" if name == "kvevolve" else ""
            out.append(f"{indent}{name}:{comment}")
            _emit(item, depth + 1, out)


def _setting(name: str, line: Line, width: int) -> list[str]:
    if isinstance(line.value, str) and "\n" in line.value:
        body = [f"  {row}".rstrip() for row in line.value.rstrip("\n").split("\n")]
        return [f"# {line.why}", f"{name}: |", *body]
    value = yaml.safe_dump(line.value, default_flow_style=True, width=1000, sort_keys=False).removesuffix("\n...\n")
    setting = f"{name}: {value.strip()}"
    if len(setting) + len(line.why) + 4 <= width:
        return [f"{setting}  # {line.why}"]
    return [*(f"# {row}" for row in textwrap.wrap(line.why, width - 2)), setting]


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or list those that differ."""
    parser = argparse.ArgumentParser(prog="python -m sim.search.configs", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="top of the checkout")
    options = parser.parse_args(arguments)
    stale = []
    for name, kind in KINDS.items():
        path: Path = options.root / name
        wanted = text(kind)
        if path.exists() and path.read_text(encoding="utf-8") == wanted:
            continue
        stale.append(name)
        if options.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted, encoding="utf-8")
    for name in stale:
        print(f"{'written' if options.write else 'differs'}: {name}")
    return 0 if options.write or not stale else 1


if __name__ == "__main__":
    sys.exit(main())
