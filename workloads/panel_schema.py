"""What a panel file may say. Loaded only to check a file that was not checked before: pydantic takes a while.

Knows fields and their limits. Must not know traces, nor whether sources exist.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from workloads import yaml_model
from workloads.kv_bytes import is_memory
from workloads.panel_overlap import bounds, shared
from workloads.yaml_document import read
from workloads.yaml_model import Strict, mistake

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}-v[1-9][0-9]{0,3}")
_TRACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_MAX_BYTES = 1 << 20
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


def _percent(value: object) -> Fraction | None:
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return Fraction(found[1]) / 100 if found else None


def _share(value: object) -> float:
    share = _percent(value)
    if share is None and type(value) in (int, float) and math.isfinite(value):  # type: ignore[arg-type]
        share = Fraction(str(value))
    if share is None or not 0 <= share <= 1:
        raise mistake("a share from 0% to 100%", "write 40% or 0.4")
    return float(share)


def _capacity(value: object) -> str | int:
    share = _percent(value)
    if share is not None and 0 < share <= 1:
        return str(value)
    if type(value) is int and 0 < value < 2**31:
        return value
    if isinstance(value, str) and is_memory(value):
        return value
    raise mistake("a share of the distinct blocks, blocks, or memory", "write 5%, 4096 or 40GiB")


def _warmup(value: object) -> str | int:
    share = _percent(value.removesuffix("time")) if isinstance(value, str) else None
    if share is not None and share < 1:
        return str(value)
    if type(value) is int and 0 <= value < 2**31:
        return value
    raise mistake("requests, or a share of them or of the time below 100%", "write 1000, 50% or 50%time")


def _name(value: object) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise mistake("a name with a version, of small letters, digits, - and _", "write for example my-chat-v1")
    return value


def _trace_name(value: object) -> str:
    if not isinstance(value, str) or not _TRACE_NAME.fullmatch(value):
        raise mistake("a name of letters, digits, - _ and .", "rename the trace")
    return value


def _option(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str) and not set(value) & set("&?#"):
        return value
    raise mistake("a number, a word without & ? #, true, false or null", "write a single value")


def _model(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if type(value) is int and value > 0:
        return str(value)
    raise mistake("a model, a config.json, or KV bytes per token", "write for example llama-3.1-70b")


Capacities = Annotated[list[Annotated[str | int, BeforeValidator(_capacity)]], Field(min_length=1, max_length=100)]
Share = Annotated[float, BeforeValidator(_share)]
Warmup = Annotated[str | int, BeforeValidator(_warmup)]
Option = Annotated[str | int | float | bool | None, BeforeValidator(_option)]


class Cut(Strict):
    """The part of a source a trace is: of its time, of its sessions by the hash of their names, or of its requests."""

    time: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    sessions: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    requests: Annotated[list[Annotated[int, Field(ge=0)] | None], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Cut:
        given = {key: value for key, value in self if value is not None}
        if len(given) != 1:
            raise mistake("one of time, sessions and requests", "cut in one way")
        start, end = bounds(given)[1:]
        if start >= end:
            raise mistake("a range that rises", "write [from, to], for example [0%, 40%]")
        return self


class TraceEntry(Strict):
    """One trace of a split."""

    name: Annotated[str, BeforeValidator(_trace_name)]
    source: Annotated[str, Field(min_length=1, max_length=4096)]
    options: dict[Annotated[str, Field(pattern=r"^[a-z_]+$")], Option] = Field(default_factory=dict)
    cut: Cut | None = None
    capacities: Capacities | None = None
    warmup: Warmup | None = None
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    note: str = ""


Traces = Annotated[list[TraceEntry], Field(min_length=1, max_length=1000)]


class Splits(Strict):
    """Which traffic is for what."""

    train: Traces | None = None
    validation: Traces | None = None
    test: Traces | None = None


class PanelModel(Strict):
    """A panel file."""

    format: Literal["kvevolve-panel/1"]
    name: Annotated[str, BeforeValidator(_name)]
    about: str = ""
    capacities: Capacities
    model: Annotated[str, BeforeValidator(_model)] | None = None
    warmup: Warmup = 0
    splits: Splits

    @field_validator("splits")
    @classmethod
    def _disjoint(cls, splits: Splits, info: ValidationInfo) -> Splits:
        entries = [(split, entry) for split, traces in splits for entry in traces or ()]
        if not entries:
            raise mistake("at least one of train, validation and test", "add train:")
        for (_, one), (_, other) in combinations(entries, 2):
            if one.name == other.name:
                raise mistake(f"each trace under a name of its own, not {one.name!r} twice", "rename one of them")
        for (split, one), (other_split, other) in combinations(entries, 2):
            if split != other_split and shared(_said(one), _said(other), Path()):
                raise mistake(
                    f"splits that share no traffic: {one.name!r} ({split}) and {other.name!r} ({other_split}) do",
                    "cut both in the same way, into ranges that do not overlap, or give generators another seed",
                )
        return splits

    @model_validator(mode="after")
    def _model_for_memory(self) -> PanelModel:
        lists = [self.capacities, *(e.capacities or [] for _, traces in self.splits for e in traces or ())]
        memory = [size for sizes in lists for size in sizes if isinstance(size, str) and is_memory(size)]
        if memory and self.model is None:
            raise mistake(f"a model that says what fits into {memory[0]}", "add model: with a name or a config.json")
        return self


def _said(entry: TraceEntry) -> tuple[str, dict[str, Option], dict[str, Any]]:
    return entry.source, entry.options, {key: value for key, value in entry.cut or () if value is not None}


def checked(path: Path, text: str | bytes) -> dict[str, Any]:
    """Return what a panel file says, with every default filled in, as plain data.

    Raises:
        TraceError: all that is wrong with it, with lines.
    """
    found = yaml_model.checked(read(text, str(path), _MAX_BYTES), PanelModel).model_dump(mode="json")
    for entry in entries(found):
        entry["cut"] = {key: value for key, value in (entry["cut"] or {}).items() if value is not None}
        entry["capacities"] = entry["capacities"] or found["capacities"]
        entry["warmup"] = found["warmup"] if entry["warmup"] is None else entry["warmup"]
    found["splits"] = {split: traces for split, traces in found["splits"].items() if traces}
    return found


def entries(panel: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the traces of all splits."""
    for traces in panel["splits"].values():
        yield from traces or ()
