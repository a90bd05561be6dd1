"""One policy: its source, what the gate found in it, its tunable literals, and what its score depends on.

Knows the language; must not know numba, traces or engines.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sim.core import fields
from sim.policy import language, lower
from sim.policy.gate import check_source
from sim.policy.language import PolicyRejected


@dataclass(frozen=True)
class Literal:
    """A number in the source that a tuner may change."""

    line: int
    column: int
    end_column: int
    value: float


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy that passed the gate.

    Attributes:
        name: Shown in tables.
        source: The whole file.
        functions: Checked functions by name, in order.
        constants: Module constants by name.
        scoring: "evict" (scores are exact at the moment of eviction) or "touch" (as they were at release).
        nodes: Size in syntax nodes, the measure that is charged.
    """

    name: str
    source: str
    functions: dict[str, ast.FunctionDef]
    constants: dict[str, ast.expr]
    scoring: str
    nodes: int

    @property
    def sha256(self) -> str:
        """Digest of the source, hex: what tells one policy from another, whatever they are called."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @classmethod
    def from_source(cls, source: str, name: str = "policy") -> Policy:
        """Check a policy.

        Raises:
            PolicyRejected: If it breaks the contract.
        """
        source = source.replace("\r\n", "\n").replace("\r", "\n")
        admitted = check_source(source, name)
        policy = cls(name, source, admitted.functions, admitted.constants, admitted.scoring, admitted.nodes)
        if policy.scoring == "touch":
            policy._check_touch()
        return policy

    @classmethod
    def from_file(cls, path: str | Path) -> Policy:
        """Check the policy in a file.

        Raises:
            PolicyRejected: If it breaks the contract or is not UTF-8 text.
            OSError: If it cannot be read.
        """
        data = Path(path).read_bytes()
        try:
            return cls.from_source(data.decode("utf-8"), Path(path).stem)
        except UnicodeDecodeError as error:
            finding = language.Finding(1, f"byte {error.start} is not UTF-8", "save the file as UTF-8 text")
            raise PolicyRejected(Path(path).stem, [finding]) from None

    @cached_property
    def timeless(self) -> bool:
        """Whether a block's score changes only when the block is used; then scores never go out of date."""
        return not any(_moving(record, name) for record, name in _reads(self.functions["priority"]))

    def _check_touch(self) -> None:
        for node in ast.walk(self.functions["priority"]):
            if isinstance(node, ast.Attribute) and node.attr in ("age", "age_s"):
                problem = f"`block.{node.attr}` is 0 whenever a touch-time score is computed"
                fix = 'use last_access, or write SCORING = "evict"'
                raise PolicyRejected(self.name, [language.Finding(node.lineno, problem, fix)])

    @cached_property
    def literals(self) -> tuple[Literal, ...]:
        """Return the tunable numbers in source order: module constants and literals of contract functions."""
        found: dict[tuple[int, int], ast.Constant]
        found = {(node.lineno, node.col_offset): node for value in self.constants.values() for node in _numbers(value)}
        for name, function in self.functions.items():
            if name in language.SIGNATURES:
                found.update({(node.lineno, node.col_offset): node for node in _numbers(function)})
        kept = sorted(found.items())[: fields.TUNED_CONSTANTS]
        return tuple(
            Literal(line, column, node.end_col_offset or 0, float(node.value))  # type: ignore[arg-type]
            for (line, column), node in kept
        )

    def with_literals(self, values: Sequence[float], name: str | None = None) -> Policy:
        """Return the same policy with other numbers in the place of `literals`.

        Raises:
            ValueError: If there are more or fewer values than literals.
        """
        if len(values) != len(self.literals):
            raise ValueError(f"{len(values)} values for {len(self.literals)} literals")
        lines = [line.encode() for line in self.source.split("\n")]
        for literal, value in sorted(
            zip(self.literals, values, strict=True), key=lambda pair: (-pair[0].line, -pair[0].column)
        ):
            text = lines[literal.line - 1]
            number = repr(float(value)) if value >= 0 else f"({float(value)!r})"
            lines[literal.line - 1] = text[: literal.column] + number.encode() + text[literal.end_column :]
        return Policy.from_source(b"\n".join(lines).decode(), name or self.name)

    def lowered(self, lift: bool = False) -> list[ast.FunctionDef]:
        """Return the functions ready for a back end; with `lift`, literal i is read from hidden field k<i>."""
        lifted = {(item.line, item.column): i for i, item in enumerate(self.literals)} if lift else {}
        constants = {name: lower.lower_value(value, lifted) for name, value in self.constants.items()}
        plain = {name: lower.lower_value(value, {}) for name, value in self.constants.items()}
        return [
            lower.lower(function, constants if name in language.SIGNATURES else plain, lifted)
            for name, function in self.functions.items()
        ]

    def __repr__(self) -> str:
        return f"Policy({self.name!r}, {', '.join(self.functions)}, scoring={self.scoring!r}, nodes={self.nodes})"


def clock_origin(source: str) -> int:
    """Return where a candidate's clocks begin: drawn from its own source, so that absolute times carry nothing."""
    return int.from_bytes(hashlib.sha256(source.encode(errors="replace")).digest()[:4], "big") % 10**6


def _numbers(tree: ast.AST) -> list[ast.Constant]:
    """Return the number literals below a node, loop bounds left out."""
    bounds = {id(node.iter) for node in ast.walk(tree) if isinstance(node, ast.For)}
    skipped = {id(child) for node in ast.walk(tree) if id(node) in bounds for child in ast.walk(node)}
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
        and id(node) not in skipped
    ]


def _reads(function: ast.FunctionDef) -> set[tuple[str, str]]:
    return {
        (node.value.id, node.attr)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in fields.RECORDS
    }


def _moving(record: str, name: str) -> bool:
    return next(field.moving for field in fields.RECORDS[record] if field.name == name)
