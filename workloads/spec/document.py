"""YAML in which every value knows its line.

Knows YAML and how a fault in a document is worded. Must not know what the document is about. Plain values only: text,
numbers, true, false, null, lists, mappings with text keys; no aliases, so that a small file stays small in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import yaml

from workloads.errors import TraceError

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
_MAX_LISTED = 40
_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")  # 1e3, which YAML 1.1 takes for text

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
        faults: What was wrong with it as a document.
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

    def refuse(self, faults: Sequence[Fault]) -> TraceError:
        """Return the one error that lists all faults, by line."""
        ordered = sorted(faults, key=lambda fault: self.line(fault.path))
        texts = [
            f"{self.where(fault.path)}: field {shown_path(fault.path)!r}: expected {fault.expected},"
            f" got {fault.got} - fix: {fault.fix}"
            for fault in ordered[:_MAX_LISTED]
        ]
        if len(ordered) > _MAX_LISTED:
            texts.append(f"and {len(ordered) - _MAX_LISTED} more")
        head = "" if len(ordered) == 1 else f"{self.name}: {len(ordered)} things are wrong\n  "
        return TraceError(head + "\n  ".join(texts), field=shown_path(ordered[0].path))


def read(text: str | bytes, name: str) -> Document:
    """Read a YAML document.

    Args:
        text: The document; bytes are UTF-8.
        name: The file, for messages.

    Returns:
        The document; repeated or unusable keys and values are among its faults.

    Raises:
        TraceError: not one YAML document, or larger or deeper than any that makes sense.
    """
    if len(text) > MAX_BYTES:
        raise TraceError(f"{name}: {len(text):,} bytes: expected at most {MAX_BYTES:,} - fix: is this the right file?")
    try:
        content = text.decode("utf-8") if isinstance(text, bytes) else text
        _check_events(content, name)
        root = yaml.compose(content, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise TraceError(f"{where}: not YAML: {problem} - fix: repair the file there") from None
    except UnicodeError as error:
        raise TraceError(f"{name}: not UTF-8 text ({error}) - fix: is this the right file?") from None
    document = Document(name)
    if root is not None:
        document.value = _value(root, (), document)
    return document


def write(value: object) -> str:
    """Return plain values as YAML that :func:`read` reads back as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=116, default_flow_style=None)


def shown_path(path: FieldPath) -> str:
    """Return a path as ``sources[0].weight``; the document itself is ``.``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "."


def shown(value: object, limit: int = 60) -> str:
    """Return a value as it stands in a message."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def suggestion(name: str, known: Sequence[str], otherwise: str) -> str:
    """Return the fix for a name that is not among the known ones."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise


def _check_events(content: str, name: str) -> None:
    """Refuse what would be large or deep once read, before it is read."""
    depth = 0
    for event in yaml.parse(content, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise TraceError(f"{name}:{_line(event)}: an alias: expected none - fix: write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise TraceError(f"{name}:{_line(event)}: nested more than {MAX_DEPTH} deep - fix: repair the file")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(event: yaml.Event) -> int:
    return 0 if event.start_mark is None else event.start_mark.line + 1


def _value(node: yaml.Node, path: FieldPath, document: Document) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), document) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node, path, document)


def _mapping(node: yaml.MappingNode, path: FieldPath, document: Document) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _scalar(key_node, path, document) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            at = (*path, str(getattr(key_node, "value", "?"))[:60])
            document.lines.setdefault(at, key_node.start_mark.line + 1)
            document.faults.append(Fault(at, "a key that is text", "another kind of key", "put it in quotes"))
            continue
        at = (*path, key)
        if key in found:
            document.faults.append(Fault(at, "each key once", f"{key!r} again", "remove one of them"))
            continue
        document.lines[at] = key_node.start_mark.line + 1
        found[key] = _value(value_node, at, document)
    return found


def _scalar(node: yaml.ScalarNode, path: FieldPath, document: Document) -> Any:
    kind = node.tag.rpartition(":")[2]
    if kind in ("str", "timestamp", "value", "merge"):
        return node.value
    value: Any = None
    try:
        if kind in ("null", "bool", "int"):
            value = getattr(_Loader, f"construct_yaml_{kind}")(_Construct, node)
        elif kind == "float":
            value = float(node.value) if _FLOAT.match(node.value) else _Construct.construct_yaml_float(node)
        else:
            document.faults.append(
                Fault(path, "text, a number, true, false or null", f"a {node.tag}", "write it plain")
            )
    except (ValueError, KeyError, OverflowError):
        document.faults.append(Fault(path, f"a {kind}", shown(node.value), "write a plain number or word"))
    if isinstance(value, float) and not math.isfinite(value):
        document.faults.append(Fault(path, "a finite number", node.value, "write a number"))
        return 0.0
    return value


_Loader: Any = type("_Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
_Dumper: Any = type("_Dumper", (yaml.SafeDumper,), {})
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Construct = yaml.constructor.SafeConstructor()
