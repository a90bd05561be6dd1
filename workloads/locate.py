"""Where traces and caches lie on this machine.

Knows folders, environment variables and the short names of known traces. Must not know how a trace is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from workloads.errors import TraceError, unknown_name

TRACES_VARIABLE = "KVEVOLVE_TRACES"
CACHE_VARIABLE = "KVEVOLVE_CACHE"


@dataclass(frozen=True)
class KnownTrace:
    """A trace with a short name.

    Attributes:
        name: The short name; also its folder.
        reader: Name of the reader: ``mooncake``, ``kvt1`` or ``kvsess1``.
        files: File names within the folder, best first.
        options: Reader and materialisation options that go with the name.
        note: What those options are, for listings.
        source: Where it comes from, with the revision.
        licence: Under which it may be used, as an SPDX expression.
        citation: What to cite.
        collection: What ``kvevolve trace fetch`` downloads it with; empty if it cannot.
    """

    name: str
    reader: str
    files: tuple[str, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    note: str = ""
    source: str = ""
    licence: str = ""
    citation: str = ""
    collection: str = ""

    @property
    def origin(self) -> dict[str, str]:
        """Source, licence and citation."""
        return {"source": self.source, "licence": self.licence, "citation": self.citation}


_FAST25 = "github.com/kvcache-ai/Mooncake@3b5a594 FAST25-release"
_WANG = "Wang et al., KVCache Cache in the Wild, USENIX ATC'25, arXiv 2506.02634"
_QIN = "Qin et al., Mooncake: Trading More Storage for Less Computation, USENIX FAST'25"


def _mooncake(name: str, stem: str, folder: str = "traces") -> KnownTrace:
    """Return the entry of a trace of the FAST'25 release."""
    files = (f"{stem}.jsonl.gz", f"{stem}.jsonl")
    source = f"{_FAST25}/{folder}/{stem}.jsonl"
    return KnownTrace(name, "mooncake", files, {}, "b512", source, "Apache-2.0", _QIN, "mooncake")


def _bailian(name: str, stem: str) -> KnownTrace:
    """Return the entry of one of Alibaba Bailian's traces."""
    source = f"github.com/alibaba-edu/qwen-bailian-usagetraces-anon@5f7439c5 {stem}_blksz_16.jsonl"
    files = (f"{stem}_blksz_16.jsonl", f"{stem}_blksz_16.jsonl.gz")
    return KnownTrace(name, "bailian", files, {}, "b16, re-keyed", source, "Apache-2.0", _WANG, "bailian")


_WEKA = {"window_s": 14_400.0, "max_gap_s": 300.0, "shared_prefix": True, "block_tokens": 512, "seed": 0}
_ENTRIES = (
    _mooncake("mooncake_conversation", "conversation_trace"),
    _mooncake("mooncake_synthetic", "synthetic_trace"),
    _mooncake("mooncake_toolagent", "toolagent_trace"),
    _mooncake("mooncake_arxiv", "mooncake_trace", "arxiv-trace"),
    _bailian("bailian_a", "qwen_traceA"),
    _bailian("bailian_b", "qwen_traceB"),
    _bailian("bailian_coder", "qwen_coder"),
    _bailian("bailian_thinking", "qwen_thinking"),
    KnownTrace(
        "mooncake_toolagent_1000",
        "mooncake",
        ("mooncake_trace_1000.jsonl.gz", "mooncake_trace_1000.jsonl"),
        note="b512",
        source="github.com/wxsms/dynamo@2a6da14 lib/bench/testdata/mooncake_trace_1000.jsonl",
        licence="Apache-2.0",
        citation=_QIN,
    ),
    KnownTrace(
        "ragpulse",
        "kvt1",
        ("ragpulse_b16.kvt1.gz",),
        {"repair": "clip_input"},
        "b16, uncovered tail tokens clipped",
        "github.com/flashserve/RAGPulse@3672232d",
        "MIT",
        "RAGPulse technical report, arXiv 2511.12979",
    ),
    KnownTrace(
        "lmcache_agent",
        "kvsess1",
        ("lmcache_agent_sessions.jsonl.gz",),
        {"window_s": 600.0},
        "L1: 10 min, b16",
        "github.com/LMCache/lmcache-agent-trace@16a14ada",
        "Apache-2.0",
        "LMCache, lmcache-agent-trace",
    ),
    KnownTrace(
        "taubench_airline",
        "kvsess1",
        ("taubench_airline_sessions.jsonl.gz",),
        {"window_s": 600.0, "think_s": 3.0},
        "T1: 10 min, think 3 s, b16",
        "github.com/sierra-research/tau-bench@59a200c6 historical_trajectories/gpt-4o-airline.json",
        "MIT",
        "Yao et al., tau-bench, 2024",
    ),
    KnownTrace(
        "cc_weka_v8",
        "kvsess1",
        ("cc_weka_v8_sessions.jsonl.gz",),
        _WEKA,
        "W4: 4 h, gaps <= 300 s, shared system prefix, b512",
        "github.com/callanjfox/kv-cache-tester@94f6046d",
        "Apache-2.0",
        "C. Fox, WEKA, kv-cache-tester",
    ),
)

