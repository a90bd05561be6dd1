"""The static gate: which Python a policy may use. Every refusal names the line, the reason and the fix.

Knows syntax and the names of the contract; must not know numba or the simulator. It is a language definition, not a
sandbox: what passes can only compute on the records it is given. Isolation is the business of `sim.isolation`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from sim.policy import language
from sim.policy.body import Body
from sim.policy.language import Finding, PolicyRejected


@dataclass(frozen=True)
class Admitted:
    """What the gate let through."""

    functions: dict[str, ast.FunctionDef]
    """Contract functions and helpers, in order of definition."""
    constants: dict[str, ast.expr]
    """Literal of each module constant."""
    scoring: str
    nodes: int
    """Size: syntax nodes of all functions and constants, docstrings and annotations left out."""


def check_source(source: str, name: str = "policy") -> Admitted:
    """Return what a policy file defines.

    Raises:
        PolicyRejected: With every finding, in order of line.
    """
    if len(source.encode(errors="replace")) > language.MAX_SOURCE_BYTES:
        raise PolicyRejected(name, [Finding(1, f"the file exceeds {language.MAX_SOURCE_BYTES} bytes", "shorten it")])
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        fix = "correct the syntax; a policy is plain Python"
        raise PolicyRejected(name, [Finding(error.lineno or 1, f"syntax error, {error.msg}", fix)]) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise PolicyRejected(name, [Finding(1, f"cannot be parsed, {error}", "write simpler code")]) from None
    module = _Module()
    if language.depth(tree) > language.MAX_DEPTH:
        module.refuse(tree, "code is nested too deeply", "split it over local names")
    try:
        module.read(tree)
    except RecursionError:
        module.refuse(tree, "expressions are nested too deeply", "split them over local names")
    if module.findings:
        raise PolicyRejected(name, sorted(module.findings, key=lambda finding: finding.line))
    return Admitted(module.functions, module.constants, module.scoring, module.nodes)


class _Module:
    """Reads the top level: a docstring, literal constants, functions."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.functions: dict[str, ast.FunctionDef] = {}
        self.constants: dict[str, ast.expr] = {}
        self.scoring = "evict"
        self.nodes = 0

    def refuse(self, node: ast.AST, problem: str, fix: str) -> None:
        self.findings.append(Finding(getattr(node, "lineno", 1), problem, fix))

    def read(self, tree: ast.Module) -> None:
        for statement in tree.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                self._constant(statement)
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef):
                self._function(statement)
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                continue
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                self.refuse(statement, "imports are not allowed", "remove it; `math` and `np` are in scope already")
            elif not language.is_docstring(statement):
                kind = type(statement).__name__
                fix = "keep only literal constants and functions at the top level"
                self.refuse(statement, f"{kind} is not allowed at the top level", fix)
        if "priority" not in self.functions and not self.findings:
            self.refuse(tree, "no function `priority`", "define `def priority(block, cache):` that returns a number")
        if self.nodes > language.MAX_NODES:
            self.refuse(
                tree, f"the policy has {self.nodes} syntax nodes, more than {language.MAX_NODES}", "simplify it"
            )

    def _constant(self, node: ast.Assign | ast.AnnAssign) -> None:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        several = isinstance(node, ast.Assign) and len(node.targets) > 1
        if several or not isinstance(target, ast.Name):
            self.refuse(node, "only `NAME = number` is allowed at the top level", "assign one name a literal")
            return
        name, value = target.id, node.value
        if value is None:
            self.refuse(node, f"`{name}` has no value", "assign it a number")
            return
        if name == "SCORING":
            if isinstance(value, ast.Constant) and value.value in language.SCORING:
                self.scoring = str(value.value)
            else:
                self.refuse(node, "SCORING has an unknown value", 'write SCORING = "evict" or SCORING = "touch"')
            return
        number = language.literal(value)
        if number is None:
            self.refuse(node, f"`{name}` is not a number literal", "write a finite number, or compute it in a function")
        elif language.reserved(name):
            self.refuse(node, f"`{name}` is a name of the contract", "use another name")
        elif name in self.constants:
            self.refuse(node, f"`{name}` is defined twice", "keep one definition")
        else:
            self.constants[name] = value
            self.nodes += 2

    def _function(self, node: ast.FunctionDef) -> None:
        names = tuple(argument.arg for argument in node.args.args)
        arguments = node.args
        if node.decorator_list:
            self.refuse(
                node.decorator_list[0], "decorators are not allowed", "remove it; functions are compiled anyway"
            )
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs or arguments.defaults:
            self.refuse(node, f"`{node.name}` has parameters that are not plain", "use plain positional parameters")
        if node.name in self.functions or node.name in self.constants:
            self.refuse(node, f"`{node.name}` is defined twice", "keep one definition")
        if len(set(names)) < len(names) or set(names) & self.constants.keys():
            self.refuse(node, f"a parameter of `{node.name}` repeats a name", "give parameters names of their own")
        if getattr(node, "type_params", None):
            self.refuse(node, f"`{node.name}` has type parameters", "remove them; everything is a number")
        expected = language.SIGNATURES.get(node.name)
        if expected is not None and names != expected:
            self.refuse(node, f"`{node.name}` takes {names}", f"write def {node.name}({', '.join(expected)}):")
        elif expected is None and language.reserved(node.name):
            self.refuse(node, f"`{node.name}` is a name of the contract", "use another name")
        elif expected is None and (not names or any(language.reserved(name) for name in names)):
            fix = "give it number parameters and pass block.… or cache.… values to it"
            self.refuse(node, f"helper `{node.name}` must take numbers, not records", fix)
        Body(node, self.constants, self.functions, self.refuse).read()
        self.functions[node.name] = node
        self.nodes += language.complexity(node)
