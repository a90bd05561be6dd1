"""The contract of a policy as text for a language model, generated from the definitions the gate uses.

Knows the field table, the language and the worked examples; must not know engines.
`python -m sim.search.system_message` prints it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from sim.core import fields
from sim.policy import language

_INTRO = """\
You improve the eviction and admission policy of a KV prefix cache of an LLM inference server. Prompts are cut into \
blocks of tokens; a block is identified by its whole prefix, so a request hits the longest chain of resident blocks \
from the start of its prompt. When room is needed, blocks that no running request uses and that no resident block \
continues are evicted, lowest `priority` first. Every hit saves the prefill of a block.

The score is measured on real traffic at several cache sizes: 0 is LRU, 1 the offline optimum that knows the future; \
the worst trace and the size of the code count a little. A policy must be good at small and large caches alike."""

_SIGNATURES = {
    "priority": "required; a number; the lowest is evicted first",
    "admit": "optional; whether a new block enters the cache; without it every block does",
    "on_hit": "optional hook; a request found the block in the cache",
    "on_insert": "optional hook; the block enters the cache",
    "on_evict": "optional hook; the block leaves the cache",
}

_ADVICE = """\
Time is counted from an origin that means nothing: use differences (block.age), or compare blocks (block.last_access \
as a term of the score). LRU is `return block.released`, nearly the same is `return block.last_access`. A score whose \
fields do not move by themselves (no age, no cache.now) is the fastest to evaluate. Good policies combine recency \
with remembered frequency (block.seen survives eviction), with depth or recompute cost, and with what the hooks \
keep in private slots. A block returns with the next turn of its conversation, after a while and not at once: its \
worth first rises with block.age / max(cache.usual_gap, 1), then falls, and cache.continued tells agents from chat."""

_ORDER = """\
Within a request, in this order: `on_hit` for every block found, first to last; `admit` for the missing blocks, first \
to last, until it refuses one (the rest stays out too); room is made, with `priority` and `on_evict`; `on_insert` for \
the admitted blocks, first to last. So a cache slot carries what the hits of a request told to the blocks it inserts: \
the state of a session travels along its prefix. block.depth is 0 at the first block of a request; a request without \
hits begins with `on_insert`. Slots of a block outlive its eviction as long as block.seen does."""

PROMPTS = Path(__file__).with_name("prompts")
"""Templates that take the place of OpenEvolve's (`prompt.template_dir`), and the worked examples."""

_WORKED = {
    "capacity_aware": "Idleness counts against the time the cache takes to turn over, so one weight serves small and "
    "large caches; every doubling of block.seen buys half a turnover:",
    "session_state": "New blocks of a request that found its prefix belong to a session that came back; cache.s0 tells "
    "them so. A block that waited long between its last two uses is worth less:",
}


def system_message() -> str:
    """Return the system message for an engine configuration."""
    parts = [
        *_INTRO.split("\n\n"),
        "The program defines these functions inside its EVOLVE-BLOCK:",
        _functions(),
        *_rules(),
        _ORDER,
        _ADVICE,
        "Fields, with their units:",
        fields.describe(),
        "Two working blocks, both better than LRU and far from the optimum; they show means, not the way.",
        *(part for name, text in _WORKED.items() for part in (text, worked(name).strip())),
    ]
    prose = [part if "\n" in part else textwrap.fill(part, 116) for part in parts]
    return "\n\n".join(prose) + "\n"


def worked(name: str) -> str:
    """Return the EVOLVE-BLOCK of a worked example."""
    return (PROMPTS / "worked" / f"{name}.txt").read_text(encoding="utf-8")


def _functions() -> str:
    assert set(_SIGNATURES) == set(language.SIGNATURES)
    heads = {name: f"  def {name}({', '.join(parameters)}):" for name, parameters in language.SIGNATURES.items()}
    width = max(len(head) for head in heads.values()) + 2
    return "\n".join(f"{head:<{width}}{_SIGNATURES[name]}" for name, head in heads.items())


def _rules() -> list[str]:
    builtins, scoring = ", ".join(language.BUILTINS), " or ".join(f'"{value}"' for value in language.SCORING)
    return [
        "Rules. A file that breaks one is refused, and the reason is shown. Change nothing outside the EVOLVE-BLOCK "
        "markers and keep the marker lines. No imports: `math` and `np` are in scope.",
        f"- Calls: {builtins}, your own helper functions of numbers, defined above their use, and\n"
        f"{_listed('math', language.MATH)};\n{_listed('np', language.NUMPY)}.",
        "- Statements: assignments to local names, if, return, and for … in range(n) with a literal "
        f"n <= {language.MAX_LOOP_STEPS}. Expressions: numbers, fields, + - * / **, comparisons, and, or, not, "
        "a if c else b. No lists, strings, lambdas, decorators, default arguments, try or while.",
        "- At the top level: a docstring, NAME = number, functions, and SCORING = "
        f'{scoring}. With "evict", the default, scores are exact when room is made; with "touch" they are computed '
        "when a request releases the block and stay until its next use.",
        "- Every path of `priority` and `admit` returns. Scores must be finite: guard division, log and sqrt. Hooks "
        "write only the private slots of block and cache and return nothing.",
        f"- At most {language.MAX_NODES} syntax nodes; smaller is better. Numbers written in the code may be tuned "
        "afterwards, so structure matters more than exact constants.",
    ]


def _listed(module: str, names: tuple[str, ...]) -> str:
    text = ", ".join(f"{module}.{name}" for name in names)
    return textwrap.fill(text, 114, initial_indent="  ", subsequent_indent="  ")


if __name__ == "__main__":
    print(system_message(), end="")
