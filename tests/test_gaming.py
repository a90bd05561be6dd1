"""Attacks on our own evaluator: through the policy, and from behind the gate.

Each must end as a rejection, or score exactly what the honest policy it hides in scores, or less.
"""

from __future__ import annotations

import ast
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.core import fields
from sim.core.replay import frozen
from sim.evaluation import LIMITS, METRICS, Evaluation, Evaluator
from sim.isolation import Limits, Outcome, Zygote
from sim.policy import language
from sim.policy.compiler import compile_policy
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import policies
from sim.score import REJECTED
from sim.simulation import Options, PolicyError, run_policy
from sim.worker import clock_origin
from workloads import Trace, locate

ROOT = Path(__file__).parent.parent
PANEL = os.environ.get("KVEVOLVE_PANEL", "synthetic")
MOST_REFS = 40_000
"""Block references of each trace: a third of the panel's, which is enough for all that is asked here."""
LRU = "def priority(block, cache):\n    return block.released\n"
HONEST = "def priority(block, cache):\n    return block.last_access - 0.5 * min(block.gap, 2000.0)\n"


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    running = Evaluator("train", PANEL, replace(LIMITS, wall_s=300.0), most_refs=MOST_REFS)
    yield running
    running.close()


@pytest.fixture
def attack(evaluator, tmp_path) -> Callable[[str], Evaluation]:
    def run(source: str) -> Evaluation:
        path = tmp_path / "candidate.py"
        path.write_text(source, newline="")
        found = evaluator.evaluate(path, advice=False)
        assert {name: type(value) for name, value in found.metrics.items()} == dict.fromkeys(METRICS, float)
        return found

    return run


def rejected(found: Evaluation) -> bool:
    return found.metrics["combined_score"] == REJECTED and found.metrics["valid"] == 0.0


def test_an_honest_improvement_passes(attack):
    seed, better = attack((ROOT / "initial_program.py").read_text()), attack(HONEST)
    assert (seed.stage, better.stage) == ("panel", "panel")
    assert better.metrics["combined_score"] > max(seed.metrics["combined_score"], 0.0)
    assert better.metrics["train_gap_closed"] > 0.01


# ---- through the policy ----------------------------------------------------------------------------------------------


def returning(expression: str) -> str:
    return f"def priority(block, cache):\n    return {expression}\n"


def doing(statement: str) -> str:
    return f"def priority(block, cache):\n    {statement}\n    return block.released\n"


def hook(statement: str) -> str:
    return f"{LRU}def on_hit(block, request, cache):\n    {statement}\n"


def at_top(text: str) -> str:
    return f"{text}\n{LRU}"


READ_THE_FUTURE = [
    doing("import sys"),
    doing("from sim.bounds import optimum"),
    doing("import sim.marks as m"),
    at_top("import math"),
    at_top("from __future__ import annotations"),
    returning("__import__('sim.bounds')"),
    returning("sys._getframe().f_back.f_locals['marks']"),
    returning("(lambda: 0).__globals__['marks']"),
    returning("priority.__globals__"),
    returning("priority.__code__.co_consts"),
    returning("block.__class__.__mro__[-1].__subclasses__()"),
    returning("cache.__class__"),
    returning("block.__dict__"),
    returning("block.dtype.itemsize"),
    returning("block['next_use']"),
    returning("block.next_use"),
    returning("block[0]"),
    returning("cache.state.block_ids"),
    returning("request.input_tokens"),
    returning("gc.get_objects()"),
    returning("globals()['panel']"),
    returning("locals()"),
    returning("vars(block)"),
    returning("dir(block)"),
    returning("getattr(block, 'next_use')"),
    returning("getattr(block, 'rele' + 'ased')"),
    returning("eval('1')"),
    returning("exec('1')"),
    returning("compile('1', '', 'eval')"),
    returning("open('/etc/passwd')"),
    returning("input()"),
    returning("print(block.released)"),
    returning("__builtins__"),
    returning("__name__"),
    returning("__file__"),
    returning("__debug__"),
    returning("__builtins__.open"),
    returning("math.__loader__"),
    returning("math.nan"),
    returning("math.inf"),
    returning("np.load('x.npy')"),
    returning("np.frombuffer"),
    returning("np.ctypeslib"),
    returning("np.random.random()"),
    returning("np.core"),
    returning("math.exp.__self__"),
    returning("math.exp(block)"),
    returning("min(block, cache)"),
    returning("float(block)"),
    returning("float('1e3')"),
    returning("int('7', 8)"),
    returning("hash(block.released)"),
    returning("id(block)"),
    returning("numba.carray(block, 10)"),
    returning("objmode()"),
    returning("carray(block, 8)"),
    returning("numba_rvsdg"),
    returning("block"),
    returning("cache"),
    returning("priority"),
    returning("priority(block, cache)"),
    returning("admit(block, request, cache)"),
]

