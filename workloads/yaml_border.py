"""YAML files users write, checked by a pydantic model: every mistake at once, each with its line and how to mend it.

Knows YAML, lines and how pydantic words its errors. Must not know what the files are about.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from workloads.errors import TraceError

MAX_BYTES, MAX_DEPTH = 1 << 20, 40
SHOWN_ERRORS, SHOWN_CHARS = 20, 80

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Place = tuple[str | int, ...]
_M = TypeVar("_M", bound=BaseModel)


class Strict(BaseModel):
    """What every checked part of a file is: no unknown fields, no conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def mistake(expected: str, fix: str) -> PydanticCustomError:
    """Return the error a validator raises: what was expected, and what to do."""
    return PydanticCustomError("mistake", "{expected}", {"expected": expected, "fix": fix})


def check(path: Path, text: str, model: type[_M]) -> _M:
    """Read the text of a YAML file into a model.

    Args:
        path: Name of the file, for errors.
        text: What it holds.
        model: What it must be.

    Raises:
        TraceError: all that is wrong, a line each: ``file:line: field 'x': expected ..., got ... - fix: ...``.
    """
    data, lines = parse(path, text)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
    told = [_told(path, entry, lines, model) for entry in found[:SHOWN_ERRORS]]
    if len(found) > SHOWN_ERRORS:
        told.append(f"and {len(found) - SHOWN_ERRORS} more")
    raise TraceError("\n".join(told), field=_name(found[0]["loc"]) or None)


def parse(path: Path, text: str) -> tuple[Any, dict[_Place, int]]:
    """Return the contents of a YAML text, and the line of every value by its place.

    Aliases are refused (a few lines of them unfold to gigabytes), and so are tags and keys given twice.

    Raises:
        TraceError: it is no YAML, with the line.
    """
    if len(text) > MAX_BYTES:
        raise TraceError(f"{path}: expected a YAML file of at most {MAX_BYTES} bytes - fix: give the right file")
    lines: dict[_Place, int] = {}
    loader = None
    try:
        _check_events(path, text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise TraceError(f"{path}:1: expected a YAML mapping, got an empty file - fix: give the right file")
        _note_lines(path, node, (), lines)
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise TraceError(f"{path}:{line}: not YAML: {problem} - fix: mend this line or the one before") from None
    except TraceError:
        raise
    except (ValueError, OverflowError) as error:  # 2000-13-45 looks like a date
        raise TraceError(f"{path}:1: a value that is none: {error} - fix: write it in quotes") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_events(path: Path, text: str) -> None:
    """Refuse aliases, tags, and depths at which libyaml's recursion would crash the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise TraceError(f"{path}:{line}: aliases are not allowed - fix: write the value out")
        if (tag := getattr(event, "tag", None)) is not None:
            raise TraceError(f"{path}:{line}: tags ({tag}) are not allowed - fix: leave it out, or quote the text")
        if depth > MAX_DEPTH:
            raise TraceError(f"{path}:{line}: nested deeper than {MAX_DEPTH} - fix: give the right file")


def _note_lines(path: Path, node: yaml.Node, place: _Place, lines: dict[_Place, int]) -> None:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(path, value, (*place, index), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*place, str(key.value))
            if below in lines:
                _refuse_twice(path, key, below)
            _note_lines(path, value, below, lines)
            lines[below] = key.start_mark.line + 1


def _refuse_twice(path: Path, key: yaml.Node, place: _Place) -> NoReturn:
    line = key.start_mark.line + 1
    raise TraceError(f"{path}:{line}: field {_name(place)!r}: given twice - fix: keep one of them")


def _told(path: Path, entry: Any, lines: dict[_Place, int], model: type[BaseModel]) -> str:
    place: _Place = tuple(entry["loc"])
    known = max((place[:n] for n in range(len(place) + 1) if place[:n] in lines), key=len, default=())
    got = _short(entry["input"])
    kind = entry["type"]
    context = entry.get("ctx", {})
    fix = context.get("fix", "correct it")
    expected = str(context.get("expected", "")) if kind == "mistake" else _expected(str(entry["msg"]))
    if kind == "missing":
        expected, got, fix = "this field", "nothing", f"add '{place[-1]}:'"
    elif kind == "extra_forbidden":
        fields = _fields(model, place[:-1])
        near = get_close_matches(str(place[-1]), fields, 1)
        expected = f"one of {', '.join(fields)}"
        fix = f"did you mean {near[0]!r}?" if near else "leave it out"
        got = repr(place[-1])
    return f"{path}:{lines.get(known, 1)}: field {_name(place)!r}: expected {expected}, got {got} - fix: {fix}"


def _expected(message: str) -> str:
    """Return what pydantic expected, from "Input should be a valid integer"."""
    return re.sub(r"^(Value error, |Input should be |String should |List should )", "", message).replace("'", "")


def _fields(model: Any, place: _Place) -> list[str]:
    """Return the names of the fields that are known at a place."""
    for part in place:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        model = _model_in(field.annotation) if field is not None else model
        if model is None:
            return []
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _name(place: _Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."