KNOWN_TRACES: Mapping[str, KnownTrace] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def user_cache_dir() -> Path:
    """Return the folder for downloads and derived files; it may not exist yet.

    ``$KVEVOLVE_CACHE``, else ``$XDG_CACHE_HOME/kvevolve``, else ``~/.cache/kvevolve``.
    """
    if explicit := os.environ.get(CACHE_VARIABLE):
        return Path(explicit)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "kvevolve"
    return Path.home() / ".cache" / "kvevolve"


def fetched_dir() -> Path:
    """Return the folder that ``workloads.fetch`` fills."""
    return user_cache_dir() / "traces"


def trace_dirs() -> list[Path]:
    """Return the folders searched for traces, in order; only existing ones.

    ``$KVEVOLVE_TRACES`` alone if it is set, else ``../shared/traces`` beside the repository, then the user cache.

    Raises:
        TraceError: ``$KVEVOLVE_TRACES`` is set but is not a folder (never silently replaced by another).
    """
    if explicit := os.environ.get(TRACES_VARIABLE):
        folder = Path(explicit)
        if not folder.is_dir():
            raise TraceError(f"${TRACES_VARIABLE} is {explicit!r}, which is not a folder - fix: correct or unset it")
        return [folder]
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "traces"
    return [folder for folder in (beside, fetched_dir()) if folder.is_dir()]


def known_trace(name: str) -> KnownTrace:
    """Return the entry of a short name.

    Raises:
        TraceError: unknown name, with a suggestion.
    """
    if name not in KNOWN_TRACES:
        raise unknown_name("trace", name, KNOWN_TRACES)
    return KNOWN_TRACES[name]


def find(name: str) -> Path | None:
    """Return the file of a known trace, or None if no searched folder has it."""
    entry = known_trace(name)
    for folder in trace_dirs():
        for file in entry.files:
            path = folder / entry.name / file
            if path.is_file():
                return path
    return None


def require(name: str) -> Path:
    """Return the file of a known trace.

    Raises:
        TraceError: it is in none of the searched folders; says where it was looked for and how to get it.
    """
    path = find(name)
    if path is None:
        entry = known_trace(name)
        fetch = f", or fetch it: kvevolve trace fetch {entry.collection} --only {name}" if entry.collection else ""
        searched = ", ".join(str(folder) for folder in trace_dirs()) or "no folder (none exists)"
        raise TraceError(
            f"trace {name!r} not found in {searched} - fix: set ${TRACES_VARIABLE} to the folder that holds"
            f" {name}/{entry.files[0]}{fetch}"
        )
    return path