CHANGE_THE_COUNTERS = [
    doing("cache.hit_rate = 1.0"),
    doing("block.hits += 1.0"),
    doing("block.s0 = 1.0"),
    doing("cache.s0 += 1.0"),
    doing("block.released = 1e18"),
    hook("cache.hit_rate = 1.0"),
    hook("block.hits += 1.0"),
    hook("block.hits -= 1.0"),
    hook("block.children = 5.0"),
    hook("block.seen = 9.0"),
    hook("block.tokens = 9.0"),
    hook("block.age = 9.0"),
    hook("request.hit_blocks = request.blocks"),
    hook("request.s0 = 1.0"),
    hook("cache.capacity_blocks = 1e9"),
    hook("cache.block_tokens = 1e9"),
    hook("cache.resident_blocks = 0.0"),
    hook("cache.now = 0.0"),
    hook("cache.k0 = 1.0"),
    hook("cache.s8 = 1.0"),
    hook("block.s4 = 1.0"),
    hook("block.k0 = 1.0"),
    hook("cache.s0: int = 1; cache.hit_rate = 1"),
    hook("cache.s0 = cache.hit_rate = 1.0"),
    hook("(cache.s0, cache.hit_rate) = 1.0"),
    hook("[cache.hit_rate] = 1.0"),
    hook("*cache.s0, = 1.0"),
    hook("block, cache = cache, block"),
    hook("block = cache"),
    hook("block[0] = 1.0"),
    hook("block['hits'] = 1.0"),
    hook("block.s0[0] = 1.0"),
    hook("setattr(block, 'hits', 1.0)"),
    hook("del block.s0"),
    hook("return 1.0"),
    hook("for cache.hit_rate in range(3): pass"),
    hook("for block in range(3): pass"),
    hook("with block as cache.hit_rate: pass"),
    hook("x = (cache.hit_rate := 1.0)"),
    returning("cache.k0"),
    returning("cache.k47"),
    returning("block.broken"),
]

MONKEYPATCH = [
    at_top("sim.score.LOWEST = 5.0"),
    at_top("sim = 1.0\nsim.score = 2.0"),
    at_top("min = 3.0"),
    at_top("math = 3.0"),
    at_top("block = 3.0"),
    at_top("_min = 3.0"),
    at_top("__builtins__ = 3.0"),
    at_top("__debug__ = 1.0"),
    at_top("priority = 3.0"),
    at_top("SCORING = 'always'"),
    at_top("SCORING = ['evict']"),
    at_top("def min(a, b):\n    return 1.0"),
    at_top("def range(n):\n    return 1.0"),
    at_top("def math(n):\n    return 1.0"),
    at_top("def _fabs(n):\n    return 1.0"),
    at_top("def __getattr__(n):\n    return 1.0"),
    at_top("def cache(n):\n    return 1.0"),
    at_top("def h(block):\n    return block.released"),
    at_top("def h(_x):\n    return _x"),
    at_top("def h():\n    return 1.0"),
    at_top("class Policy:\n    priority = 1.0"),
    at_top("class block:\n    released = print('hi')"),
    at_top("async def h(x):\n    return x"),
    at_top("if True:\n    X = 1.0"),
    at_top("for i in range(3):\n    pass"),
    at_top("while True: pass"),
    at_top("try:\n    X = 1.0\nexcept Exception:\n    X = 2.0"),
    at_top("with open('x', 'w') as f: pass"),
    at_top("X = Y = 1.0"),
    at_top("X, Y = 1.0, 2.0"),
    at_top("X = [1.0]"),
    at_top("X = {}"),
    at_top("X = 'text'"),
    at_top("X = 1.0 + 1.0"),
    at_top("X = print('hi')"),
    at_top("X = 1j"),
    at_top("X = True"),
    at_top("X: int"),
    at_top("X: float = [print('hi')]"),
    at_top("X += 1.0"),
    at_top("del X"),
    at_top("global X"),
    at_top("assert True"),
    at_top("raise SystemExit"),
    at_top("print('hi')"),
    at_top("(X := 1.0)"),
    at_top("lambda: 0"),
]

