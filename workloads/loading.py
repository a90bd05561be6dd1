"""One string, one trace: ``load("kind:path?option=value&...")``.

Knows the grammar of trace specifications and which reader serves which. Must not know file formats beyond telling
them apart.
"""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads import locate, parquet, synthetic
from workloads.errors import TraceError, unknown_name
from workloads.materialise import materialise
from workloads.readers import kvsess1, kvt1, mooncake
from workloads.readers.lines import JsonLines
from workloads.trace import Trace

Options = dict[str, object]

_WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None}


def load(spec: str) -> Trace:
    """Load a trace from a specification.

    Args:
        spec: One of

            - a known short name, for example ``mooncake_conversation`` or ``cc_weka_v8?window_s=86400&max_gap_s=none``
              (options override those that go with the name);
            - ``mooncake:PATH?block_tokens=512``, ``kvt1:PATH?repair=clip_input``,
              ``kvsess1:PATH?window_s=14400&max_gap_s=300&shared_prefix=1&block_tokens=512&seed=0``;
            - ``synthetic:chat?seed=1&requests=2000``;
            - ``parquet:PATH`` (``?block_tokens=64`` if the file does not say);
            - ``FILE.npz`` or any other path: the format is told from the contents, options as above.

    Returns:
        The trace.

    Raises:
        TraceError: unknown name, kind or option (with a suggestion), or whatever the reader refuses.
    """
    target, options = _split(spec)
    if target in locate.KNOWN_TRACES:
        entry = locate.known_trace(target)
        merged = {**entry.options, **options}
        return _read(entry.reader, locate.require(target), {"name": target, **merged})
    kind, colon, rest = target.partition(":")
    if colon and kind == "synthetic":
        return _call(synthetic.generator(rest), options, f"synthetic:{rest}")
    if colon and kind in _READERS:
        return _read(kind, Path(rest), options)
    path = Path(target)
    if path.is_file():
        return _read(sniff(path), path, options)
    if colon and "/" not in kind:
        raise unknown_name("kind of trace", kind, [*_READERS, "synthetic"])
    if "/" in target or path.suffix:
        raise TraceError(f"{target}: no such file - fix: check the path")
    raise unknown_name("trace", target, locate.KNOWN_TRACES)


def known_traces() -> dict[str, bool]:
    """Return every known short name and whether its file is at hand."""
    return {name: locate.find(name) is not None for name in locate.KNOWN_TRACES}


def sniff(path: Path) -> str:
    """Tell the kind of a trace file from its contents: ``npz``, ``parquet``, ``mooncake``, ``kvt1`` or ``kvsess1``.

    Raises:
        TraceError: unreadable, or none of these.
    """
    if zipfile.is_zipfile(path) or path.suffix == ".npz":
        return "npz"
    if path.suffix == ".parquet" or _starts_with(path, b"PAR1"):
        return "parquet"
    first = next(JsonLines(path).records(), None)
    if first is not None:
        if first.get("format") in ("kvt1", "kvsess1"):
            return str(first["format"])
        if "hash_ids" in first:
            return "mooncake"
    raise TraceError(
        f"{path}: not a known trace format - fix: known are {', '.join(_READERS)}; write the kind before the path,"
        " for example mooncake:PATH"
    )


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(magic)) == magic


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
    for key in options:
        if key not in parameters or key in ("path", "sessions"):
            raise unknown_name(f"option of {what}", key, [k for k in parameters if k not in ("path", "sessions")])
    checked = {key: _fitting(key, value, str(parameters[key].annotation), what) for key, value in options.items()}
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in checked and key not in ("path", "sessions"):
            raise TraceError(f"{what}: option {key!r} is needed - fix: add ?{key}=...")
    return function(**checked)


def _fitting(key: str, value: object, annotation: str, what: str) -> object:
    """Return the value in the kind the parameter asks for."""
    kinds = {part.strip() for part in annotation.split("|")}
    if value is None and "None" in kinds:
        return None
    if isinstance(value, bool):
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


def _read(kind: str, path: Path, options: Options) -> Trace:
    return _READERS[kind](path, options)


def _read_npz(path: Path, options: Options) -> Trace:
    if options:
        raise TraceError(f"{path}: a .npz file takes no options, got {', '.join(options)}")
    return Trace.load(path)


def _read_flat(module: Any, kind: str) -> Callable[[Path, Options], Trace]:
    def read(path: Path, options: Options) -> Trace:
        def reader(**checked: Any) -> Trace:
            trace: Trace = module.read(path, **checked)
            return trace

        reader.__signature__ = inspect.signature(module.read)  # type: ignore[attr-defined]
        return _call(reader, options, kind)

    return read


def _read_sessions(path: Path, options: Options) -> Trace:
    repair = options.pop("repair", ())
    if options.get("use_recorded_starts"):
        options.setdefault("window_s", None)

    def laid_out(**checked: Any) -> Trace:
        return materialise(kvsess1.read(path, repair=repair), **checked)  # type: ignore[arg-type]

    laid_out.__signature__ = inspect.signature(materialise)  # type: ignore[attr-defined]
    return _call(laid_out, options, "kvsess1")


_READERS: dict[str, Callable[[Path, Options], Trace]] = {
    "mooncake": _read_flat(mooncake, "mooncake"),
    "kvt1": _read_flat(kvt1, "kvt1"),
    "kvsess1": _read_sessions,
    "npz": _read_npz,
    "parquet": _read_flat(parquet, "parquet"),
}
