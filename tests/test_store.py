"""What is written comes back, with its manifest: npz, Parquet, and the text formats of other tools."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import extra
from hypothesis import given, settings
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces

from workloads import Trace, TraceError, formats, load, npz, sidecar
from workloads.manifest import ORIGIN, Manifest, manifest_of, origin_of, stated

TRACE = stated(
    hand_trace([[0, 1], [0], [2, 3, 4]], [25, 13, 30], session=[5, 5, -1], turn=[0, 1, -1], arrival_s=[0, 0.1, 2.5]),
    source="a server",
    licence="MIT",
    citation="A. Author, 2026",
)
KINDS = {"npz": ".npz", "parquet": ".parquet", "mooncake": ".jsonl.gz", "kvt1": ".kvt1"}


def written(trace: Trace, folder, kind: str) -> str:
    """Write a trace in a format; return the specification that reads it."""
    if kind == "parquet":
        extra("pyarrow")
    path = folder / f"trace{KINDS[kind]}"
    formats.writer(path).write(trace, path)
    return f"{path}?block_tokens={trace.block_tokens}" if kind == "mooncake" else str(path)


def nested(depth: int) -> dict:
    """Return a provenance of parts of parts."""
    return {"parts": [nested(depth - 1)]} if depth else {}


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_survives(tmp_path, kind):
    again = load(written(TRACE, tmp_path, kind))
    assert again.name == TRACE.name
    assert origin_of(again.provenance) == {"source": "a server", "licence": "MIT", "citation": "A. Author, 2026"}
    assert manifest_of(again).fingerprint == again.fingerprint
    assert manifest_of(again).tool.startswith("kvevolve")


@settings(max_examples=30)
@given(random_traces(), st.permutations(list(KINDS)), st.floats(0, 1e6))
def test_formats_give_the_same_trace_in_any_order(tmp_path, trace, order, start_s):
    # text formats have no place for a tenant, and number sessions and turns anew
    trace = replace(trace, tenant=None, arrival_s=(trace.arrival_s + start_s).round(6))
    for kind in order:
        again = load(written(trace, tmp_path, kind))
        assert again.block_ids.tolist() == trace.block_ids.tolist()
        assert again.offsets.tolist() == trace.offsets.tolist()
        assert again.arrival_s == pytest.approx(trace.arrival_s, abs=1e-9)
        for name in ("input_tokens", "output_tokens", "turn"):
            found, kept = getattr(again, name), getattr(trace, name)
            assert kept is None if found is None else found.tolist() == kept.tolist()
        if trace.session is not None:
            pairs = set(zip(trace.session.tolist(), again.session.tolist(), strict=True))
            assert len(pairs) == len(set(trace.session.tolist())) == len(set(again.session.tolist()))
        trace = again


def test_times_in_ms_come_back_exactly(tmp_path, real_trace):
    trace = real_trace("mooncake_conversation")
    for kind in ("mooncake", "kvt1"):
        again = load(written(trace, tmp_path, kind))
        assert again.fingerprint == trace.fingerprint
        assert origin_of(again.provenance) == origin_of(trace.provenance)


def test_mooncake_lists_a_fresh_id_for_each_partial_tail(tmp_path):
    path = tmp_path / "t.jsonl"
    formats.writer(path).write(TRACE, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [
        {"timestamp": 0, "input_length": 25, "output_length": 0, "hash_ids": [0, 1, 5], "session_id": "5"},
        {"timestamp": 100, "input_length": 13, "output_length": 0, "hash_ids": [0, 6], "session_id": "5"},
        {"timestamp": 2500, "input_length": 30, "output_length": 0, "hash_ids": [2, 3, 4]},
    ]
    whole = load(f"{path}?block=10&partial_tail=block")
    assert whole.n_blocks == TRACE.n_blocks + 2


def test_kvt1_lists_runs(tmp_path):
    path = tmp_path / "t.kvt1.gz"
    trace = hand_trace([[0, 1, 2], [0, 1, 3, 4], []], [30, 45, 3])
    formats.writer(path).write(trace, path)
    header, *rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert (header["format"], header["block_size"]) == ("kvt1", 10)
    assert [row["b"] for row in rows] == [[[0, 3]], [[0, 2], [3, 2]], []]
    first = path.read_bytes()
    formats.writer(path).write(trace, path)
    assert path.read_bytes() == first  # no clock in it


def test_a_manifest_belongs_to_its_file(tmp_path):
    spec = written(TRACE, tmp_path, "mooncake")
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(
        gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"output_length":0', b'"output_length":1'))
    )
    with pytest.raises(TraceError, match=r"is not the file it was written with - fix: remove"):
        load(spec)
    sidecar.beside(path).write_text("{")
    with pytest.raises(TraceError, match=r"manifest.json: its manifest is not JSON - fix"):
        load(spec)
    sidecar.beside(path).unlink()
    assert load(spec).output_tokens.tolist() == [1, 1, 1]


def test_known_traces_say_where_they_come_from(real_trace):
    for name in ("mooncake_conversation", "ragpulse", "taubench_airline"):
        assert all(origin_of(real_trace(name).provenance).values())


def test_parts_carry_all_their_origins():
    other = stated(TRACE, source="b", licence="Apache-2.0", citation="B")
    both = Trace.merge([TRACE, other, TRACE, hand_trace([[0]], [10])], "all")
    assert origin_of(both.provenance) == {
        "source": "a server; b",
        "licence": "MIT AND Apache-2.0",
        "citation": "A. Author, 2026; B",
    }
    again = Trace.concat([both, both], "twice")
    assert origin_of(again.provenance) == origin_of(both.provenance)
    assert origin_of(again.slice(0, 2).provenance) == origin_of(both.provenance)
    assert origin_of(stated(both, licence="MIT").provenance)["licence"] == "MIT"


def test_synthetic_traces_say_so():
    said = origin_of(load("synthetic:chat?seed=1&requests=50").provenance)
    assert said["source"].endswith("synthetic:chat")
    assert said["licence"] == "none (synthetic)"
    assert set(said) == set(ORIGIN)


def test_older_files_are_refused_with_the_fix(tmp_path):
    path = tmp_path / "old.npz"
    meta = {"format": npz.FORMAT, "version": 1, "name": "x", "block_tokens": 10, "fingerprint": "", "provenance": {}}
    np.savez(path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **TRACE.columns())
    with pytest.raises(
        TraceError, match=r"old.npz: manifest: expected .* version 2, got .*1}; fix: make the file again"
    ):
        load(str(path))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": 5}, "'name': expected str, got 5"),
        ({"block_tokens": True}, "'block_tokens': expected int, got True"),
        ({"licence": None}, "'licence': expected str, got None"),
        ({"provenance": []}, "'provenance': expected dict"),
        ({"distinct_blocks": "5"}, "'distinct_blocks': expected int"),
        ({"block_tokens": 0}, "block_tokens"),
        ({"provenance": nested(60)}, "nested more than 100 deep"),
    ],
)
def test_broken_manifests_are_refused(tmp_path, change, text):
    meta = {"format": npz.FORMAT, "version": npz.VERSION, **manifest_of(TRACE).to_dict(), **change}
    np.savez(tmp_path / "t.npz", meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **TRACE.columns())
    with pytest.raises(TraceError, match=text):
        load(str(tmp_path / "t.npz"))


def test_a_foreign_manifest_fills_the_provenance():
    said = Manifest("x", 10, source="s", licence="l")
    assert origin_of(said.full_provenance()) == {"source": "s", "licence": "l", "citation": ""}
    assert manifest_of(TRACE).full_provenance() is TRACE.provenance


def test_an_archive_that_would_unpack_to_too_much_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", meta=np.zeros(10_000_000, np.uint8))
    with pytest.raises(TraceError, match=r"bomb\.npz: .*would unpack to 10,000,128 bytes"):
        npz.read(tmp_path / "bomb.npz")
