"""What lets generators reach 10^8 blocks changes no trace: ids chunk by chunk, prompts as nodes, no second copy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import Trace, TraceError, chains, combine, progress, runs, validation
from workloads.synthetic import GENERATORS, chat, zero_reuse
from workloads.synthetic.prompts import ROOT, PromptTree, RequestLog

FINGERPRINTS = {  # of requests=700, block_tokens=64, seed 11, before ids were numbered in chunks
    "agent": "3687db1f0b21b3d8",
    "chat": "2147fb5a3625b47a",
    "multi_tenant": "03f8ddd09406a69e",
    "phase_shift": "7bc430ca0db2b8f5",
    "rag": "d42cadf23541d031",
    "scan": "1055df4e644de799",
    "shared_system": "7ce72d295dd98d4c",
    "zero_reuse": "64576e6b099de3f3",
}


@pytest.mark.parametrize("name", sorted(FINGERPRINTS))
@pytest.mark.parametrize("chunk", [None, 100])
def test_traces_are_those_of_before(monkeypatch: pytest.MonkeyPatch, name: str, chunk: int | None) -> None:
    if chunk:
        monkeypatch.setattr(chains, "CHUNK_REFS", chunk)
    trace = GENERATORS[name](11, requests=700, block_tokens=64)
    assert trace.fingerprint[:16] == FINGERPRINTS[name]
    validation.check_stored(trace)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_merge_in_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    parts = [chat(1, requests=40, block_tokens=256), zero_reuse(2, requests=30, block_tokens=256)]
    want = Trace.merge(parts, "both").fingerprint
    monkeypatch.setattr(chains, "CHUNK_REFS", chunk)
    merged = Trace.merge(parts, "both")
    assert merged.fingerprint == want
    validation.check_stored(merged)


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 10))
def test_numbers_are_those_of_first_appearance(ids: list[int], chunk: int) -> None:
    number = chains.Numbering(31)
    dense = [number(np.array(ids[start : start + chunk], np.int64)) for start in range(0, len(ids), chunk)]
    order = list(dict.fromkeys(ids))
    assert np.concatenate([np.empty(0, np.int32), *dense]).tolist() == [order.index(i) for i in ids]
    assert number.count == len(order)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_chunks_of_rows_are_all_rows(lengths: list[int]) -> None:
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    found = list(chains.row_chunks(offsets))
    assert [row for start, stop in found for row in range(start, stop)] == list(range(len(lengths)))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(0, 3)), max_size=40), st.integers(1, 4))
def test_paths_are_what_was_appended(steps: list[tuple[int, int, int]], block_tokens: int) -> None:
    """Against a tree that remembers the segment of every single token."""
    tree = PromptTree(block_tokens)
    said: dict[int, tuple[object, ...]] = {ROOT: ()}
    for step, (at, tokens, key) in enumerate(steps):
        node = sorted(said)[at % len(said)]
        word = key or None
        child = tree.extend(node, tokens, word)
        if child not in said:
            said[child] = said[node] + tuple((word or f"fresh {step}", node, i) for i in range(tokens))
    nodes = np.array(sorted(said))
    rows, starts, lengths = tree.runs(nodes)
    assert tree.lengths(nodes).tolist() == [len(said[node]) for node in nodes.tolist()]
    offsets, ids = runs.expand(rows, starts, lengths)
    owner: dict[int, tuple[object, ...]] = {}
    for node, start, stop in zip(nodes.tolist(), offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        assert stop - start == len(said[node]) // block_tokens
        assert [block for first, count in tree.path(node) for block in range(first, first + count)] == ids[
            start:stop
        ].tolist()
        for position, block in enumerate(ids[start:stop].tolist()):
            prefix = said[node][: (position + 1) * block_tokens]
            assert owner.setdefault(block, prefix) == prefix  # equal id, equal whole prefix


def test_memory_is_bounded_by_the_ids() -> None:
    zero_reuse(0, requests=10)
    tracemalloc.start()
    trace = zero_reuse(0, requests=20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    chunks = 5 * 8 * chains.CHUNK_REFS
    assert trace.n_refs > 3_000_000
    assert peak < 8 * trace.n_refs + 400 * trace.n_requests + chunks


def test_too_many_references_are_refused_before_they_are_written() -> None:
    log = RequestLog(PromptTree(1))
    node = log.tree.extend(ROOT, 2**30)
    for arrival in range(2):
        log.add(float(arrival), node, 1, arrival, 0)
    with pytest.raises(TraceError, match=r"2,147,483,648 block references: expected at most 2,147,483,647"):
        log.trace("x", 2, {"seed": 0})


def test_merging_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [zero_reuse(seed, requests=3, block_tokens=256) for seed in (1, 2)]
    monkeypatch.setattr(combine, "INT32_MAX", parts[0].n_refs + parts[1].n_refs - 1)
    with pytest.raises(TraceError, match=r"cannot combine: .* block references, at most"):
        Trace.merge(parts, "both")


def test_generators_tell_progress() -> None:
    told: list[tuple[str, float, float | None]] = []
    with progress.listening(lambda *what: told.append(what)):
        zero_reuse(0, requests=17_000, block_tokens=2_048)
    assert ("making requests, thousands", 16.384, None) in told
    assert told[-1][0] == "writing out blocks, millions"
    assert told[-1][1] == told[-1][2]
