"""A replay in steps is the replay in one piece, request by request, whatever the steps and however scarce ids are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces

from sim.core import idmap
from sim.core.replay import NONE, frozen
from sim.policy.compiler import compile_policy
from sim.policy.program import Policy
from sim.simulation import PolicyError, simulate
from sim.streaming import stream
from workloads import Trace, TraceError, parquet
from workloads.batch import Batch, batch_of
from workloads.manifest import Manifest

SOURCES = {
    "timeless": "def priority(block, cache):\n    return block.released\n",
    "exact": "def priority(block, cache):\n    return block.seen / (cache.now - block.inserted + 1.0) + block.turn\n",
    "touch": 'SCORING = "touch"\ndef priority(block, cache):\n    return block.gap + cache.pressure + block.tenant\n',
    "turns": (
        "def priority(block, cache):\n"
        "    return block.s0 - block.age / (1.0 + cache.usual_gap) + block.output_tokens / 9.0\n"
        "def on_insert(block, request, cache):\n    block.s0 = request.inferred_turn + cache.continued\n"
        "def on_hit(block, request, cache):\n"
        "    block.s0 = request.known_blocks - min(request.turn_gap, 99.0) - min(request.turn_gap_s, 99.0)\n"
    ),
    "hooks": (
        "def priority(block, cache):\n    return block.s0 + block.children\n"
        "def admit(block, request, cache):\n    return block.seen > 1 or request.hit_blocks > 0 or cache.s0 < 3\n"
        "def on_hit(block, request, cache):\n    block.s0 += 1\n"
        "def on_insert(block, request, cache):\n    cache.s0 += 1\n    block.s1 = cache.now\n"
        "def on_evict(block, cache):\n    cache.s0 -= 1\n    block.s0 = block.s1\n"
    ),
}
COMPILED = {name: compile_policy(Policy.from_source(source, name)) for name, source in SOURCES.items()}
COLUMNS = ("hit_blocks_per_request", "start_s")


@pytest.fixture
def parquet_of(tmp_path):
    """Return a function that writes a trace and opens it."""

    def write(trace: Trace) -> parquet.ParquetTrace:
        path = tmp_path / "trace.parquet"
        parquet.write(trace, path)
        return parquet.open_parquet(path)

    return write


def same(streamed, whole) -> None:
    """Assert that two results are equal, every number and every request."""
    for field in dataclasses.fields(whole):
        a, b = getattr(streamed, field.name), getattr(whole, field.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, field.name)
        else:
            assert a == b, field.name


@given(
    random_traces(),
    st.sampled_from(["native", *SOURCES]),
    st.integers(1, 25),
    st.integers(1, 60),
    st.sampled_from(["serial", "overlap"]),
    st.sampled_from([0, 1, 4, 64_000]),
    st.booleans(),
    st.sampled_from([1, 3, 256]),
)
def test_steps_change_nothing(parquet_of, trace, policy, capacity, refs, mode, ghosts, orphans, running):
    options = {"mode": mode, "ghost_blocks": ghosts, "orphans": orphans, "max_running": running}
    options |= {"prefill_tokens_per_s": 100.0, "clock_origin": 5}
    chosen = COMPILED.get(policy, policy)
    whole = simulate(trace, chosen, capacity, **options)
    same(stream(parquet_of(trace), chosen, capacity, batch_refs=refs, **options), whole)


@pytest.mark.parametrize("policy", ["native", *SOURCES])
def test_ids_are_recycled_and_nothing_is_lost(parquet_of, monkeypatch, policy):
    # 400 new prompts of 5 blocks, after each a common one: a cache of 8 blocks and 4 ghosts knows 12 of 2,005 blocks.
    prompts = [[0, 1, 2, 3, 4] if i % 2 else [*range(5 * i + 5, 5 * i + 10)] for i in range(800)]
    trace = hand_trace(prompts, [53] * 800)
    collected = []
    monkeypatch.setattr(idmap, "collect", lambda ids, marks: (collected.append(marks), COLLECT(ids, marks))[1])
    chosen = COMPILED.get(policy, policy)
    streamed = stream(parquet_of(trace), chosen, 8, batch_refs=10, ghost_blocks=4)
    same(streamed, simulate(trace, chosen, 8, ghost_blocks=4))
    assert len(collected) > 50
    assert {marks.size for marks in collected} == {2 * (8 + (4 if policy != "native" else 0)) + 10}


COLLECT = idmap.collect


def test_real_trace_in_steps(real_trace, tmp_path):
    trace = real_trace("mooncake_conversation").slice(0, 3000)
    parquet.write(trace, tmp_path / "a.parquet")
    for policy, mode in (("native", "overlap"), ("lru_frequency", "overlap"), ("gdsf", "serial")):
        streamed = stream(tmp_path / "a.parquet", policy, "5%", batch_refs=5_000, ghost_blocks=1_000, mode=mode)
        same(streamed, simulate(trace, policy, "5%", ghost_blocks=1_000, mode=mode))


def test_progress_ends_at_the_whole_trace(parquet_of):
    trace, told = hand_trace([[0, 1], [0], [0, 1, 2]], [20, 13, 30]), []
    stream(parquet_of(trace), "native", 4, batch_refs=3, progress=lambda done, refs: told.append((done, refs)))
    assert told == [(2, 6), (3, 6), (6, 6)]


def test_errors_number_requests_of_the_whole_trace(parquet_of):
    # Two blocks of the first five requests are cached; the score of a block of request 5 is not finite.
    trace = hand_trace([[i, 10 + i] for i in range(9)], [20] * 9, tenant=[0, 0, 0, 0, 0, 1, 0, 0, 0])
    source = 'SCORING = "touch"\ndef priority(block, cache):\n    return 1.0 / (block.tenant - 1.0)\n'
    policy = compile_policy(Policy.from_source(source, "broken"))
    with pytest.raises(PolicyError, match=r"broken: .* at request 5;"):
        stream(parquet_of(trace), policy, 8, batch_refs=4)


def test_a_broken_chain_is_refused_with_its_place(tmp_path):
    path = tmp_path / "a.parquet"
    text = r"row group 0, row 1: field 'block_ids': block id 8 at position 1 follows block id 9"
    ids, tokens = np.array([7, 8, 9, 8], np.uint64), np.array([4, 4], np.int32)
    batch = Batch(np.array([0, 2, 4]), ids, np.zeros(2), tokens, tokens)
    parquet.write_batches([batch], path, Manifest("chains", 2))
    with pytest.raises(TraceError, match=text):
        stream(path, "native", 4)
    with pytest.raises(TraceError, match=text):
        parquet.read(path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"decode": "infer"}, "decode 'infer' cannot be streamed.*decode='none'"),
        ({"decode": "private"}, "decode 'private' cannot be streamed"),
        ({"capacity": "5%"}, "number of distinct blocks is not known.*give blocks"),
        ({"batch_refs": 0}, "batch_refs 0"),
        ({"engine": "vllm<=0.22"}, "its own policies only"),
        ({"ghosts": 3}, "no parameter 'ghosts'"),
    ],
)
def test_what_cannot_be_streamed_is_refused(tmp_path, options, text):
    path = tmp_path / "a.parquet"
    parquet.write_batches([batch_of(hand_trace([[0]], [10]))], path, Manifest("small", 10))
    with pytest.raises(ValueError, match=text):
        stream(path, "lru", **({"capacity": 4} | options))


KEYS = np.array([0, 1, 2**32, 2**64 - 1, 2**63, 5 << 32, 0x9E3779B97F4A7C15, 42, 43, 44, 45, 46], np.uint64)


@given(st.data(), st.integers(12, 16))
def test_dense_ids_name_blocks(data, n_ids):
    """Against a dict: equal ids for equal keys while a block is kept, and never one id for two."""
    ids, known = idmap.new_idmap(n_ids), {}
    tree = {0: None} | {k: data.draw(st.integers(0, k - 1)) for k in range(1, len(KEYS))}
    for _ in range(data.draw(st.integers(1, 12))):
        node, path = data.draw(st.integers(0, len(KEYS) - 1)), []
        while node is not None:
            path.append(node)
            node = tree[node]
        path = path[::-1][:6]
        keys, out = KEYS[path], np.zeros(len(path), np.uint32)
        arguments = frozen(np.array([0, len(path)]), np.int64), frozen(keys, np.uint64), frozen(np.ones(1), np.bool_)
        if idmap.map_requests(ids, *arguments, 0, out) == 0:
            assert ids.n_vacant[0] < len(path)
            kept = set(data.draw(st.lists(st.sampled_from(sorted(known)), max_size=3))) if known else set()
            marks = np.zeros(n_ids, np.uint8)
            marks[[known[key] for key in kept]] = idmap.LIVE
            idmap.collect(ids, marks)
            parents = {int(ids.parents[known[key]]) for key in kept} - {int(NONE), int(idmap.UNKNOWN)}
            known = {key: dense for key, dense in known.items() if key in kept or dense in parents}
            assert ids.n_vacant[0] == n_ids - len(known)
            assert idmap.map_requests(ids, *arguments, 0, out) == 1
        for key, dense in zip(keys.tolist(), out.tolist(), strict=True):
            assert known.setdefault(key, dense) == dense
        assert len(set(known.values())) == len(known)
        assert ids.parents[out[0]] == NONE
        assert ids.parents[out[1:]].tolist() == out[:-1].tolist()


def test_a_map_larger_than_32_bits_is_refused():
    with pytest.raises(ValueError, match="smaller cache or ghost list"):
        idmap.new_idmap(2**31)