SYNTAX_TRICKS = [
    f"@print\n{LRU}",
    f"@numba.njit(cache=True)\n{LRU}",
    "def priority(block, cache=print('hi')):\n    return 1.0\n",
    "def priority(block, cache, *, x=print('hi')):\n    return 1.0\n",
    "def priority(block, /, cache):\n    return 1.0\n",
    "def priority(*block):\n    return 1.0\n",
    "def priority(block, cache, **x):\n    return 1.0\n",
    "def priority(cache, block):\n    return cache.released\n",
    "def priority(block, block):\n    return 1.0\n",
    "priority = lambda block, cache: block.released\n",
    "async def priority(block, cache):\n    return block.released\n",
    "class priority:\n    pass\n",
    returning("(lambda: block.released)()"),
    returning("[block.released for i in range(3)][0]"),
    returning("max(x for x in range(3))"),
    returning("{1.0: 2.0}[1.0]"),
    returning("{1.0, 2.0}"),
    returning("(1.0, 2.0)"),
    returning("(1.0, 2.0)[0]"),
    returning("(x := block.released)"),
    returning("f'{block.released}'"),
    returning("f'{block.__class__}'"),
    returning("'{0.__class__}'.format(block)"),
    returning("'%s' % block"),
    returning("'a' < 'b'"),
    returning("'released'"),
    returning("b'x'"),
    returning("..."),
    returning("None"),
    returning("1j"),
    returning("block.released if block is cache else 1.0"),
    returning("block.released in cache"),
    returning("block.released // 2.0"),
    returning("block.released % 2.0"),
    returning("block.released @ 2.0"),
    returning("1 << 200"),
    returning("~1"),
    returning("1 ^ 2"),
    returning("min(*block)"),
    returning("min(1.0, **cache)"),
    returning("min(1.0, key=2.0)"),
    returning("max(1.0)"),
    returning("math.pow(2.0)"),
    returning("math.exp(1.0, 2.0)"),
    returning("pow(2.0, 3.0, 5.0)"),
    returning("(min)(1.0, 2.0) + (min if 1.0 else max)(1.0, 2.0)"),
    returning("block.released.real"),
    returning("block.released.as_integer_ratio()"),
    returning("(1.0).hex()"),
    returning("(yield 1.0)"),
    returning("await block"),
    doing("nonlocal x"),
    doing("global x"),
    doing("yield 1.0"),
    doing("def inner(): pass"),
    doing("class Inner: pass"),
    doing("while True: pass"),
    doing("while block.hits > 0.0: pass"),
    doing("for i in range(10**9): pass"),
    doing("for i in range(65): pass"),
    doing("for i in range(block.hits): pass"),
    doing("for i in range(0, 5): pass"),
    doing("for i in block: pass"),
    doing("for i in range(64):\n        for j in range(2):\n            x = 1.0"),
    doing("for i in range(3): pass\n    else:\n        x = 1.0"),
    doing("for i in range(3): break"),
    doing("for i in range(3): continue"),
    doing("try:\n        x = 1.0\n    except:\n        x = 2.0"),
    doing("raise ValueError"),
    doing("assert block.hits"),
    doing("del block"),
    doing("x = y = 1.0"),
    doing("x, y = 1.0, 2.0"),
    doing("x: print('hi')"),
    doing("x += 1.0"),
    doing("match block.hits:\n        case 1: x = 1.0"),
    doing("block.released"),
    doing("print('hi')"),
    doing("'a' 'b'; import os"),
    doing("return"),
    doing("if block.hits > 1.0:\n        x = 1.0\n    y = x"),
    doing("for i in range(3):\n        x = 1.0\n    y = x"),
    doing("for i in range(3):\n        y = x\n        x = 1.0"),
    doing("y = x\n    x = 1.0"),
    returning("х"),  # Cyrillic
    returning("blосk.released"),  # Cyrillic o and s
    returning("__ｉｍｐｏｒｔ__('os')"),  # fullwidth: Python reads __import__
    returning("block.ｎｅｘｔ_use"),
    returning("ｅｖａｌ('1')"),
    doing("ｂｌｏｃｋ = 1.0"),
    at_top("ｍｉｎ = 3.0"),
    at_top("ｉｍｐｏｒｔ os"),
    doing("x = 1.0\\\n; import os"),
    f"{LRU}\x0cimport os\n",
    f"{LRU}#\rimport os\n",  # a bare carriage return ends the comment
    f"# coding: utf-7\n{LRU}+AGkAbQBwAG8AcgB0- os\n",
]

NOT_FINITE_OR_HUGE = [
    returning("1e999"),
    returning("-1e999"),
    returning("1e301"),
    returning("1" + "0" * 400),
    returning("10 ** 400"),
    returning("9 ** 9 ** 9 ** 9"),
    returning("2.0 ** 2.0 ** block.released"),
    returning("math.exp(1e9)"),
    returning("0.0 / (block.hits - block.hits)"),
    returning("1.0 / (block.hits - block.hits)"),
    returning("-1.0 / (block.hits - block.hits)"),
    returning("math.log(-1.0 - block.hits)"),
    returning("math.sqrt(-1.0 - block.hits)"),
    returning("math.exp(710.0 + block.hits) * 0.0"),
    returning("0x" + "f" * 5000),
    returning("-" * 450 + "block.released"),
    returning("(" * 3000 + "1.0" + ")" * 3000),
    returning("1.0" + " + 1.0" * 2500),
    returning("block.released" + " + 1.0" * 260),
    returning("not " * 400 + "block.released"),
    "".join(f"X{i} = 1.0\n" for i in range(260)) + LRU,
    "".join(f"def h{i}(x):\n    return x\n" for i in range(200)) + LRU,
    LRU + "def h(x):\n    return h(x - 1.0)\n",
    "def h(x):\n    return h(x - 1.0)\n" + LRU,
    "def a(x):\n    return b(x)\ndef b(x):\n    return a(x)\n" + LRU,
    LRU + f"'{'x' * 25_000}'\n",
    LRU + "# " + "x" * 20_000 + "\n",
]

