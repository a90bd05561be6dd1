"""A YAML document checked by a pydantic model: all that is wrong, at once.

Knows how findings of pydantic are worded. Must not know YAML, nor what the documents are about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from workloads.yaml_document import Document, Fault, FieldPath, shown, suggestion

_KINDS = {
    "string_type": "text",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_LIMITS = {"greater_than_equal": ">=", "greater_than": ">", "less_than_equal": "<=", "less_than": "<"}
_LENGTHS = {
    "too_short": ("min_length", "more items", "lengthen it"),
    "too_long": ("max_length", "fewer items", "shorten it"),
    "string_too_short": ("min_length", "more characters", "lengthen it"),
    "string_too_long": ("max_length", "fewer characters", "shorten it"),
}
_M = TypeVar("_M", bound=BaseModel)


class Strict(BaseModel):
    """What every checked part of a document is: no unknown fields, no conversions, only finite numbers, immutable."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def mistake(expected: str, fix: str) -> PydanticCustomError:
    """Return the error a validator raises: what was expected, and what to do."""
    return PydanticCustomError("mistake", "{expected}", {"expected": expected, "fix": fix})


def checked(document: Document, model: type[_M], *rules: Callable[[dict[str, Any]], Iterable[Fault]]) -> _M:
    """Return what a document says.

    Args:
        document: What was read.
        model: What it must be.
        rules: What else is wrong with its mapping, which may break the model too.

    Raises:
        TraceError: all that is wrong, by line: ``file:line: field 'x': expected ..., got ... - fix: ...``.
    """
    found: _M | None = None
    faults: list[Fault] = []
    try:
        found = model.model_validate(document.value)
    except ValidationError as error:
        faults += [_fault(detail, model) for detail in error.errors(include_url=False)]
    if isinstance(document.value, dict):
        faults += [fault for rule in rules for fault in rule(document.value)]
    if found is None or faults or document.faults:
        raise document.refuse(faults)
    return found


def _fault(detail: ErrorDetails, model: type[BaseModel]) -> Fault:
    """Word one finding of pydantic."""
    kind, context, got = detail["type"], detail.get("ctx", {}), shown(detail["input"])
    path, holder, here, tag_field = _place(detail["loc"], model)
    if kind == "mistake":
        return Fault(path, context["expected"], got, context["fix"])
    if kind == "missing":
        return Fault(path, "this field", "nothing", f"add {path[-1]}:")
    if kind == "extra_forbidden":
        known = sorted(holder.model_fields)
        return Fault(path, f"one of {', '.join(known)}", shown(path[-1]), suggestion(str(path[-1]), known, "remove it"))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = [tag for one in here for tag in _tags(one, tag_field)]
        missing = kind == "union_tag_not_found"
        path, got = (*path, tag_field), "nothing" if missing else shown(context["tag"])
        fix = f"add {tag_field}:" if missing else suggestion(got.strip("'"), tags, "write one of those")
        return Fault(path, f"one of {', '.join(tags)}", got, fix)
    if kind == "literal_error":
        words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return Fault(path, context["expected"], got, suggestion(got.strip("'"), words, "write that"))
    if kind in _LIMITS:
        limit = next(iter(context.values()))
        return Fault(path, f"a number {_LIMITS[kind]} {limit:,}", got, "change the number")
    if kind in _LENGTHS:
        key, expected, fix = _LENGTHS[kind]
        return Fault(path, f"{context[key]:,} or {expected}", got, fix)
    if kind == "string_pattern_mismatch":
        return Fault(path, f"text that matches {context['pattern']}", got, "change it")
    expected = _KINDS.get(kind, "")
    return Fault(path, expected or detail["msg"], got, f"write {expected}" if expected else "change it")


def _place(location: tuple[str | int, ...], model: Any) -> tuple[FieldPath, Any, list[Any], str]:
    """Find what pydantic means by a location, which names the tags of unions and the keys of mappings, too.

    Models may stand in fields, lists and, as fields, in unions told apart by a tag.

    Returns:
        The place in the document; the model it is a field of; the models that may stand there; and which field of
        theirs tells which.
    """
    path: list[str | int] = []
    holder, here, tag_field = model, [model], ""
    for part in location:
        if isinstance(part, int):
            path.append(part)
        elif tag_field:
            here, tag_field = [one for one in here if part in _tags(one, tag_field)], ""
        elif here:
            path.append(part)
            (holder,) = here
            field = holder.model_fields.get(part)
            here, tag_field = (_models(field.annotation), str(field.discriminator or "")) if field else ([], "")
        elif part != "[key]":
            path.append(part)
    return tuple(path), holder, here, tag_field


def _models(annotation: Any) -> list[Any]:
    """Return the models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _tags(model: Any, tag_field: str) -> tuple[str, ...]:
    return get_args(model.model_fields[tag_field].annotation)
