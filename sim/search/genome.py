"""The genome: the statements of a policy file's EVOLVE-BLOCK, between text that stays as it is.

Knows the markers and Python syntax; must not know how genomes are varied or scored.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import re
from dataclasses import dataclass

from sim.policy import language

_MARKER = re.compile(r"^\W*EVOLVE-BLOCK-(START|END)\b|# EVOLVE-BLOCK-(START|END)")
_WIDTH = 100

DOCSTRINGS = {
    "priority": "Lower is evicted first.",
    "admit": "Whether the block enters the cache.",
    "on_hit": "A request found the block.",
    "on_insert": "The block enters the cache.",
    "on_evict": "The block leaves the cache.",
}


class NotAGenome(ValueError):
    """The text has no block of statements that could be varied."""


@dataclass
class Genome:
    """One policy file, cut at its markers.

    Attributes:
        head: Text up to and with the START marker line; empty without markers.
        body: Statements of the block.
        tail: Text from the END marker line on; empty without markers.
    """

    head: str
    body: list[ast.stmt]
    tail: str

    @classmethod
    def parse(cls, source: str) -> Genome:
        """Cut a file.

        Raises:
            NotAGenome: If the block is not valid Python, or the markers do not enclose exactly one block.
        """
        head, block, tail = split(source)
        try:
            return cls(head, ast.parse(block).body, tail)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise NotAGenome(f"the block cannot be parsed: {error}") from None

    def copy(self) -> Genome:
        """Return an independent copy."""
        return Genome(self.head, copy.deepcopy(self.body), self.tail)

    @property
    def functions(self) -> dict[str, ast.FunctionDef]:
        """The functions of the block by name."""
        return {node.name: node for node in self.body if isinstance(node, ast.FunctionDef)}

    @property
    def constants(self) -> dict[str, ast.Assign]:
        """The numeric module constants of the block by name."""
        found: dict[str, ast.Assign] = {}
        for node in self.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if (
                isinstance(node, ast.Assign)
                and isinstance(target, ast.Name)
                and language.literal(node.value) is not None
            ):
                found[target.id] = node
        return found

    @property
    def scoring(self) -> str:
        """The declared scoring, "evict" unless the block says otherwise."""
        value = next((node.value for node in self.body if _assigns_scoring(node)), None)  # type: ignore[attr-defined]
        return str(value.value) if isinstance(value, ast.Constant) else "evict"

    def set_scoring(self, scoring: str) -> None:
        """Declare a scoring; the default needs no line."""
        self.body = [node for node in self.body if not _assigns_scoring(node)]
        if scoring != "evict":
            line = ast.Assign([ast.Name("SCORING", ast.Store())], ast.Constant(scoring))
            at = 1 if self.body and language.is_docstring(self.body[0]) else 0
            self.body.insert(at, line)

    def put(self, function: ast.FunctionDef) -> None:
        """Replace the function of that name, or append it."""
        for index, node in enumerate(self.body):
            if isinstance(node, ast.FunctionDef) and node.name == function.name:
                self.body[index] = function
                return
        self.body.append(function)

    def drop(self, name: str) -> None:
        """Remove a function or constant."""
        constant = self.constants.get(name)
        self.body = [
            node
            for node in self.body
            if node is not constant and not (isinstance(node, ast.FunctionDef) and node.name == name)
        ]

    def source(self) -> str:
        """Return the whole file."""
        block = render(self.body)
        return f"{self.head}{block}{self.tail}"


def split(source: str) -> tuple[str, str, str]:
    """Return the text before the block with its marker line, the block, and the rest.

    Raises:
        NotAGenome: If there are markers that do not enclose exactly one block.
    """
    lines = source.splitlines(keepends=True)
    marks = [(index, match.group(1) or match.group(2)) for index, line in enumerate(lines) if (match := _marker(line))]
    if not marks:
        return "", source, ""
    if [kind for _, kind in marks] != ["START", "END"]:
        raise NotAGenome("the file needs exactly one EVOLVE-BLOCK-START line and one EVOLVE-BLOCK-END line after it")
    start, end = marks[0][0], marks[1][0]
    return "".join(lines[: start + 1]), "".join(lines[start + 1 : end]), "".join(lines[end:])


def _marker(line: str) -> re.Match[str] | None:
    return _MARKER.search(line)


def _assigns_scoring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SCORING"


def function(name: str, body: list[ast.stmt]) -> ast.FunctionDef:
    """Return a contract function with its docstring line."""
    arguments = ", ".join(language.SIGNATURES[name])
    node = ast.parse(f"def {name}({arguments}):\n    {DOCSTRINGS[name]!r}").body[0]
    assert isinstance(node, ast.FunctionDef)
    node.body = [*node.body, *body]
    return node


def statements(node: ast.FunctionDef) -> list[ast.stmt]:
    """Return the statements of a function without its docstring."""
    return node.body[1:] if node.body and language.is_docstring(node.body[0]) else node.body


def fingerprint(source: str) -> str:
    """Return a hash of what a file computes as written: no docstrings, comments or layout, 2 and 2.0 alike."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef):
            node.body = [child for child in node.body if not language.is_docstring(child)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool):
            node.value = float(node.value)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def render(body: list[ast.stmt]) -> str:
    """Return statements as source, long sums broken over lines."""
    pieces: list[str] = []
    previous: ast.stmt | None = None
    for node in body:
        text = "\n".join(_wrap(line) for line in ast.unparse(ast.fix_missing_locations(node)).splitlines())
        if previous is not None:
            apart = isinstance(node, ast.FunctionDef) or isinstance(previous, ast.FunctionDef)
            pieces.append("\n\n\n" if apart else "\n")
        pieces.append(text)
        previous = node
    return "".join(pieces) + "\n"


def _wrap(line: str) -> str:
    """Break a long sum or conditional that is returned or assigned."""
    code = line.lstrip()
    indent = line[: len(line) - len(code)]
    match = re.match(r"return |[\w.]+ [-+*/]?= ", code)
    if len(line) <= _WIDTH or match is None:
        return line
    value = ast.parse(code[match.end() :], mode="eval").body
    parts = _conditional(value) if isinstance(value, ast.IfExp) else _sum(value)
    if len(parts) < 2:
        return line
    inner = "".join(f"\n{indent}    {part}" for part in parts)
    return f"{indent}{match.group()}({inner}\n{indent})"


def _conditional(node: ast.IfExp) -> list[str]:
    body, test = (
        f"({ast.unparse(part)})" if isinstance(part, ast.IfExp) else ast.unparse(part)
        for part in (node.body, node.test)
    )
    return [body, f"if {test}", f"else {ast.unparse(node.orelse)}"]


def _sum(node: ast.expr) -> list[str]:
    parts: list[str] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        sign = "+" if isinstance(node.op, ast.Add) else "-"
        parts.append(f"{sign} {_closed(node.right)}")
        node = node.left
    return [_closed(node), *reversed(parts)]


def _closed(node: ast.expr) -> str:
    """Return an operand of a sum, in parentheses where it needs them."""
    loose = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)
    text = ast.unparse(node)
    return f"({text})" if loose or isinstance(node, ast.IfExp | ast.Compare | ast.BoolOp) else text