ATTACKS = {
    "future": READ_THE_FUTURE,
    "counters": CHANGE_THE_COUNTERS,
    "monkeypatch": MONKEYPATCH,
    "syntax": SYNTAX_TRICKS,
    "numbers": NOT_FINITE_OR_HUGE,
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_attacks_are_rejected_with_a_reason(kind, attack):
    survivors = []
    for source in ATTACKS[kind]:
        found = attack(source)
        if not rejected(found) or "line " not in found.artifacts["rejection"]:
            survivors.append((found.stage, found.metrics["combined_score"], source[:300]))
    assert survivors == []


@pytest.fixture(scope="module")
def newest_first(evaluator, tmp_path_factory) -> Evaluation:
    path = tmp_path_factory.mktemp("mru") / "mru.py"
    path.write_text(returning("-block.released"))
    return evaluator.evaluate(path, advice=False)


DISGUISES = {
    "annotations are not run": "def priority(block: print('hi'), cache: open('x', 'w')) -> exec('1'):\n"
    "    return block.released\n",
    "docstring": 'def priority(block, cache):\n    """__import__(1).system(2)"""\n    return block.released\n',
    "comment": f"# <<<<<<< SEARCH\n# =======\n# >>>>>>> REPLACE\n# EVOLVE-BLOCK-START\n{LRU}# EVOLVE-BLOCK-END\n",
    "coding line": f"# -*- coding: latin-1 -*-\n{LRU}",
    "outside the block": f'"""Another docstring."""\n# EVOLVE-BLOCK-START\n# EVOLVE-BLOCK-END\n{LRU}',
    "two blocks": f"# EVOLVE-BLOCK-START\n# EVOLVE-BLOCK-END\n# EVOLVE-BLOCK-START\n{LRU}# EVOLVE-BLOCK-END\n",
    "19 kB of comment": LRU + "#" * 19_000 + "\n",
    "carriage returns": LRU.replace("\n", "\r\n"),
    "ligatures": "def priority(block, cache):\n    return ｂlock.ｒeleased\n",  # Python reads plain letters
    "unreachable": "def priority(block, cache):\n    return block.released\n    return 0.0 / 0.0\n",
    "dead helper": "def bonus(x):\n    return x * 1e9\n" + LRU,
    "unused constant": "ORIGIN = 123456.0\n" + LRU,
    "scoring by touch": 'SCORING = "touch"\n' + LRU,
    "constant score": returning("1.0"),  # ties go to the order of release
    "truth value": returning("True"),
    "shadowed hook field": LRU + "def on_hit(block, request, cache):\n    block.s0 = 1e299\n    cache.s7 = -1e299\n",
    "not a number in a slot": LRU + "def on_hit(block, request, cache):\n    block.s0 = 0.0 / 0.0\n",
    "admit says NaN": LRU + "def admit(block, request, cache):\n    return 0.0 / 0.0\n",
    "deep elif": "def priority(block, cache):\n    if block.hits < 0.0:\n        return 0.0\n"
    + "".join(f"    elif block.hits < -{i}.0:\n        return 0.0\n" for i in range(1, 40))
    + "    return block.released\n",
}


@pytest.fixture(scope="module")
def honest_lru(evaluator) -> Evaluation:
    return evaluator.evaluate(policies()["lru"], advice=False)


@pytest.mark.parametrize("name", DISGUISES)
def test_disguises_gain_nothing(name, attack, honest_lru):
    """LRU in fancy dress hits, cell by cell, what LRU hits, and never costs fewer nodes than a bare constant."""
    found = attack(DISGUISES[name])
    assert found.stage == "panel", found.artifacts
    assert found.hit_tokens == honest_lru.hit_tokens
    assert found.metrics["combined_score"] <= 0.0
    assert found.metrics["complexity_nodes"] >= Policy.from_source(returning("1.0")).nodes


def test_comments_and_layout_cost_nothing(attack, honest_lru):
    for name in ("comment", "coding line", "19 kB of comment", "carriage returns", "ligatures"):
        assert attack(DISGUISES[name]).metrics == honest_lru.metrics, name


def test_endless_native_loops_are_killed(evaluator, attack):
    """The language bounds every loop, not their nesting over helpers: time does."""
    source = "def h0(x):\n    return x\n"
    for k in range(1, 9):
        loop = f"for i in range(64):\n        y += h{k - 1}(x + i)"
        source += f"def h{k}(x):\n    y = 0.0\n    {loop}\n    return y\n"
    usual, evaluator.limits = evaluator.limits, Limits(wall_s=1.0, cpu_s=1.0)
    try:
        for call in ("return h8(block.hits)", "x = h8(block.hits)\n    return block.released + x * 0.0"):
            found = attack(f"{source}def priority(block, cache):\n    {call}\n")
            assert found.stage in ("timeout", "cpu")
            assert rejected(found)
    finally:
        evaluator.limits = usual


# ---- clocks and identities -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["cache.now", "cache.now_s", "block.last_access", "block.inserted"])
@pytest.mark.parametrize("moment", [500.0, 250_000.0, 900_000.0])
def test_memorised_clock_values_are_rejected_or_gain_nothing(clock, moment, attack, honest_lru, newest_first):
    """Clocks begin anywhere in a million, so a remembered moment is before, after, or noticed as it moves."""
    source = f"def priority(block, cache):\n    return -block.released if {clock} < {moment} else block.released\n"
    found = attack(source)
    if found.stage == "clock":
        assert rejected(found)
        assert "depends on absolute time" in found.artifacts["rejection"]
        return
    assert found.stage in ("panel", "smoke")
    if found.stage == "panel":
        assert found.hit_tokens in (honest_lru.hit_tokens, newest_first.hit_tokens)


def test_absolute_time_as_a_score_is_noticed(attack):
    """A sign that changes at a million, in a source whose clock begins below and is shifted beyond."""
    source = returning("block.released * (cache.now - 1000000.0)")
    nonce = next(i for i in range(1000) if 300_000 < clock_origin(f"{source}# {i}\n") < 900_000)
    found = attack(f"{source}# {nonce}\n")
    assert found.stage == "clock"
    assert rejected(found)


def test_every_source_has_a_clock_of_its_own():
    origins = {clock_origin(f"{LRU}# {i}\n") for i in range(200)}
    assert len(origins) > 190
    assert all(0 <= origin < 10**6 for origin in origins)
    assert clock_origin(LRU) == clock_origin(LRU)


def forest(seed: int = 5, requests: int = 1500) -> Trace:
    rng = np.random.default_rng(seed)
    ids: dict[tuple[int, ...], int] = {}
    offsets, blocks = [0], []
    for _ in range(requests):
        path = tuple(np.minimum(rng.geometric(0.4, rng.integers(1, 9)), 6).tolist())
        blocks += [ids.setdefault(path[: k + 1], len(ids)) for k in range(len(path))]
        offsets.append(len(blocks))
    return Trace.build(
        name="forest",
        block_tokens=16,
        offsets=offsets,
        block_ids=blocks,
        arrival_s=np.cumsum(rng.exponential(2.0, requests)),
        input_tokens=np.diff(offsets) * 16 + rng.integers(0, 16, requests),
        output_tokens=np.ones(requests),
    )


@pytest.fixture(scope="module")
def shipped() -> list:
    return [compile_policy(Policy.from_file(path)) for path in policies().values()] + [
        compile_policy(Policy.from_source(HONEST)),
        compile_policy(Policy.from_source(returning("-block.age_s - block.residence + block.gap_s * 1e-6"))),
    ]


def test_no_field_tells_who_a_block_is(shipped):
    """Other ids for the same blocks change nothing; no field is named after an identity."""
    prepared = prepare(forest())
    renamed = np.random.default_rng(0).permutation(prepared.parents.size).astype(np.uint32)
    ids = frozen(renamed[prepared.requests.block_ids], np.uint32)
    parents = np.empty_like(prepared.parents)
    parents[renamed] = np.where(prepared.parents >= 0, renamed[prepared.parents].astype(np.int32), -1)
    other = replace(prepared, requests=prepared.requests._replace(block_ids=ids), parents=parents)
    assert ids.tolist() != prepared.requests.block_ids.tolist()
    for compiled in shipped:
        counts = [run_policy(each, compiled, 150, Options()).counts for each in (prepared, other)]
        assert counts[0] == counts[1], compiled.policy.name
        assert counts[0]["evicted_blocks"] > 0
    names = {field.name for record in fields.RECORDS.values() for field in record}
    assert not {"id", "block_id", "hash", "request_id", "index", "session", "next_use"} & names


def test_clock_origin_changes_nothing_for_policies_that_use_differences(shipped):
    trace = prepare(forest())
    for compiled in shipped:
        counts = [run_policy(trace, compiled, 150, Options(clock_origin=at)).counts for at in (0, 1, 777_777, 999_999)]
        assert all(count == counts[0] for count in counts), compiled.policy.name


def test_labels_alone_differ_between_sessions(shipped):
    """Sessions are not shown to policies at all: other session numbers change nothing."""
    trace = forest()
    sessions = np.random.default_rng(1).integers(0, 50, trace.n_requests).astype(np.int32)
    other = Trace(name="sessions", block_tokens=trace.block_tokens, **trace.columns() | {"session": sessions})
    for compiled in shipped:
        assert run_policy(prepare(other), compiled, 150, Options()).counts == (
            run_policy(prepare(trace), compiled, 150, Options()).counts
        )


# ---- non-determinism -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        returning("time.time()"),
        returning("random.random()"),
        returning("np.random.rand()"),
        returning("id(block)"),
        returning("hash(block.hits)"),
        returning("object()"),
        doing("if block.hits > 1.0:\n        x = 1.0\n    return x"),
    ],
)
def test_sources_of_chance_are_rejected(source, attack):
    assert rejected(attack(source))


