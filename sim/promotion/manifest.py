"""What a bundle says about its policy: a strict schema, closed by a digest over all of it.

Knows fields and their types. Must not know directories, nor how a number came about. Everything is required and
nothing else is allowed: what a reader does not understand must not be taken for sound.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from sim.promotion.verdict import RULES, Check, Verdict
from sim.score import Cell, score
from workloads.yaml_model import Strict

FORMAT = "kvevolve-incumbent/1"
SPLITS = ("train", "validation", "test")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Moment = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class BundleError(ValueError):
    """A bundle, or what belongs to it, is not what it has to be; the message says where and what to do."""


class CellScore(Strict):
    """One trace at one capacity; tokens of the requests that count."""

    trace: str
    fraction: float
    capacity_blocks: Count
    prompt_tokens: Count
    lru_hit_tokens: Count
    optimum_hit_tokens: Count
    hit_tokens: Count
    weight: float

    def cell(self) -> Cell:
        """Return the cell as `sim.score` takes it."""
        return Cell(**self.model_dump())


class SplitScore(Strict):
    """The score on one split, and what it is made of."""

    fingerprint: Digest
    combined: float
    gap_closed_mean: float
    worst_trace: str
    by_trace: dict[str, float]
    cells: Annotated[tuple[CellScore, ...], Field(min_length=1)]

    @property
    def hit_tokens(self) -> list[int]:
        """Hit tokens per cell."""
        return [cell.hit_tokens for cell in self.cells]


class CheckRecord(Strict):
    """One rule of the gate."""

    name: str
    passed: bool
    figures: dict[str, Any]
    reason: str


class VerdictRecord(Strict):
    """What the gate found, on the validation split of this fingerprint."""

    fingerprint: Digest
    checks: tuple[CheckRecord, ...]
    hit_tokens: tuple[Count, ...]

    def verdict(self, name: str, sha256: str, nodes: int, panel: str) -> Verdict:
        """Return it as the gate returned it."""
        checks = tuple(Check(**check.model_dump()) for check in self.checks)
        return Verdict(name, sha256, nodes, panel, self.fingerprint, checks, self.hit_tokens)


class TestRead(Strict):
    """One look at the test split: when, of which panel, with which code, and what was seen.

    The figures of a look that was cut short before its bundle was written, or taken by hand, are not on record: null.
    """

    __test__ = False  # no test of pytest's

    time: Moment
    panel: str
    fingerprint: Digest
    kvevolve: str
    combined: float | None
    hit_tokens: tuple[Count, ...] | None


class Lineage(Strict):
    """Where a policy comes from; null where nobody knows.

    Attributes:
        found_by: How, in words.
        run: Name of the run's directory.
        program, parent: Ids of the run's own record; null if the policy was changed after it (tuned, shortened).
        engine, models, seed, iterations, evaluations: Of the run.
        trained_on: Name of the run's panel.
        train_fingerprint: Of its training split.
    """

    found_by: str
    run: str | None
    program: str | None
    parent: str | None
    engine: str | None
    models: tuple[str, ...]
    seed: int | None
    iterations: int | None
    evaluations: int | None
    trained_on: str | None
    train_fingerprint: Digest | None


class Manifest(Strict):
    """Everything about one incumbent but its source."""

    format: Literal["kvevolve-incumbent/1"]
    name: Name
    created: Moment
    kvevolve: str
    versions: dict[str, str]
    sha256: Digest
    nodes: Count
    panel: str
    which: str
    scores: dict[Literal["train", "validation", "test"], SplitScore]
    verdict: VerdictRecord
    lineage: Lineage
    test_reads: Annotated[tuple[TestRead, ...], Field(min_length=1)]
    seal: Digest

    @model_validator(mode="after")
    def _hangs_together(self) -> Manifest:
        if tuple(sorted(self.scores)) != tuple(sorted(SPLITS)):
            raise ValueError(f"field 'scores': expected {', '.join(SPLITS)}, got {', '.join(self.scores)}")
        for split, found in self.scores.items():
            again = score([cell.cell() for cell in found.cells], self.nodes)
            told = (found.combined, found.gap_closed_mean, found.worst_trace, found.by_trace)
            if told != (again.combined, again.mean, again.worst_trace_name, again.by_trace):
                raise ValueError(f"field 'scores.{split}': the score is not that of its cells ({again.combined:+.4f})")
        last, test, validation = self.test_reads[-1], self.scores["test"], self.scores["validation"]
        seen = (last.fingerprint, last.combined, list(last.hit_tokens or ()))
        if seen != (test.fingerprint, test.combined, test.hit_tokens):
            raise ValueError("field 'test_reads': the last read is not what 'scores.test' says")
        if (self.verdict.fingerprint, list(self.verdict.hit_tokens)) != (validation.fingerprint, validation.hit_tokens):
            raise ValueError("field 'verdict': it is not of what 'scores.validation' says")
        if tuple(check.name for check in self.verdict.checks) != RULES:
            raise ValueError(f"field 'verdict.checks': expected {', '.join(RULES)}, in this order")
        failed = [check.name for check in self.verdict.checks if not check.passed]
        if failed:
            raise ValueError(f"field 'verdict.checks': the gate refused it: {', '.join(failed)}")
        return self


def sealed(content: Mapping[str, Any]) -> Manifest:
    """Return the manifest of plain data without a seal.

    Raises:
        BundleError: If anything about it is wrong.
    """
    unsealed = json.dumps({**content, "seal": "0" * 64}, allow_nan=False)
    plain = json.loads(_validated(unsealed, "manifest").model_dump_json())  # as it will be written
    return parsed(json.dumps(plain | {"seal": digest(plain)}).encode(), "manifest")


def parsed(raw: bytes, where: str) -> Manifest:
    """Return the manifest a file holds.

    Args:
        raw: The file.
        where: What to call it in messages.

    Raises:
        BundleError: With every fault: a field too many, missing or of the wrong kind, figures that contradict each
            other, or a seal that does not fit.
    """
    try:
        plain = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not readable as JSON ({error}); fix: restore the bundle") from None
    if not isinstance(plain, dict):
        raise BundleError(f"{where}: expected a mapping; fix: restore the bundle")
    found = _validated(raw, where)
    if found.seal != digest(plain):
        raise BundleError(
            f"{where}: field 'seal': it does not fit the rest, something was changed; fix: restore the bundle, it is"
            " never edited"
        )
    return found


def _validated(raw: bytes | str, where: str) -> Manifest:
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        faults = [_worded(detail["loc"], detail["msg"]) for detail in error.errors(include_url=False)]
        raise BundleError(f"{where}: {'; '.join(faults[:8])}; fix: restore the bundle, it is never edited") from None
    except ValueError as error:  # what `sim.score` cannot score
        raise BundleError(f"{where}: {error}; fix: restore the bundle, it is never edited") from None


def digest(plain: Mapping[str, Any]) -> str:
    """Return the seal of a manifest: SHA-256 (hex) over its canonical JSON without the seal."""
    unsealed = {key: value for key, value in plain.items() if key != "seal"}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_name(name: str) -> None:
    """Refuse what cannot be the name of an incumbent, which is also that of its directory.

    Raises:
        BundleError: If it is none.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise BundleError(
            f"name {name!r}: expected up to 64 small letters, digits, '-' and '_', a letter or digit first; fix: --name"
            " with such a name"
        )


def _worded(place: tuple[int | str, ...], message: str) -> str:
    field = ".".join(map(str, place))
    text = message.removeprefix("Value error, ")
    return f"field {field!r}: {text}" if field else text


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
