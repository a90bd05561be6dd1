"""``load``: specifications, options, where traces are looked for, and the published statistics of real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workloads import Trace, TraceError, known_traces, load, locate
from workloads.readers import kvt1, mooncake

MOONCAKE: list[dict[str, Any]] = [
    {"timestamp": 0, "input_length": 9, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 1500, "input_length": 8, "output_length": 0, "hash_ids": [0, 1]},
]
KVT1: list[dict[str, Any]] = [
    {"format": "kvt1", "name": "tiny", "block_size": 4},
    {"t": 0, "in": 9, "out": 5, "b": [[0, 2]]},
]
KVSESS1: list[dict[str, Any]] = [
    {"format": "kvsess1", "block_size": 4},
    {"session": "a", "tool_tokens": 5, "system_tokens": 3, "requests": [{"t": 0, "in": 9, "out": 5, "b": [[1, 2]]}]},
]


def write(path: Path, records: list[Any]) -> Path:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_load_by_kind_options_and_sniffing(tmp_path: Path) -> None:
    plain = write(tmp_path / "m.jsonl", MOONCAKE)
    want = mooncake.read(plain, 4).fingerprint
    assert load(f"mooncake:{plain}?block_tokens=4").fingerprint == want
    assert load(f"{plain}?block_tokens=4").fingerprint == want
    runs = write(tmp_path / "k.gz", KVT1)
    assert load(f"kvt1:{runs}").fingerprint == load(str(runs)).fingerprint == kvt1.read(runs).fingerprint
    sessions = write(tmp_path / "s.jsonl", KVSESS1)
    trace = load(f"kvsess1:{sessions}?window_s=100&max_gap_s=3.5&shared_prefix=1&block_tokens=8&seed=3")
    assert trace.provenance["materialisation"] == {
        "procedure": "traces.md section 7",
        "window_s": 100,
        "max_gap_s": 3.5,
        "think_s": None,
        "seed": 3,
        "shared_prefix": True,
        "block_tokens": 8,
        "use_recorded_starts": False,
    }
    trace.save(tmp_path / "x.npz")
    assert load(str(tmp_path / "x.npz")).fingerprint == trace.fingerprint
    assert load("synthetic:chat?seed=1&requests=40").n_requests == 40


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mooncake_conversaton", "did you mean 'mooncake_conversation'"),
        ("moncake:FILE", "did you mean 'mooncake'"),
        ("mooncake:FILE?block_size=4", "unknown option of mooncake 'block_size': did you mean 'block_tokens'"),
        ("mooncake:FILE?block_tokens=4.5", "option 'block_tokens': expected int"),
        ("mooncake:FILE?block_tokens=x", "option 'block_tokens': expected int"),
        ("mooncake:FILE?block_tokens=1", "give the trace's own block_tokens"),
        ("mooncake:FILE?block_tokens", "expected key=value"),
        ("mooncake:FILE?path=x", "unknown option"),
        ("kvsess1:FILE", "option 'window_s' is needed"),
        ("synthetic:chatt?seed=1", "did you mean 'chat'"),
        ("synthetic:chat", "option 'seed' is needed"),
        ("synthetic:chat?seed=-1", "seed: expected an integer >= 0"),
        ("nowhere/file.jsonl", "no such file"),
        ("nowhere.npz", "no such file"),
        ("OTHER", "not a known trace format"),
    ],
)
def test_load_refusals(tmp_path: Path, spec: str, words: str) -> None:
    file = write(tmp_path / "m.jsonl", MOONCAKE)
    other = write(tmp_path / "o.jsonl", [{"messages": []}])
    with pytest.raises(TraceError) as caught:
        load(spec.replace("FILE", str(file)).replace("OTHER", str(other)))
    assert words in str(caught.value)


def test_where_traces_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locate.TRACES_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(TraceError, match="not a folder"):
        load("mooncake_conversation")
    monkeypatch.setenv(locate.TRACES_VARIABLE, str(tmp_path))
    with pytest.raises(TraceError, match=r"not found in .*trace fetch mooncake"):
        load("mooncake_conversation")
    assert not any(known_traces().values())
    folder = tmp_path / "mooncake_synthetic"
    folder.mkdir()
    row = {"timestamp": 0, "input_length": 513, "output_length": 5, "hash_ids": [0, 1]}
    write(folder / "synthetic_trace.jsonl", [row])
    assert load("mooncake_synthetic").name == "mooncake_synthetic"
    assert load("mooncake_synthetic?name=x").name == "x"
    monkeypatch.delenv(locate.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert locate.user_cache_dir() == tmp_path / "kvevolve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert locate.user_cache_dir() == Path.home() / ".cache" / "kvevolve"


# ---- real files ------------------------------------------------------------------------------------------------------

# traces.md section 4: requests, span s, all references (for Mooncake with the partial tail ids), then engines.md
# section 1 / own count: full-block references, distinct full blocks; input mean / p50 / p90 / p99, output likewise.
PUBLISHED = {
    "mooncake_conversation": (12_031, 3_537, 288_500, 276_491, 170_899, (12035, 6909, 27367, 85400), (343, 350, 597, 1119)),  # noqa: E501
    "mooncake_synthetic": (3_993, 1_022, 121_877, 117_888, 40_148, (15326, 11587, 38611, 66456), (149, 69, 389, 768)),
    "mooncake_toolagent_1000": (1_000, 177, 19_686, 18_689, 11_221, (9792, 6558, 19789, 77828), (199, 34, 534, 831)),
    "ragpulse": (7_106, 604_603, 1_300_057, 1_300_057, 889_182, (2944, 3140, 3958, 5438), (283, 234, 563, 891)),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_statistics(real_trace: Callable[[str], Trace], name: str) -> None:
    requests, span_s, all_refs, refs, blocks, inputs, outputs = PUBLISHED[name]
    trace = real_trace(name)
    assert (trace.n_requests, round(trace.span_s), trace.n_refs, trace.n_blocks) == (requests, span_s, refs, blocks)
    tails = trace.provenance.get("partial_tail_ids_dropped", 0)
    assert isinstance(tails, int)
    assert refs + tails == all_refs
    clipped = trace.provenance["repairs"]
    assert isinstance(clipped, dict)
    # RAGPulse's published lengths include the tokens no id covers, which clip_input takes off (2.7 per request)
    lengths = trace.input_tokens
    mean = (trace.prompt_tokens + clipped.get("clip_input_tokens", 0)) / requests
    assert mean == pytest.approx(inputs[0], abs=0.6)  # published after rounding twice
    if not clipped:
        assert [round(q) for q in np.percentile(lengths, [50, 90, 99])] == list(inputs[1:])
    assert round(trace.output_tokens.mean()) == outputs[0]
    assert [round(q) for q in np.percentile(trace.output_tokens, [50, 90, 99])] == list(outputs[1:])


def test_conversation_facts_of_engines_md(real_trace: Callable[[str], Trace]) -> None:
    trace = real_trace("mooncake_conversation")
    assert trace.n_refs - trace.n_blocks == 105_592  # infinite-cache hits
    assert trace.provenance["partial_tail_ids_dropped"] == 12_009
    assert int((trace.block_ids == 0).sum()) == 12_031  # block 0 is in every request
    assert len(np.unique(trace.arrival_s)) == 1_180
    uses = np.bincount(trace.block_ids)
    assert round(100 * float((uses == 1).mean())) == 74


def test_ragpulse_sessions(real_trace: Callable[[str], Trace]) -> None:
    trace = real_trace("ragpulse")
    assert trace.session is not None
    assert trace.turn is not None
    assert len(np.unique(trace.session)) == 3_990
    assert int((trace.turn == 0).sum()) == 3_990
    assert trace.provenance["repairs"] == {"clip_input": 3_840, "clip_input_tokens": 19_146}
