"""Everything that is wrong with a specification, at once.

Knows the rules that span fields: families and their parameters, phases, tables. Must not know
how traffic is made: what a family accepts, the family itself says, asked for one request.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import fsum
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from workloads import synthetic, yaml_model
from workloads.errors import TraceError
from workloads.spec.schema import Fields
from workloads.trace import Trace
from workloads.yaml_document import Document, Fault, FieldPath, shown, suggestion

GIVEN = ("seed", "requests", "block_tokens")
"""Arguments of every family that a specification sets for all sources."""

_LEAST = 1e-9
_STATED = re.compile(r"expected (.*), got ")


def checked(document: Document) -> Fields:
    """Return the specification in a document.

    Raises:
        TraceError: listing all faults, each with line, field, what was expected, what was found and the fix.
    """
    return yaml_model.checked(document, Fields, _sources, _phases, _table)


def family_parameters(family: Callable[..., Trace]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a family that a specification may give, by name."""
    kinds = get_type_hints(family)
    known = [one for name, one in inspect.signature(family).parameters.items() if name not in GIVEN]
    return {one.name: one.replace(annotation=kinds.get(one.name, one.empty)) for one in known}


def _sources(raw: dict[str, Any]) -> Iterator[Fault]:
    sources = raw.get("sources")
    for index, source in enumerate(sources if isinstance(sources, list) else []):
        if not isinstance(source, dict):
            continue
        path: FieldPath = ("sources", index)
        family, given = source.get("family"), source.get("parameters", {})
        if not isinstance(family, str):
            continue
        known = [*synthetic.GENERATORS, *synthetic.PRESETS]
        if family not in known:
            expected = f"a family ({', '.join(sorted(synthetic.GENERATORS))}) or a preset"
            fix = suggestion(family, known, "see kvevolve trace generate --list")
            yield Fault((*path, "family"), expected, shown(family), fix)
        elif isinstance(given, dict):
            yield from _parameters(family, given, (*path, "parameters"))


def _parameters(family: str, given: dict[str, Any], path: FieldPath) -> Iterator[Fault]:
    """Yield what is wrong with a family's parameters: first by its signature, then by its own word."""
    known = family_parameters(synthetic.generator(family))
    usable: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            fix = suggestion(name, sorted(known), f"remove it; {family} knows {', '.join(sorted(known)) or 'none'}")
            yield Fault((*path, name), f"a parameter of {family}", shown(name), fix)
        elif not _fits(value, known[name].annotation):
            expected = inspect.formatannotation(known[name].annotation)
            yield Fault((*path, name), expected, shown(value), f"see kvevolve trace generate --list {family}")
        else:
            usable[name] = value
    needed = [name for name, one in known.items() if one.default is inspect.Parameter.empty]
    for name in needed:
        if name not in given:
            yield Fault((*path, name), f"this parameter, which {family} needs", "nothing", f"add {name}:")
    if all(name in usable for name in needed):
        yield from _own_word(family, usable, known, path)


def _own_word(
    family: str, usable: dict[str, Any], known: Mapping[str, inspect.Parameter], path: FieldPath
) -> Iterator[Fault]:
    """Yield what a family itself refuses, asked for one request, until it refuses nothing or what it needs."""
    while True:
        try:
            synthetic.generator(family)(0, requests=1, block_tokens=16, **usable)
            return
        except TraceError as error:
            name = (error.field or "").partition(".")[0]
            at = (*path, name) if name in usable else path
            value = shown(usable[name]) if name in usable else "these parameters"
            stated = _STATED.search(error.message)
            expected = stated[1] if stated else f"what {family} accepts ({error.message})"
            yield Fault(at, expected, value, "change the value")
            if name not in usable or known[name].default is inspect.Parameter.empty:
                return
            del usable[name]
        except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
            text = f"{type(error).__name__}: {error}"
            yield Fault(path, f"what {family} can work with ({text[:100]})", "these parameters", "change the values")
            return


def _fits(value: object, annotation: Any) -> bool:
    if annotation is inspect.Parameter.empty:
        return True
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)  # as JSON: a list may be a tuple
    except (ValueError, TypeError):  # ValidationError is a ValueError; what JSON cannot hold is a TypeError
        return False
    return True


def _phases(raw: dict[str, Any]) -> Iterator[Fault]:
    phases, sources = raw.get("phases"), raw.get("sources")
    if not isinstance(phases, list) or not phases or not all(isinstance(phase, dict) for phase in phases):
        return
    shares = [phase.get("share") for phase in phases]
    if all(_number(share) for share in shares) and abs(fsum(shares) - 1) > 1e-6:
        yield Fault(("phases",), "shares that sum to 1", f"{fsum(shares):.9g}", "change the shares")
    for index, phase in enumerate(phases):
        weights, path = phase.get("weights"), ("phases", index, "weights")
        if not isinstance(weights, list) or not all(map(_number, weights)):
            continue
        if isinstance(sources, list) and len(weights) != len(sources):
            yield Fault(path, f"{len(sources)} weights, one a source", shown(weights), "list one weight per source")
        elif not any(weight >= _LEAST for weight in weights):
            fix = "give a source a weight, or remove the phase"
            yield Fault(path, f"a weight of at least {_LEAST:g}", "none", fix)


def _table(raw: dict[str, Any]) -> Iterator[Fault]:
    arrivals = raw.get("arrivals")
    if not isinstance(arrivals, dict) or arrivals.get("process") != "table":
        return
    starts, rates = (arrivals.get(key) for key in ("t_s", "rate_per_s"))
    path: FieldPath = ("arrivals",)
    if not (isinstance(starts, list) and isinstance(rates, list) and starts and rates):
        return
    if not all(map(_number, starts + rates)):
        return
    end = arrivals.get("end_s")
    if len(starts) != len(rates):
        yield Fault((*path, "rate_per_s"), f"{len(starts)} rates, one a window", shown(rates), "list one per window")
    for index, (before, after) in enumerate(pairwise(starts), 1):
        if after <= before:
            yield Fault((*path, "t_s", index), f"a start after {before:g}", f"{after:g}", "sort the windows")
            break
    if not any(rate >= _LEAST for rate in rates):
        yield Fault((*path, "rate_per_s"), f"a rate of at least {_LEAST:g}", "none", "give a window a rate")
    if _number(end) and end <= starts[-1]:
        yield Fault((*path, "end_s"), f"an end after {starts[-1]:g}", f"{end:g}", "give the end of the last window")
    if arrivals.get("once") is True and arrivals.get("requests_per_s") is not None:
        yield Fault((*path, "once"), "once or requests_per_s", "both", "remove one: each sets the mean rate")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
