"""Compiles a policy to typed native functions that a pre-compiled kernel calls through pointers.

One small function each, about 0.06 s, instead of a kernel specialised per policy, about 5 s. Knows numba and the
record types; must not know the engine.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import config
from numba.core.errors import NumbaError

from sim.core import fields
from sim.policy import language
from sim.policy.language import Finding, PolicyRejected
from sim.policy.program import Policy

BLOCK = numba.from_dtype(fields.BLOCK_DTYPE)
REQUEST = numba.from_dtype(fields.REQUEST_DTYPE)
CACHE = numba.from_dtype(fields.CACHE_DTYPE)

BY_BLOCK = types.float64(BLOCK, CACHE)
"""Signature of `priority` and `on_evict`."""
BY_REQUEST = types.float64(BLOCK, REQUEST, CACHE)
"""Signature of `admit`, `on_hit` and `on_insert`."""

_NAMES: dict[str, Any] = {
    **{f"_{name}": getattr(math, name) for name in (*language.MATH, "pi", "e")},
    "_floor": np.floor,
    "_ceil": np.ceil,
    "_rint": np.rint,
    "_trunc": np.trunc,
    "_min": min,
    "_max": max,
    "_float": float,
}
"""What the private names of lowered code stand for."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """Native functions of one policy; the absent ones are no-ops the kernel never calls (`defined`)."""

    policy: Policy
    priority: Any
    admit: Any
    on_hit: Any
    on_insert: Any
    on_evict: Any
    defined: frozenset[str]


def compile_policy(policy: Policy, lift: bool = False) -> Compiled:
    """Compile every function of a policy.

    Args:
        policy: What to compile.
        lift: Read literals from the hidden cache fields k0, k1, …, so that tuning needs no further compilation.

    Raises:
        PolicyRejected: If numba cannot type or compile a function.
    """
    if config.DISABLE_JIT:
        return _interpreted(policy, lift)
    namespace = dict(_NAMES)
    native: dict[str, Any] = {}
    for function in policy.lowered(lift):
        try:
            plain = _define(function, namespace)
            if function.name in language.SIGNATURES:
                native[function.name] = _native(plain, function.name)
            else:
                numbers = (types.float64,) * len(function.args.args)
                namespace[function.name] = numba.njit(types.float64(*numbers), error_model="numpy", _nrt=False)(plain)
        except (NumbaError, RecursionError, SyntaxError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())[:300]
            fix = "use float arithmetic; a variable must be a number, or a truth value, on every path"
            line = policy.functions[function.name].lineno
            problem = f"`{function.name}` does not compile: {reason}"
            raise PolicyRejected(policy.name, [Finding(line, problem, fix)]) from None
    functions = {name: native.get(name) or _absent(name) for name in language.SIGNATURES}
    return Compiled(policy, **functions, defined=frozenset(native))


def _interpreted(policy: Policy, lift: bool) -> Compiled:
    """Return a policy for kernels that are not compiled either (NUMBA_DISABLE_JIT=1)."""
    plain = python_functions(policy, lift)
    functions = {name: plain.get(name) or (lambda *records: 1.0) for name in language.SIGNATURES}
    return Compiled(policy, **functions, defined=frozenset(plain))


def python_functions(policy: Policy, lift: bool = False) -> dict[str, Callable[..., float]]:
    """Return the same functions as plain Python, with the same results on floats, for the reference twin."""
    namespace: dict[str, Any] = {name: _guarded(function) for name, function in _NAMES.items() if callable(function)}
    namespace.update({"_pi": math.pi, "_e": math.e, "_div": _divide, "_power": _power, "_pow": _power})
    namespace.update({"_floor": _guarded(lambda x: float(np.floor(x))), "_ceil": _guarded(lambda x: float(np.ceil(x)))})
    namespace.update({"_min": min, "_max": max, "_float": float})
    functions: dict[str, Callable[..., float]] = {}
    for function in policy.lowered(lift):
        functions[function.name] = _define(ast.fix_missing_locations(_Guards().visit(function)), namespace)
        namespace[function.name] = functions[function.name]
    return {name: function for name, function in functions.items() if name in language.SIGNATURES}


def _define(function: ast.FunctionDef, namespace: dict[str, Any]) -> Any:
    module = ast.Module([function], [])
    scope: dict[str, Any] = {}
    exec(compile(module, "<policy>", "exec"), namespace, scope)
    return scope[function.name]


def _native(plain: Callable[..., Any], name: str) -> Any:
    signature = BY_REQUEST if "request" in language.SIGNATURES[name] else BY_BLOCK
    return numba.cfunc(signature, error_model="numpy", _nrt=False)(plain)


@cache
def _absent(name: str) -> Any:
    source = f"def {name}({', '.join(language.SIGNATURES[name])}):\n    return 1.0"
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    return _native(_define(function, {}), name)


class _Guards(ast.NodeTransformer):
    """Gives Python's division and power the results of IEEE arithmetic instead of exceptions."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        names = {ast.Div: "_div", ast.Pow: "_power"}
        name = names.get(type(node.op))
        return ast.Call(ast.Name(name, ast.Load()), [node.left, node.right], []) if name else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        loaded = ast.parse(ast.unparse(node.target), mode="eval").body
        return ast.Assign([node.target], self.visit(ast.BinOp(loaded, node.op, node.value)))


def _divide(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)
    return a / b


def _power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except (OverflowError, ValueError):
        with np.errstate(all="ignore"):
            return float(np.power(a, b))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*arguments: float) -> Any:
        try:
            return function(*arguments)
        except OverflowError:
            return math.inf
        except ValueError:
            zero = arguments[0] == 0 and function in (math.log, math.log2, math.log10)
            return -math.inf if zero or (function is math.log1p and arguments[0] == -1) else math.nan

    return guarded
