"""The policy language: what the gate refuses and why, and that both back ends compute the same."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import types
from small_traces import hand_trace, random_traces
from test_twin import NAMES, compiled, examples, random_source

from sim.core import fields
from sim.policy import language
from sim.policy.compiler import BLOCK, BY_BLOCK, CACHE, compile_policy, python_functions
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.prepared import prepare
from sim.registry import load_policy, policies
from sim.simulation import Options, PolicyError, run_policy, simulate

HEAD = "def priority(block, cache):\n"
ADMIT = HEAD + "    return 0.0\ndef admit(block, request, cache):\n"

REFUSED = [
    # source, line, problem, fix
    ("", 1, "no function `priority`", "define `def priority"),
    ("def priority(block, cache:\n", 1, "syntax error", "correct the syntax"),
    ("import os\n" + HEAD + "    return 0.0\n", 1, "imports are not allowed", "remove it"),
    ("from math import exp\n" + HEAD + "    return 0.0\n", 1, "imports are not allowed", "remove it"),
    ("X = [1]\n" + HEAD + "    return 0.0\n", 1, "`X` is not a number literal", "finite number"),
    ("X = Y = 1\n" + HEAD + "    return 0.0\n", 1, "only `NAME = number`", "one name"),
    ("X: float\n" + HEAD + "    return 0.0\n", 1, "has no value", "assign it a number"),
    ("X = 1e999\n" + HEAD + "    return X\n", 1, "not a number literal", "finite"),
    ("block = 1\n" + HEAD + "    return 0.0\n", 1, "name of the contract", "another name"),
    ('SCORING = "never"\n' + HEAD + "    return 0.0\n", 1, "SCORING", '"evict"'),
    ("class A:\n    pass\n" + HEAD + "    return 0.0\n", 1, "ClassDef is not allowed at the top level", "functions"),
    ("print(1)\n" + HEAD + "    return 0.0\n", 1, "Expr is not allowed at the top level", "keep only"),
    ("if True:\n    X = 1\n" + HEAD + "    return 0.0\n", 1, "If is not allowed at the top level", "keep only"),
    ("@staticmethod\n" + HEAD + "    return 0.0\n", 1, "decorators", "remove it"),
    ("def priority(block, cache, x=print(1)):\n    return 0.0\n", 1, "not plain", "positional"),
    ("def priority(block):\n    return 0.0\n", 1, "`priority` takes", "def priority(block, cache):"),
    (HEAD + "    return 0.0\n" + HEAD + "    return 1.0\n", 3, "defined twice", "one definition"),
    ("def helper(block):\n    return 0.0\n" + HEAD + "    return 0.0\n", 1, "must take numbers", "number parameters"),
    ("def _f(x):\n    return x\n" + HEAD + "    return 0.0\n", 1, "name of the contract", "another name"),
    (HEAD + "    while True:\n        pass\n    return 0.0\n", 2, "While is not allowed", "for … in range"),
    (HEAD + "    for i in range(1000):\n        pass\n    return 0.0\n", 2, "not bounded", "literal n"),
    (HEAD + "    for i in range(block.hits):\n        pass\n    return 0.0\n", 2, "not bounded", "literal n"),
    (
        HEAD + "    for i in range(60):\n        for j in range(60):\n            pass\n    return 0.0\n",
        3,
        "exceed",
        "smaller",
    ),
    (HEAD + "    x = 1.0\n", 1, "can end without returning", "every path"),
    (HEAD + "    if block.hits > 1.0:\n        return 1.0\n", 1, "can end without returning", "every path"),
    (HEAD + "    return\n", 2, "returns nothing", "return a number"),
    (HEAD + "    return block\n", 2, "`block` is used as a value", "one of its fields"),
    (HEAD + "    return blok.hits\n", 2, "outside the contract", "read fields of block, cache"),
    (HEAD + "    return block.hit\n", 2, "`block.hit` does not exist", "did you mean block.hits"),
    (HEAD + "    return block.next_use\n", 2, "does not exist", "block"),
    (
        HEAD + "    return 1.0\ndef admit(block, request, cache):\n    return block.output_tokens > 9\n",
        4,
        "not known before",
        "on_evict",
    ),
    (HEAD + "    return block.k0\n", 2, "does not exist", "block"),
    (HEAD + "    return cache.k0\n", 2, "does not exist", "cache"),
    (HEAD + "    return block.__class__\n", 2, "does not exist", "block"),
    (HEAD + "    return block.hits.real\n", 2, "outside the contract", "fields"),
    (HEAD + "    return request.blocks\n", 2, "outside the contract", "fields of block, cache"),
    (HEAD + "    return x\n", 2, "`x` may be undefined", "every path"),
    (HEAD + "    if block.hits > 1.0:\n        x = 1.0\n    return x\n", 4, "`x` may be undefined", "every path"),
    (HEAD + "    block.s0 = 1.0\n    return 0.0\n", 2, "cannot be assigned in `priority`", "on_hit"),
    (ADMIT + "    cache.s0 = 1.0\n    return True\n", 4, "cannot be assigned in `admit`", "on_hit"),
    (
        HEAD + "    return 0.0\ndef on_hit(block, request, cache):\n    block.hits = 9.0\n",
        4,
        "`block.hits` cannot be assigned",
        "block.s0",
    ),
    (HEAD + "    return 0.0\ndef on_evict(block, cache):\n    return 1.0\n", 4, "returns a value", "bare return"),
    (HEAD + "    block = 1.0\n    return block\n", 2, "`block` cannot be assigned", "another local name"),
    (HEAD + "    x, y = 1.0, 2.0\n    return x\n", 2, "cannot be assigned", "local name"),
    (HEAD + "    return open('x')\n", 2, "`open` cannot be called", "call min"),
    (HEAD + "    return eval('1')\n", 2, "cannot be called", "call min"),
    (HEAD + "    return math.sin(1.0)\n", 2, "`math.sin` cannot be called", "math.exp"),
    (HEAD + "    return min(1.0)\n", 2, "gets 1 arguments", "2 to 8"),
    (HEAD + "    return math.exp(1.0, 2.0)\n", 2, "gets 2 arguments", "1 to 1"),
    (HEAD + "    return max(*[1.0, 2.0])\n", 2, "positional", "by position"),
    (HEAD + "    return min(a=1.0, b=2.0)\n", 2, "positional", "by position"),
    (HEAD + "    return priority(block, cache)\n", 2, "", ""),
    (HEAD + "    return 'a'\n", 2, "not a number", "finite number"),
    (HEAD + "    return 1j\n", 2, "not a number", "finite number"),
    (HEAD + "    return 1e999\n", 2, "not a number", "finite number"),
    (HEAD + "    return [1.0][0]\n", 2, "Subscript is not allowed", "arithmetic"),
    (HEAD + "    return (lambda: 1.0)()\n", 2, "cannot be called", "helper"),
    (HEAD + "    return f'{block}'\n", 2, "JoinedStr is not allowed", "arithmetic"),
    (HEAD + "    return block.hits // 2.0\n", 2, "operator FloorDiv", "math.floor"),
    (HEAD + "    return block.hits @ 2.0\n", 2, "operator MatMult", "+ - * /"),
    (HEAD + "    return ~1\n", 2, "not allowed", "arithmetic"),
    (HEAD + "    return 1.0 if block.hits is 1.0 else 0.0\n", 2, "comparison", "<= >"),
    (HEAD + "    global X\n    return 0.0\n", 2, "Global is not allowed", "assignments"),
    (HEAD + "    def inner(x):\n        return x\n    return 0.0\n", 2, "FunctionDef is not allowed", "assignments"),
    (HEAD + "    try:\n        return 0.0\n    finally:\n        pass\n", 2, "Try is not allowed", "assignments"),
    (HEAD + "    return (yield)\n", 2, "Yield is not allowed", "arithmetic"),
    (HEAD + "    return (x := 1.0)\n", 2, "NamedExpr is not allowed", "arithmetic"),
    (HEAD + "    del block\n    return 0.0\n", 2, "Delete is not allowed", "assignments"),
    (HEAD + "    assert block.hits\n    return 0.0\n", 2, "Assert is not allowed", "assignments"),
    (HEAD + f"    return {' + '.join(['block.hits'] * 400)}\n", 1, "syntax nodes", "simplify"),
    ('SCORING = "touch"\n' + HEAD + "    return block.age\n", 3, "`block.age` is 0", "last_access"),
    ("# " + "x" * language.MAX_SOURCE_BYTES + "\n" + HEAD + "    return 0.0\n", 1, "exceeds", "shorten"),
    (HEAD + "    return " + "(" * 250 + "1.0" + ")" * 250 + "\n", 2, "syntax error", "correct the syntax"),
    (HEAD + "    return 0.0\0\n", 1, "", ""),
]


@pytest.mark.parametrize(("source", "line", "problem", "fix"), REFUSED, ids=range(len(REFUSED)))
def test_the_gate_names_line_and_fix(source, line, problem, fix):
    with pytest.raises(PolicyRejected) as caught:
        Policy.from_source(source)
    findings = caught.value.findings
    assert any(
        finding.line == line
        and any(part in finding.problem for part in problem.split("|"))
        and fix in finding.fix
        and finding.fix
        for finding in findings
    ), [str(finding) for finding in findings]
    assert f"line {line}: " in str(caught.value)


def test_every_finding_is_reported_in_order():
    with pytest.raises(PolicyRejected) as caught:
        Policy.from_source("import os\n" + HEAD + "    y = block.hit\n    return open(1.0)\n")
    assert [finding.line for finding in caught.value.findings] == [1, 3, 4]


ACCEPTED = [
    "    return block.hits",
    '    """Says what it does."""\n    return -block.hits ** 2 / 3',
    "    x: float = 1\n    x += block.hits\n    return x",
    "    for i in range(4):\n        x = i * 2.0\n    x = 1.0\n    return x + K",
    "    if block.hits > 1 and not block.depth:\n        return 1.0\n"
    "    elif cache.pressure == 0:\n        return 2.0\n"
    "    else:\n        return math.pi",
    "    return np.minimum(block.hits, 2.0) + math.log1p(block.gap) + abs(block.depth - 2) + round(block.age_s)",
    "    return twice(block.seen) if block.turn >= 1 else float(3)",
    "    if block.hits > 1.0:\n        x = 1.0\n    else:\n        return 0.0\n    return x",
]


@pytest.mark.parametrize("body", ACCEPTED, ids=range(len(ACCEPTED)))
def test_the_gate_accepts(body):
    source = f'"""Doc."""\nK = -2.5\ndef twice(x: float) -> float:\n    return 2 * x\n{HEAD}{body}\n'
    policy = Policy.from_source(source)
    trace = hand_trace([[0, 1], [2], [0, 1]], [21, 11, 21])
    assert simulate(trace, policy, 4).looked_up_blocks == 5
    assert policy.nodes > 3


# ---- both back ends ------------------------------------------------------------------------------------------------

EXPRESSIONS = (
    *(f"math.{name}(block.s0)" for name in language.MATH if name != "pow"),
    *(f"np.{name}(block.s0)" for name in language.NUMPY if name not in ("minimum", "maximum")),
    *("math.pow(block.s0, block.s1)", "np.minimum(block.s0, block.s1)", "np.maximum(block.s0, block.s1)"),
    *("block.s0 / block.s1", "block.s0 ** block.s1", "-block.s0 ** 2", "block.s0 ** -1", "int(block.s0)"),
    *(
        "round(block.s0)",
        "abs(block.s0)",
        "float(block.s0)",
        "min(block.s0, block.s1, 2)",
        "max(block.s0, block.s1, 2)",
    ),
    *("1.0 if block.s0 < block.s1 <= 3 else 0.0", "1.0 if block.s0 == 0 or not block.s1 else 2.0"),
    *("block.age + block.residence_s * block.recompute_cost", "block.prefix_tokens - block.tokens + cache.pressure"),
)


@numba.njit(types.void(types.FunctionType(BY_BLOCK), BLOCK[::1], CACHE[::1], types.float64[::1]))
def call_native(function, blocks, caches, out):
    for i in range(out.size):
        out[i] = function(blocks[i], caches[i])


AWKWARD = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.5, 3.5, 1e9, 710.0, -800.0, 1e300, -1e300, 1e-300, 5e-324, 2.0**53)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_native_and_python_agree(expression):
    policy = Policy.from_source(f"{HEAD}    return {expression}\n")
    native, plain = compile_policy(policy).priority, python_functions(policy)["priority"]
    rng = np.random.default_rng(3)
    pairs = [(a, b) for a in AWKWARD for b in AWKWARD] + [tuple(pair) for pair in rng.normal(0, 30, (200, 2))]
    blocks, caches = np.zeros(len(pairs), fields.BLOCK_DTYPE), np.zeros(len(pairs), fields.CACHE_DTYPE)
    for records in (blocks, caches):
        for name in records.dtype.names:
            records[name] = rng.integers(0, 9, len(pairs))
    blocks["s0"], blocks["s1"] = np.array(pairs).T
    found = np.zeros(len(pairs))
    call_native(native, blocks, caches, found)
    for i, pair in enumerate(pairs):
        block, cache = (SimpleNamespace(**{n: float(r[i][n]) for n in r.dtype.names}) for r in (blocks, caches))
        expected = float(plain(block, cache))
        same = found[i] == expected or (math.isnan(found[i]) and math.isnan(expected))
        assert same or math.isclose(found[i], expected, rel_tol=1e-14), (pair, found[i], expected)


@examples(200)
@given(st.integers(1_000, 1_200))
def test_random_policies_pass_the_gate_and_keep_their_literals(seed):
    policy = Policy.from_source(random_source(seed))
    values = [literal.value for literal in policy.literals]
    again = policy.with_literals(values)
    assert [literal.value for literal in again.literals] == values
    changed = [value * 3.0 + 0.125 for value in values]
    assert [literal.value for literal in policy.with_literals(changed).literals] == changed


def test_with_literals_replaces_numbers_where_they_stand():
    source = f"K = 2  # é\n{HEAD}    return block.hits * 3 + K - (-1.5 if block.depth > 1e2 else 0)\n"
    policy = Policy.from_source(source)
    assert [literal.value for literal in policy.literals] == [2, 3, 1.5, 100, 0]
    again = policy.with_literals([7, -1, 0.5, 4, 1e-9])
    assert again.source == (
        f"K = 7.0  # é\n{HEAD}    return block.hits * (-1.0) + K - (-0.5 if block.depth > 4.0 else 1e-09)\n"
    )
    with pytest.raises(ValueError, match="1 values for 5 literals"):
        policy.with_literals([1.0])


def test_loop_bounds_and_helpers_are_not_tuned():
    source = (
        f"def f(x):\n    return x + 5.0\n{HEAD}    y = 1.0\n    for i in range(7):\n        y *= 2.0\n    return f(y)\n"
    )
    assert [literal.value for literal in Policy.from_source(source).literals] == [1.0, 2.0]


def negative_constants() -> str:
    return f"K = -3.0\n{HEAD}    return block.last_access + K * block.depth + 40 * min(block.seen, 3) ** 1.5\n"


@examples(150)
@given(
    random_traces(), st.sampled_from([*policies(), "random5", "random9", "random13", "negative"]), st.integers(2, 20)
)
def test_lifted_literals_give_the_results_of_the_text(trace, name, capacity):
    plain, tunable = lifted(name)
    values = [literal.value * 1.5 + 1.0 for literal in plain.literals]
    text = compile_once(plain.with_literals(values).source)
    prepared, options = prepare(trace), Options()
    by_text = run_policy(prepared, text, capacity, options, log_evictions=1_000)
    by_field = run_policy(prepared, tunable, capacity, options, np.array(values), log_evictions=1_000)
    assert by_text.hits.tolist() == by_field.hits.tolist()
    assert {**by_text.counts, "priority_calls": 0} == {**by_field.counts, "priority_calls": 0}
    assert by_text.logged == by_field.logged
    np.testing.assert_array_equal(
        by_text.state.log_block[: by_text.logged], by_field.state.log_block[: by_field.logged]
    )


_COMPILED: dict[str, object] = {}


def compile_once(source: str):
    if source not in _COMPILED:
        _COMPILED[source] = compile_policy(Policy.from_source(source))
    return _COMPILED[source]


def lifted(name: str):
    key = f"lifted {name}"
    if key not in _COMPILED:
        known = compiled(name).policy if name in NAMES else Policy.from_source(negative_constants())
        _COMPILED[key] = known, compile_policy(known, lift=True)
    return _COMPILED[key]


# ---- at run time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["0.0 / block.hits", "math.log(block.hits)", "1e200 * 1e200", "math.sqrt(-1.0)"])
@pytest.mark.parametrize("scoring", ["evict", "touch"])
def test_a_priority_that_is_not_finite_names_the_request(score, scoring):
    # Request 2 makes room (2 places are taken by 0 and 1), so scores are asked for then; touch-time ones at request 0.
    # A score without time is asked for as a block becomes a candidate, at the first release: request 0.
    source = f'SCORING = "{scoring}"\n{HEAD}    return {score} + 0.0 * cache.now\n'
    request = 2 if scoring == "evict" else 0
    with pytest.raises(PolicyError, match=rf"not finite at request {request};"):
        simulate(hand_trace([[0], [1], [2]], [10, 10, 10]), Policy.from_source(source), 2)


TIMELESS = {
    "block.released": True,
    "block.last_access + block.depth * 3.0": True,
    "block.s0 + cache.capacity_blocks": True,
    "block.age": False,
    "block.residence_s": False,
    "block.children": False,
    "cache.now - block.last_access": False,
    "block.seen + cache.s0": False,
    "cache.hit_rate": False,
}


@pytest.mark.parametrize("score", TIMELESS)
def test_scores_that_never_go_out_of_date_are_told_apart(score):
    assert Policy.from_source(f"{HEAD}    return {score}\n").timeless is TIMELESS[score]


@pytest.mark.parametrize("name", policies())
def test_shipped_policies_pass(name):
    policy = load_policy(name)
    assert policy.name == name
    assert repr(policy).startswith(f"Policy({name!r}")


def test_files_must_be_text(tmp_path):
    path = tmp_path / "bad.py"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyRejected, match="byte 0 is not UTF-8"):
        Policy.from_file(path)


def test_every_field_is_described():
    text = fields.describe()
    for record, entries in fields.RECORDS.items():
        for entry in entries:
            assert entry.unit
            assert entry.unit == "yours" or f"{record}.{entry.name} " in text
