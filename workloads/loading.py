"""One string, one trace: ``load("kind:path?option=value&...")``.

Knows the grammar of trace specifications. Must not know file formats.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from workloads import formats, locate, sidecar, synthetic
from workloads.errors import TraceError, unknown_name
from workloads.manifest import stated
from workloads.materialise import materialise
from workloads.trace import Trace

Options = dict[str, object]

_ALIASES = {"block": "block_tokens"}
_GIVEN = ("path", "sessions", "key")  # parameters of readers that are not options
_WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None}


def load(spec: str, sessions: tuple[float, float] | None = None) -> Trace:
    """Load a trace from a specification.

    Args:
        spec: One of

            - a known short name, for example ``mooncake_conversation`` or ``cc_weka_v8?window_s=86400&max_gap_s=none``
              (options override those that go with the name);
            - ``mooncake:PATH?block_tokens=512``, ``kvt1:PATH?repair=clip_input``,
              ``kvsess1:PATH?window_s=14400&max_gap_s=300&shared_prefix=1&block_tokens=512&seed=0``;
              and so on for every format (:data:`workloads.formats.MODULES`); ``block`` is short for ``block_tokens``;
            - ``synthetic:chat?seed=1&requests=2000``;
            - ``spec:FILE.yaml?seed=1&requests=100000``, or ``fitted:NAME?seed=1`` for one that comes with kvevolve;
            - any other path: the format is told from the contents, options as above.
        sessions: Of a source that is sessions: only those whose names hash into this range, see
            `workloads.sessions.SessionSet.hash_split`. They are laid on a clock of their own.

    Returns:
        The trace.

    Raises:
        TraceError: unknown name, kind or option (with a suggestion), or whatever the reader refuses.
    """
    target, options = _split(spec)
    kind, colon, rest = target.partition(":")
    if colon and kind == "synthetic":
        if sessions:
            raise _no_sessions(spec)
        return _call(synthetic.generator(rest), options, f"synthetic:{rest}")
    if colon and kind == "fitted":
        if sessions:
            raise _no_sessions(spec)
        from workloads import spec as specs  # pydantic takes its time to import

        fitted = specs.shipped_spec(rest)
        return _call(partial(specs.generate, fitted), options, target)
    module, path, reading, laying = file_of(spec)
    said = sidecar.read(path) if path.is_file() else None
    if said is not None and "block_tokens" in inspect.signature(module.read).parameters:
        reading.setdefault("block_tokens", said.block_tokens)
    found = module.read(path, **reading)
    if sessions and laying is None:
        raise _no_sessions(str(path))
    if laying is not None:
        found = materialise(found.hash_split(*sessions) if sessions else found, **laying)
    trace = sidecar.attached(found, said, named="name" in reading | (laying or {}))
    return stated(trace, **locate.KNOWN_TRACES[target].origin) if target in locate.KNOWN_TRACES else trace


def file_of(spec: str) -> tuple[ModuleType, Path, dict[str, Any], dict[str, Any] | None]:
    """Return what a specification of anything but generated traces stands for.

    Args:
        spec: See :func:`load`.

    Returns:
        The module of the format, the path, the options of its ``read``, and those of
        :func:`workloads.materialise.materialise`, None if it reads traces rather than sessions.

    Raises:
        TraceError: unknown name, kind or option (with a suggestion).
    """
    target, options = _split(spec)
    if target in locate.KNOWN_TRACES:
        entry = locate.known_trace(target)
        merged = {**entry.options, **options}
        return _prepared(entry.reader, locate.require(target), {"name": target, **merged})
    kind, colon, rest = target.partition(":")
    if colon and kind in formats.MODULES:
        return _prepared(kind, Path(rest), options)
    path = Path(target)
    if path.exists():
        return _prepared(formats.sniff(path), path, options)
    if colon and "/" not in kind:
        raise unknown_name("kind of trace", kind, [*formats.MODULES, "synthetic", "fitted"])
    if "/" in target or path.suffix:
        raise TraceError(f"{target}: no such file - fix: check the path")
    raise unknown_name("trace", target, locate.KNOWN_TRACES)


def known_traces() -> dict[str, bool]:
    """Return every known short name and whether its file is at hand."""
    return {name: locate.find(name) is not None for name in locate.KNOWN_TRACES}


def _no_sessions(what: str) -> TraceError:
    """Return the refusal to cut by session what has a clock already."""
    return TraceError(f"{what}: its sessions are on a clock already - fix: cut it by time or requests")


def _split(spec: str) -> tuple[str, Options]:
    target, _, query = spec.partition("?")
    options: Options = {}
    for pair in filter(None, query.split("&")):
        key, equals, text = pair.partition("=")
        if not equals or not key or key in options:
            raise TraceError(f"{spec!r}: option {pair!r}: expected key=value, each key once")
        options[key] = _value(text)
    return target, options


def _value(text: str) -> object:
    """Read an option value: int, float, word or text."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _call(function: Callable[..., Trace], options: Options, what: str) -> Trace:
    """Call a reader or generator with options, refusing unknown ones and values of the wrong kind."""
    parameters = inspect.signature(function).parameters
    options = {_ALIASES.get(key, key): value for key, value in options.items()}
    _known_options(options, parameters, what)
    checked = {key: _fitting(key, value, str(parameters[key].annotation), what) for key, value in options.items()}
    _needed(parameters, checked, what)
    return function(**checked)


def _known_options(options: Options, known: Iterable[str], what: str) -> None:
    for key in options:
        if key in _GIVEN or key not in known:
            raise unknown_name(f"option of {what}", key, [name for name in known if name not in _GIVEN])


def _needed(parameters: Mapping[str, inspect.Parameter], given: Options, what: str) -> None:
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in given and key not in _GIVEN:
            raise TraceError(f"{what}: option {key!r} is needed - fix: add ?{key}=...")


def _fitting(key: str, value: object, annotation: str, what: str) -> object:
    """Return the value in the kind the parameter asks for."""
    kinds = {part.strip() for part in annotation.split("|")}
    if value is None:
        fits = "None" in kinds
    elif isinstance(value, bool):
        fits = "bool" in kinds
    elif "bool" in kinds and value in (0, 1):
        return bool(value)
    elif isinstance(value, int):
        fits = bool({"int", "float"} & kinds)
    elif isinstance(value, float):
        fits = "float" in kinds
    else:
        fits = "str" in kinds
    if not fits:
        raise TraceError(f"{what}: option {key!r}: expected {annotation}, got {value!r}")
    return value


def _prepared(
    kind: str, path: Path, options: Options
) -> tuple[ModuleType, Path, dict[str, Any], dict[str, Any] | None]:
    """Sort options into those of the format and those of laying sessions out."""
    module = formats.module(kind)
    own = inspect.signature(module.read).parameters
    laid_out = inspect.signature(materialise).parameters if formats.gives_sessions(kind) else {}
    reading: dict[str, Any] = {}
    laying: dict[str, Any] = {}
    options = {_ALIASES.get(key, key): value for key, value in options.items()}
    if options.get("use_recorded_starts") and laid_out:
        options.setdefault("window_s", None)
    _known_options(options, [*own, *laid_out], kind)
    for key, value in options.items():
        target, parameter = (reading, own[key]) if key in own else (laying, laid_out[key])
        target[key] = _fitting(key, value, str(parameter.annotation), kind)
    if laid_out:
        _needed(laid_out, laying, kind)
    return module, path, reading, laying if laid_out else None
