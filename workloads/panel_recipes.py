"""Makes the traces of a panel: reads or generates a source, cuts it, keeps the result in the user cache.

Knows entries of panel files. Must not know capacities, caches or scores. Traces of one split never reach data of
another, except that a file two splits share is read whole and cut.
"""

from __future__ import annotations

from pathlib import Path

from workloads import locate
from workloads.cutting import within
from workloads.errors import TraceError
from workloads.loading import load
from workloads.panel_cache import cached
from workloads.panel_file import TraceEntry
from workloads.panel_overlap import file_of, placed
from workloads.trace import Trace


def make(entry: TraceEntry, folder: Path) -> Trace:
    """Return a trace of a panel, from the cache if it was made before from the same bytes by the same code.

    Args:
        entry: What the panel says of it.
        folder: Where the panel's file lies: relative paths start there.

    Raises:
        TraceError: the source is not at hand, makes no sense, or cannot be cut like this; names the entry.
    """
    spec = _with_options(placed(entry.source, folder), entry)
    steps: dict[str, object] = {"source": entry.source, "options": dict(entry.options), "cut": dict(entry.cut)}
    try:
        return cached(entry.name, _files(spec), steps, lambda: _made(entry, spec, steps))
    except TraceError as error:
        raise TraceError(f"trace {entry.name!r}: {error}", request=error.request, field=error.field) from error


def _made(entry: TraceEntry, spec: str, steps: dict[str, object]) -> Trace:
    if "sessions" in entry.cut:
        low, high = entry.cut["sessions"]
        trace = load(spec, sessions=(low, high))
    else:
        trace = load(spec)
    if "time" in entry.cut:
        trace = within(trace, *entry.cut["time"])
    elif "requests" in entry.cut:
        start, stop = entry.cut["requests"]
        trace = trace.slice(start or 0, trace.n_requests if stop is None else stop)
    return trace.renamed(entry.name, {"panel": steps})


def _with_options(source: str, entry: TraceEntry) -> str:
    words = {True: "true", False: "false", None: "none"}
    pairs = [f"{k}={words[v] if v is None or isinstance(v, bool) else v}" for k, v in entry.options.items()]
    return source + ("&" if "?" in source else "?") * bool(pairs) + "&".join(pairs)


def _files(spec: str) -> list[Path]:
    """Return the files a trace is made from; none for a generator."""
    target = spec.partition("?")[0]
    if target in locate.KNOWN_TRACES:
        return [locate.require(target)]
    found = file_of(spec)
    return [] if found is None else [found]