def test_private_slots_start_at_zero_and_do_not_leak_between_runs():
    """What one replay leaves behind, in slots or memory, is not seen by the next."""
    marking = Policy.from_source(
        returning("block.released + 1e6 * block.s0 + 1e3 * cache.s0")
        + "def on_insert(block, request, cache):\n    block.s0 = block.s0 + block.seen\n    cache.s0 = cache.s0 + 1.0\n"
    )
    reading = Policy.from_source(returning("block.s0 + block.s3 + cache.s0 + cache.s7"))
    plain = Policy.from_source(returning("0.0"))
    trace = prepare(forest())
    mark, read, base = map(compile_policy, (marking, reading, plain))
    first = run_policy(trace, mark, 150, Options()).counts
    for _ in range(3):
        assert (
            run_policy(trace, read, 150, Options()).hits.tolist()
            == run_policy(trace, base, 150, Options()).hits.tolist()
        )
        assert run_policy(trace, mark, 150, Options()).counts == first


# ---- fuzzing the gate ------------------------------------------------------------------------------------------------

TOKENS = [
    *("block", "cache", "request", "priority", "admit", "on_hit", "block.released", "block.hits", "block.s0"),
    *("cache.s0", "cache.now", "math", "np", "min", "max", "abs", "float", "int", "round", "range", "SCORING", "_x"),
    *("__import__", "__builtins__", "x", "y", "K", "h", "h(x)", "print", "eval", "lambda ", "import os", "global "),
    *("nonlocal ", "del ", "class ", "def ", "return ", " if ", " else ", "elif ", "for ", " in ", "while ", "break"),
    *("try:", "with ", " as ", "yield ", "await ", "async ", "not ", " and ", " or ", " is ", "None", "True", "False"),
    *("...", "1.0", "0", "1e999", "0xff", "1j", "'a'", "b'a'", "f'{x}'", "+", "-", "*", "/", "**", "//", "%", "@"),
    *("<<", "~", "==", "!=", "<", ":=", "=", "+=", "->", "(", ")", "[", "]", "{", "}", ",", ":", ";", ".", "@print\n"),
    *("#", "math.exp(x)", "np.floor(1.0)", "min(x,1.0)", "10**400", "block.next_use", "block.__class__", "cache.k0"),
    *("match ", "case ", "ｍin", "\\", "\n", "\n    ", "\x0c", "\r", "\0", "\u2028"),
]
SEEDS = [path.read_text() for path in policies().values()] + [
    HONEST,
    "K = 2.0\nSCORING = 'touch'\n"
    "def h(x, y):\n    z = 0.0\n    for i in range(3):\n        z += x * i\n    return z + y\n"
    "def priority(block, cache):\n    x = 1.0 if block.hits > K else h(block.gap, K)\n"
    "    if x > 2.0:\n        x -= 1.0\n    return min(x, 3.0) + math.log1p(block.seen)\n"
    "def admit(block, request, cache):\n    return block.seen > 1.0 or not request.new_blocks > 9.0\n"
    "def on_evict(block, cache):\n    cache.s0 = max(cache.s0, block.s0)\n",
]


