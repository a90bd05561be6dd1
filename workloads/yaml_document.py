"""YAML in which every value knows its line, in and out.

Knows YAML and how faults in a document are worded. Must not know what the document is about. Plain values only: text
(dates too), finite numbers, true, false, null, lists, mappings with text keys. Aliases (a few lines of them unfold to
gigabytes), tags and repeated keys are faults. Values are made from libyaml's events, not by its composer, which crashes
the process on 100,000 ``[``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import takewhile
from typing import Any

import yaml

from workloads.errors import TraceError

MAX_DEPTH = 40
_MAX_LISTED, _MAX_SHOWN = 40, 80
_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")  # 1e3, which YAML 1.1 takes for text
_NUMBERS = {"int": "an integer below 1e308", "float": "a number"}

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a document.

    Attributes:
        path: Where: keys and list positions from the top.
        expected: What should stand there.
        got: What stands there, as shown.
        fix: What to do.
    """

    path: FieldPath
    expected: str
    got: str
    fix: str


@dataclass
class Document:
    """A document read.

    Attributes:
        name: The file, for messages.
        value: What stands in it, as plain Python values.
        lines: Line of every key and list item, from 1, by its path.
        faults: What was wrong with it as a document; what stands at their paths is of no use.
    """

    name: str
    value: Any = None
    lines: dict[FieldPath, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, path: FieldPath) -> int:
        """Return the line of a field, or of the nearest thing around it that is there; 0 if there are no lines."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def where(self, path: FieldPath) -> str:
        """Return file and line of a field."""
        line = self.line(path)
        return f"{self.name}:{line}" if line else self.name

    def refuse(self, found: Sequence[Fault]) -> TraceError:
        """Return the one error that lists the document's faults and those found in what it says, by line."""
        useless = {fault.path for fault in self.faults}
        faults = [*self.faults, *(fault for fault in found if fault.path not in useless)]
        faults.sort(key=lambda fault: self.line(fault.path))
        texts = [self._told(fault) for fault in faults[:_MAX_LISTED]]
        if len(faults) > _MAX_LISTED:
            texts.append(f"and {len(faults) - _MAX_LISTED} more")
        head = "" if len(faults) == 1 else f"{self.name}: {len(faults)} things are wrong\n  "
        return TraceError(head + "\n  ".join(texts), field=shown_path(faults[0].path) or None)

    def _told(self, fault: Fault) -> str:
        named = f"field {shown_path(fault.path)!r}: " if fault.path else ""
        return f"{self.where(fault.path)}: {named}expected {fault.expected}, got {fault.got} - fix: {fault.fix}"


def read(text: str | bytes, name: str, max_bytes: int) -> Document:
    """Read a YAML document.

    Args:
        text: The document; bytes are UTF-8.
        name: The file, for messages.
        max_bytes: Size above which it cannot be the right file.

    Returns:
        The document; values that are no plain ones are among its faults.

    Raises:
        TraceError: not one YAML document, or larger or deeper than any that makes sense.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > max_bytes:
        raise TraceError(f"{name}: expected at most {max_bytes:,} bytes, got {len(raw):,} - fix: give the right file")
    document = Document(name)
    try:
        events = yaml.parse(raw.decode(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        nodes = (event for event in events if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent))
        root = next(nodes, None)
        if root is None:
            raise TraceError(f"{name}:1: expected a YAML mapping, got an empty file - fix: give the right file")
        document.value = _value(root, nodes, (), document)
        if (another := next(nodes, None)) is not None:
            raise TraceError(f"{name}:{_line(another)}: expected one document, got a second - fix: make it a file")
    except yaml.reader.ReaderError as error:
        line = raw.count(b"\n", 0, error.position) + 1
        raise TraceError(f"{name}:{line}: not YAML: {error.reason} - fix: repair this line") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise TraceError(f"{name}:{line}: not YAML: {error.problem} - fix: repair it here or just before") from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TraceError(f"{name}:{line}: not UTF-8 - fix: save the file as UTF-8") from None
    return document


def write(value: object) -> str:
    """Return plain values as YAML that :func:`read` reads back as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=116, default_flow_style=None)


def shown_path(path: FieldPath) -> str:
    """Return a path as ``sources[0].weight``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_SHOWN]}" for part in path)
    return text.removeprefix(".")


def shown(value: object) -> str:
    """Return a value as it stands in a message."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def suggestion(name: str, known: Sequence[str], otherwise: str) -> str:
    """Return the fix for a name that is not among the known ones."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise


def _line(event: yaml.Event) -> int:
    return 0 if event.start_mark is None else event.start_mark.line + 1


def _value(event: yaml.Event, events: Iterator[yaml.Event], path: FieldPath, document: Document) -> Any:
    """Return the value that begins with an event, and take its other events."""
    document.lines.setdefault(path, _line(event))
    if isinstance(event, yaml.AliasEvent):
        document.faults.append(Fault(path, "no alias", f"*{event.anchor}", "write the value out"))
        return None
    if (tag := getattr(event, "tag", None)) is not None:
        document.faults.append(Fault(path, "no tag", tag, "leave it out, or put the text in quotes"))
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event, path, document)
    if len(path) >= MAX_DEPTH:
        raise TraceError(
            f"{document.name}:{_line(event)}: expected at most {MAX_DEPTH} levels, got more - fix: give the right file"
        )
    inside = takewhile(lambda one: not isinstance(one, yaml.CollectionEndEvent), events)
    if isinstance(event, yaml.SequenceStartEvent):
        return [_value(item, events, (*path, index), document) for index, item in enumerate(inside)]
    return _mapping(inside, events, path, document)


def _mapping(
    keys: Iterator[yaml.Event], events: Iterator[yaml.Event], path: FieldPath, document: Document
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in keys:
        at = (*path, event.value if isinstance(event, yaml.ScalarEvent) else "?")
        key = _value(event, events, at, document)
        value = _value(next(events), events, at, document)
        if not isinstance(key, str):
            document.faults.append(Fault(at, "a key that is text", "another kind of key", "put it in quotes"))
        elif key in found:
            again = f"{shown(key)} again in line {_line(event)}"
            document.faults.append(Fault(at, "each key once", again, "remove one of them"))
        else:
            found[key] = value
    return found


def _scalar(event: yaml.ScalarEvent, path: FieldPath, document: Document) -> Any:
    tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
    kind = tag.rpartition(":")[2]
    if kind not in ("null", "bool", "int", "float"):  # dates too
        return event.value
    if kind == "float" and _FLOAT.match(event.value):
        value: Any = float(event.value)
    else:
        try:
            value = getattr(_CONSTRUCTOR, f"construct_yaml_{kind}")(yaml.ScalarNode(tag, event.value))
            if kind == "int":
                float(value)
        except (ValueError, OverflowError):  # too large for what reads it
            document.faults.append(Fault(path, _NUMBERS[kind], shown(event.value), "write a plain number, or quotes"))
            return None
    if isinstance(value, float) and not math.isfinite(value):
        document.faults.append(Fault(path, "a finite number", event.value, "write a number"))
        return None
    return value


class _Resolver(yaml.resolver.Resolver):
    """What plain scalars are."""


class _Dumper(yaml.SafeDumper):
    """What must be quoted to stay text."""


for _kind in (_Resolver, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_RESOLVER: Any = _Resolver()
_CONSTRUCTOR: Any = yaml.constructor.SafeConstructor()