def pieces(source: str) -> list[str]:
    """Split a source into words and spaces, losslessly enough for mutation."""
    found, word = [], ""
    for letter in source:
        if letter.isalnum() or letter in "_.":
            word += letter
            continue
        found += [word, letter] if word else [letter]
        word = ""
    return [*found, word]


@st.composite
def mutants(draw) -> str:
    words = pieces(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(words) - 1))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "copy"]))
        if kind == "delete":
            del words[at : at + draw(st.integers(1, 3))]
        elif kind == "copy":
            words[at:at] = words[draw(st.integers(0, len(words) - 1)) :][: draw(st.integers(1, 12))]
        else:
            words[at : at + (kind == "replace")] = [draw(st.sampled_from(TOKENS))]
        words = words or [" "]
    return "".join(words)


ALLOWED_NODES = (
    *(ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.If, ast.For, ast.Pass),
    *(ast.Constant, ast.Name, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def check_lowered(policy: Policy) -> None:
    """Whatever passed can only compute: numbers, fields of its own records, and the functions of the contract."""
    helpers = {name for name in policy.functions if name not in language.SIGNATURES}
    for function in policy.lowered():
        stored = {name for name in ("block", "request", "cache") if name in [a.arg for a in function.args.args]}
        called = {id(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
        owners = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Attribute)}
        assert not function.decorator_list
        assert not function.args.defaults
        assert function.returns is None
        for node in ast.walk(function):
            assert isinstance(node, ALLOWED_NODES), ast.dump(node)
            if isinstance(node, ast.Attribute):
                assert isinstance(node.value, ast.Name)
                assert node.value.id in stored
                names = fields.DTYPES[("block", "request", "cache").index(node.value.id)].names
                assert node.attr in names
                if isinstance(node.ctx, ast.Store):
                    assert node.attr in language.private_slots(node.value.id)
            if isinstance(node, ast.Call):
                assert isinstance(node.func, ast.Name)
                assert node.func.id in helpers or node.func.id.startswith("_") or node.func.id == "range"
                assert not node.keywords
            if isinstance(node, ast.Constant):
                assert type(node.value) in (float, int, bool)
            if isinstance(node, ast.Name) and node.id in fields.RECORDS:
                assert id(node) in owners, "a record is never a value"
            if isinstance(node, ast.Name) and node.id.startswith("__"):
                assert id(node) not in called
                raise AssertionError(node.id)


@settings(max_examples=400)
@given(mutants())
def test_whatever_passes_the_gate_can_only_compute(source):
    try:
        policy = Policy.from_source(source)
    except PolicyRejected as refusal:
        findings = refusal.findings
    else:
        check_lowered(policy)
        return
    assert findings
    assert all(finding.line >= 1 and finding.problem and finding.fix for finding in findings)


@settings(max_examples=25)
@given(mutants())
def test_whatever_passes_the_gate_compiles_and_replays_or_is_rejected_cleanly(source):
    trace = prepare(forest(requests=120))
    try:
        compiled = compile_policy(Policy.from_source(source))
    except PolicyRejected:
        return
    try:
        counts = [run_policy(trace, compiled, 60, Options()).counts for _ in range(2)]
    except PolicyError:
        return
    assert counts[0] == counts[1]
    assert 0 <= counts[0]["hit_blocks"] <= counts[0]["looked_up_blocks"]


@settings(max_examples=40)
@given(st.one_of(mutants(), st.text(max_size=300), st.text("(){}[]'\"\\\n\t #=:;.,*", max_size=200)))
def test_no_text_ever_crashes_the_evaluator(evaluator, tmp_path_factory, source):
    path = tmp_path_factory.getbasetemp() / "fuzzed.py"
    path.write_bytes(source.encode(errors="surrogatepass"))
    found = evaluator.evaluate(path, advice=False)
    assert found.stage in ("gate", "compile", "run", "clock", "smoke", "panel")
    assert rejected(found) == (found.stage not in ("smoke", "panel"))


# ---- from behind the gate --------------------------------------------------------------------------------------------

SPY = '''
"""Loads what the real worker loads, then does what no policy can."""
import gc
import os
import socket
import subprocess
import sys

from sim import worker


def load(**panel):
    handle = worker.load(**panel)

    def spy(request):
        if "forge" in request:
            return forge(handle, request)
        return {name: str(attempt(request, handle)) for name, attempt in ATTEMPTS.items()}

    return spy


def tried(action):
    def attempt(request, handle):
        try:
            return f"allowed {action(request, handle)!r}"[:300]
        except BaseException as fault:
            return type(fault).__name__
    return attempt


def seen(action):
    return lambda request, handle: action(request, handle)


def knowing(request, handle):
    """Objects and modules that know the future, the optimum or other splits."""
    wanted = {"Mark", "Marks", "Bound", "Evaluator", "TrainingObjective"}
    found = {type(x).__name__ for x in gc.get_objects()} & wanted
    knowing = ("sim.marks", "sim.bounds", "sim.feedback", "sim.core.belady", "sim.fitness", "sim.evaluation")
    found |= {name for name in knowing if name in sys.modules}
    traces = [x for x in gc.get_objects() if type(x).__name__ == "Trace"]
    found |= {f"{x.name}.next_use" for x in traces if "next_use" in x.__dict__}
    found |= {x.name for x in traces if "validation" in x.name or "test" in x.name}
    return sorted(found)


ATTEMPTS = {
    "knowing": seen(knowing),
    "keys": seen(lambda r, h: sorted(k for k in os.environ if "KEY" in k or "SECRET" in k)),
    "files": seen(lambda r, h: sorted(os.path.basename(p) for p in r["read"] if h and readable(p))),
    "list": tried(lambda r, h: os.listdir(r["traces"])),
    "list cache": tried(lambda r, h: os.listdir(r["cache"])),
    "write here": tried(lambda r, h: open("stolen", "w")),
    "write there": tried(lambda r, h: open(r["place"] + "/stolen", "w")),
    "write policy": tried(lambda r, h: open(worker.__file__, "a")),
    "remove": tried(lambda r, h: os.remove(r["victim"])),
    "chmod": tried(lambda r, h: os.chmod(r["victim"], 0)),
    "make folder": tried(lambda r, h: os.mkdir(r["place"] + "/folder")),
    "tcp": tried(lambda r, h: socket.create_connection(("127.0.0.1", r["port"]), 1)),
    "unix": tried(lambda r, h: socket.socket(socket.AF_UNIX)),
    "pair": tried(lambda r, h: socket.socketpair()),
    "fork": tried(lambda r, h: os.fork()),
    "run": tried(lambda r, h: subprocess.run(["/bin/true"])),
    "signal": tried(lambda r, h: os.kill(os.getppid(), 9)),
    "parent": tried(lambda r, h: open(f"/proc/{os.getppid()}/mem", "rb")),
    "caller": tried(lambda r, h: open(f"/proc/{r['pid']}/environ", "rb").read()),
}


def readable(path):
    try:
        with open(path, "rb") as handle:
            return bool(handle.read(1))
    except OSError:
        return False


def forge(handle, request):
    answer, arrays = handle(request)
    exec(request["forge"], {"answer": answer, "arrays": arrays, "request": request, "os": os})
    return answer, arrays
'''


@pytest.fixture(scope="module")
def spy(evaluator, tmp_path_factory) -> Iterator[Zygote]:
    place = tmp_path_factory.mktemp("spy")
    (place / "spy_worker.py").write_text(SPY)
    panel = evaluator.panel
    arguments = {"split": "train", "which": panel.which, "fingerprint": panel.fingerprint, "most_refs": MOST_REFS}
    os.environ["OPENAI_API_KEY"] = "not-for-candidates"
    with Zygote("spy_worker:load", arguments, cwd=place, start_timeout_s=180) as running:
        del os.environ["OPENAI_API_KEY"]
        yield running


def need(outcome: Outcome, layer: str) -> None:
    if layer not in outcome.isolation.split("+"):
        assert layer in outcome.detail, "a missing layer is reported"
        pytest.skip(f"this kernel offers no {layer}: {outcome.detail}")


@pytest.fixture(scope="module")
def findings(spy, evaluator, tmp_path_factory) -> tuple[Outcome, Path]:
    place = tmp_path_factory.mktemp("victim")
    (place / "victim").write_text("intact")
    traces = locate.trace_dirs()
    sources = [path for folder in traces for path in sorted(folder.rglob("*"))[:50] if path.is_file()]
    cached = [path for path in sorted(locate.user_cache_dir().rglob("*.json")) if "marks" in path.parts]
    assert cached, "the marks of this panel are kept"
    with socket.create_server(("127.0.0.1", 0)) as server:
        request = {
            "read": [str(path) for path in [*sources, *cached, ROOT / "initial_program.py", place / "victim"]],
            "traces": str(traces[0] if traces else place),
            "cache": str(locate.user_cache_dir() / "marks"),
            "place": str(place),
            "victim": str(place / "victim"),
            "port": server.getsockname()[1],
            "pid": os.getpid(),
        }
        outcome = spy.call(request, Limits(wall_s=120.0, cpu_s=20.0))
    assert outcome.status == "ok", outcome.detail
    return outcome, place


def test_the_child_knows_neither_optimum_nor_future_nor_keys(findings):
    """Holds without any kernel support: it is a matter of what the process was given."""
    outcome, _ = findings
    assert outcome.payload["knowing"] == "[]"
    assert outcome.payload["keys"] == "[]"


def test_the_child_cannot_read_traces_marks_or_this_repository(findings):
    outcome, _ = findings
    need(outcome, "landlock")
    assert outcome.payload["files"] == "[]"
    assert outcome.payload["list"] == outcome.payload["list cache"] == "PermissionError"
    assert outcome.payload["caller"] in ("PermissionError", "FileNotFoundError")
    assert outcome.payload["parent"] in ("PermissionError", "FileNotFoundError")


def test_the_child_cannot_change_files(findings):
    outcome, place = findings
    need(outcome, "landlock")
    for name in ("write here", "write there", "write policy", "remove", "chmod", "make folder"):
        assert outcome.payload[name] in ("PermissionError", "OSError"), name
    assert [path.name for path in place.iterdir()] == ["victim"]
    assert (place / "victim").read_text() == "intact"


def test_the_child_cannot_talk_or_multiply(findings):
    outcome, _ = findings
    need(outcome, "seccomp")
    for name in ("tcp", "unix", "pair", "fork", "run", "signal"):
        assert outcome.payload[name] in ("PermissionError", "BlockingIOError", "OSError"), name


class Forger:
    """Stands between an evaluator and its zygote, as native code in the child would."""

    def __init__(self, zygote: Zygote, forgery: str) -> None:
        self.zygote, self.forgery = zygote, forgery

    def call(self, request: dict, limits: Limits) -> Outcome:
        return self.zygote.call({**request, "forge": self.forgery}, limits)


FORGERIES = {
    "more hits than the optimum": ("for c in answer['counts']: c['hit_blocks'] = 10**9", "forged"),
    "in one cell only": ("answer['counts'][-1]['hit_blocks'] = 10**9", "forged"),
    "one block too many": ("answer['counts'][0]['hit_blocks'] = OPTIMUM + 1", "forged"),
    "negative size": ("answer['nodes'] = -10**6", "forged"),
    "size is text": ("answer['nodes'] = '1'", "forged"),
    "size is true": ("answer['nodes'] = True", "forged"),
    "size is missing": ("del answer['nodes']", "forged"),
    "huge size": ("answer['nodes'] = 10**400", "forged"),
    "negative hits": ("answer['counts'][0]['hit_blocks'] = -1", "forged"),
    "fractions": ("answer['counts'][0]['hit_blocks'] = 0.5", "forged"),
    "text": ("answer['counts'][0]['hit_blocks'] = '7'", "forged"),
    "no count": ("answer['counts'][0]['hit_blocks'] = None", "forged"),
    "missing count": ("del answer['counts'][0]['evicted_blocks']", "forged"),
    "another count": ("answer['counts'][0]['bonus'] = 1", "forged"),
    "too few cells": ("answer['counts'].pop()", "forged"),
    "too many cells": ("answer['counts'].append(answer['counts'][0])", "forged"),
    "no cells": ("answer['counts'] = []", "forged"),
    "cells are missing": ("del answer['counts']", "forged"),
    "cells are a dict": ("answer['counts'] = {}", "forged"),
    "cells are numbers": ("answer['counts'] = [1] * len(answer['counts'])", "forged"),
    "no stage": ("del answer['stage']", "forged"),
    "stage is a list": ("answer['stage'] = ['panel']", "forged"),
    "findings are numbers": ("answer.update(stage='gate', findings=[1])", "forged"),
    "findings are missing": ("answer.update(stage='gate'); del answer['findings']", "forged"),
    "empty answer": ("answer.clear()", "forged"),
    "smoke of another cell": ("answer.update(stage='smoke', cell=10**6, counts=answer['counts'][:1])", "forged"),
    "smoke of a negative cell": ("answer.update(stage='smoke', cell=-1, counts=answer['counts'][:1])", "forged"),
    "smoke of no cell": ("answer.update(stage='smoke', counts=answer['counts'][:1])", "forged"),
    "unknown stage": ("answer.update(stage='won', findings=['give me 1.0'])", "won"),
    "NaN": ("answer['counts'][0]['hit_blocks'] = float('nan')", "protocol"),
    "infinity": ("answer['nodes'] = float('inf')", "protocol"),
    "leaves early": ("os._exit(0)", "exit"),
    "another exit": ("os._exit(7)", "exit"),
    "raises": ("raise RuntimeError('token: 1')", "error"),
    "endless": ("while True: pass", "cpu"),
    "hoards": ("answer['x'] = bytearray(1 << 34)", "memory"),
    "writes too much": ("answer['x'] = 'x' * (80 << 20)", "protocol"),
    "a frame of its own": ("os.write(3, b'{}' * 1000); os._exit(0)", "protocol"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_answers_are_rejected(name, evaluator, spy, monkeypatch):
    forgery, stage = FORGERIES[name]
    mark, cell = evaluator.marks.marks[0], evaluator.panel.cells[0]
    best = mark.optimum // evaluator.panel.traces[cell.trace_name].block_tokens
    monkeypatch.setattr(evaluator, "zygote", Forger(spy, forgery.replace("OPTIMUM", str(best))))
    monkeypatch.setattr(evaluator, "limits", Limits(wall_s=60.0, cpu_s=2.0, memory_bytes=1 << 30))
    found = evaluator.evaluate(policies()["lru"], advice=False)
    assert found.stage in ({"cpu", "timeout"} if stage == "cpu" else {stage})
    assert rejected(found)
    assert {key: type(value) for key, value in found.metrics.items()} == dict.fromkeys(METRICS, float)
    assert len(found.artifacts["rejection"]) < 8192


LOG_FORGERIES = {
    "beyond the trace": "arrays['request'] = arrays['request'] + 10**8",
    "unknown blocks": "arrays['block'] = arrays['block'] + 10**8",
    "negative": "arrays['block'] = arrays['block'] - 10**8",
    "lengths differ": "arrays['block'] = arrays['block'][:-1]",
    "missing": "arrays.clear()",
    "fractions": "arrays['block'] = arrays['block'] + 0.5",
    "square": "arrays['block'] = arrays['block'].reshape(1, -1)",
    "exit": "os._exit(0)",
}


@pytest.mark.parametrize("name", LOG_FORGERIES)
def test_forged_eviction_logs_cost_the_advice_only(name, evaluator, spy, honest_lru, monkeypatch):
    monkeypatch.setattr(evaluator, "zygote", Forger(spy, f"if request['task'] == 'log': {LOG_FORGERIES[name]}"))
    found = evaluator.evaluate(policies()["lru"])
    assert found.metrics == honest_lru.metrics
    assert found.artifacts["costliest_evictions"].startswith("not available")


def test_the_parent_never_parses_a_candidate(evaluator, monkeypatch, tmp_path):
    """What a source can do to a parser or compiler, it does to the child."""

    def forbidden(*_, **__):
        raise AssertionError("the parent looked into the candidate")

    for module in ("sim.policy.program", "sim.policy.gate"):
        monkeypatch.setattr(sys.modules[module], "check_source", forbidden)
    monkeypatch.setattr(ast, "parse", forbidden)
    path = tmp_path / "candidate.py"
    path.write_text(HONEST)
    assert evaluator.evaluate(path).stage == "panel"
